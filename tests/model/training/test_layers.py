"""What is pasted into a scene, and what of the rest is still to be clicked at."""

import numpy as np
import pytest

from model.training import layers
from model.training.canvas import Candidate, Canvas, Kind, Layer
from model.training.pack import Mask, Picture, Pixels
from model.training.regions import add_regions
from model.training.views import View, view_of, view_of_photograph
from tests.model.training.packs import cutout, disc, encoded, photograph, striped

SIDE = 128
GROUND: Pixels = np.full((SIDE, SIDE, 3), (20, 20, 200), np.uint8)


def layer(mask: Mask, colour: int = 255) -> Layer:
    return Layer(np.full((*mask.shape, 3), colour, np.uint8), mask.astype(np.uint8) * np.uint8(255))


def at(x: float, y: float, radius: float) -> Mask:
    return disc(SIDE, SIDE, centre=(x, y), radius=radius)


@pytest.mark.parametrize("seed", range(12))
def test_the_mask_lies_on_what_was_pasted(seed: int) -> None:
    pasted = layers.instance(photograph(), 0, GROUND, np.random.default_rng(seed))
    canvas = Canvas(GROUND)
    canvas.paste(pasted)
    mask = canvas.candidates[0].mask
    assert max(np.ptp(np.nonzero(mask)[0]), np.ptp(np.nonzero(mask)[1])) + 3 >= 0.15 * SIDE
    red = canvas.picture[..., 0].astype(int) > 90
    assert (red & mask).sum() > 0.93 * mask.sum()
    assert (red & ~mask).sum() < 0.1 * mask.sum()
    np.testing.assert_array_equal(canvas.picture[pasted.alpha == 0], GROUND[pasted.alpha == 0])


@pytest.mark.parametrize("seed", range(8))
def test_what_a_photograph_cuts_off_the_frame_cuts_off(seed: int) -> None:
    mask = disc(120, 160, centre=(80, 119), radius=40)
    picture = Picture(striped(120, 160, 40), (encoded(mask),), "coco-mini", "a.jpg")
    pasted = layers.instance(picture, 0, GROUND, np.random.default_rng(seed))
    assert pasted.mask[-1].any()


@pytest.mark.parametrize("seed", range(12))
def test_a_cutout_has_no_dark_seam(seed: int) -> None:
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pasted = layers.cutout(cutout(), white, white, np.random.default_rng(seed))
    edge = (pasted.alpha > 60) & (pasted.alpha < 250)
    assert pasted.rgb[edge].min() > 0.6 * pasted.rgb[pasted.alpha == 255].mean()


def test_a_shadow_darkens_and_is_no_part_of_the_mask() -> None:
    shadowed = [
        pasted
        for seed in range(20)
        if (pasted := layers.cutout(cutout(), GROUND, GROUND, np.random.default_rng(seed))).shadow is not None
    ]
    assert shadowed
    for pasted in shadowed:
        canvas = Canvas(GROUND)
        canvas.paste(pasted)
        outside = (pasted.alpha == 0) & (pasted.shadow > 20)
        assert (canvas.picture[outside] < GROUND[outside] + 1).all()
        assert (canvas.picture[outside][:, 2] < 200).all()
        np.testing.assert_array_equal(canvas.candidates[0].mask, pasted.alpha >= 128)


def test_a_click_on_a_nested_shape_may_mean_whole_part_or_rest() -> None:
    surfaces = (striped(SIDE, SIDE, 0), striped(SIDE, SIDE, 250))
    nested = [
        pasted
        for seed in range(20)
        if (pasted := layers.shape(GROUND, surfaces, np.random.default_rng(seed))).parts
    ]
    assert 4 < len(nested) < 16
    for pasted in nested:
        inner, rest = pasted.parts
        assert not (inner & rest).any()
        np.testing.assert_array_equal(inner | rest, pasted.mask)


def test_what_is_hidden_leaves_the_mask() -> None:
    canvas = Canvas(GROUND)
    canvas.paste(layer(at(50, 64, 30), 255))
    canvas.paste(layer(at(80, 64, 30), 99))
    below, above = canvas.candidates
    np.testing.assert_array_equal(below.mask, at(50, 64, 30) & ~at(80, 64, 30))
    np.testing.assert_array_equal(above.mask, at(80, 64, 30))
    assert (canvas.picture[below.mask] == 255).all()
    assert (canvas.picture[above.mask] == 99).all()
    assert canvas.is_worth_a_click(below)


def test_what_is_nearly_hidden_is_nothing_to_click_at() -> None:
    canvas = Canvas(GROUND)
    canvas.paste(layer(at(60, 64, 30)))
    canvas.paste(layer(at(64, 64, 30)))
    assert [canvas.is_worth_a_click(candidate) for candidate in canvas.candidates] == [False, True]
    np.testing.assert_array_equal(canvas.choose(2, np.random.default_rng(0)), [at(64, 64, 30)] * 2)


@pytest.mark.parametrize(
    "mask", [at(64, 64, 2), np.ones((SIDE, SIDE), np.bool_)], ids=["small", "everything"]
)
def test_specks_and_everything_are_nothing_to_click_at(mask: Mask) -> None:
    canvas = Canvas(GROUND)
    canvas.add(mask, Kind.OBJECT)
    assert len(canvas.choose(2, np.random.default_rng(0))) == 0


def test_neighbours_can_be_meant_together() -> None:
    canvas = Canvas(GROUND)
    rider, horse, other = at(40, 30, 14), at(40, 62, 18), at(105, 105, 15)
    for mask in (rider, horse, other):
        canvas.add(mask, Kind.OBJECT)
    canvas.add_unions()
    (union,) = (candidate for candidate in canvas.candidates if candidate.kind is Kind.UNION)
    np.testing.assert_array_equal(union.mask, rider | horse)


def test_kinds_keep_their_share_and_large_masks_come_first() -> None:
    canvas = Canvas(GROUND)
    large, small = at(40, 40, 30), at(100, 100, 8)
    canvas.candidates = [Candidate(mask, Kind.OBJECT, int(mask.sum())) for mask in (large, small)]
    for x in range(20, 100, 8):
        canvas.add(at(x, 110, 9), Kind.REGION)
    first = [canvas.choose(1, np.random.default_rng(seed))[0] for seed in range(300)]
    of_large = sum(np.array_equal(mask, large) for mask in first)
    of_small = sum(np.array_equal(mask, small) for mask in first)
    share = Kind.OBJECT.value / (Kind.OBJECT.value + Kind.REGION.value)
    assert abs((of_large + of_small) / 300 - share) < 0.04
    assert of_large > 8 * of_small > 0  # 14 times the pixels


def regions_of(labels: Pixels, *instances: Mask) -> list[Mask]:
    """All that comes up in many draws."""
    found = []
    for seed in range(20):
        canvas = Canvas(GROUND)
        for instance in instances:
            canvas.add(instance, Kind.OBJECT)
        add_regions(canvas, labels, np.random.default_rng(seed))
        found += [candidate.mask for candidate in canvas.candidates if candidate.kind is Kind.REGION]
    return found


def quarters() -> Pixels:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[64:] += 1
    labels[:, 64:] += 2
    return labels


def test_regions_come_alone_and_with_neighbours() -> None:
    sizes = {round(4 * region.mean()) for region in regions_of(quarters())}
    assert sizes == {1, 2, 3}


def test_a_region_across_the_edge_of_an_instance_is_left_out() -> None:
    across = at(32, 32, 22)
    within = at(96, 96, 60)
    found = regions_of(quarters(), across)
    assert found
    assert not any(region[32, 32] and region.mean() < 0.3 for region in found)
    assert any(region[96, 96] for region in regions_of(quarters(), within))


def test_a_ragged_region_is_left_out() -> None:
    """Both together are the whole frame, which is smooth, and nothing to click at."""
    y, _ = np.mgrid[:SIDE, :SIDE]
    combed = (y // 4 % 2).astype(np.uint8)
    combed[:, :4] = 1
    assert all(region.all() for region in regions_of(combed))


def test_a_view_of_all_is_the_picture() -> None:
    picture = striped(SIDE, SIDE, 40)
    middle = ((SIDE - 1) / 2, (SIDE - 1) / 2)
    np.testing.assert_array_equal(view_of(middle, (SIDE, SIDE), SIDE).see(picture), picture)
    mirrored = view_of(middle, (SIDE, SIDE), SIDE, mirrored=True)
    np.testing.assert_array_equal(mirrored.see(picture), picture[:, ::-1])


@pytest.mark.parametrize("factor", [2, 4])
def test_what_is_shrunk_stays_in_place(factor: int) -> None:
    big = disc(factor * SIDE, factor * SIDE, centre=(factor * 40, factor * 70), radius=factor * 25)
    view: View = view_of(((factor * SIDE - 1) / 2,) * 2, (factor * SIDE,) * 2, SIDE)
    shift = (factor - 1) / 2 / factor
    seen = view.see_mask(big)
    assert (seen ^ at(40 - shift, 70 - shift, 25)).sum() < 40


@pytest.mark.parametrize("seed", range(10))
def test_a_view_of_an_object_shows_it(seed: int) -> None:
    picture = photograph()
    left, top, w, h = picture.boxes[0]
    view = view_of_photograph(picture.pixels, (left, top, w, h), SIDE, np.random.default_rng(seed))
    seen = view.see_mask(picture.mask(0))
    assert seen.mean() > 0.01
    red = view.see(picture.pixels)[..., 0] > 130
    assert (red ^ seen).sum() < 0.05 * seen.sum() + 60
