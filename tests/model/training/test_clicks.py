"""Where the next click falls: on one object as the protocol has it, and on a whole batch alike."""

import numpy as np
import pytest
import torch

from model.training.clicks import Click, Mask, central_click
from model.training.corrections import (
    _by_opencv,
    _by_rows,
    correcting_clicks,
    jittered_boxes,
    moved_masks,
)
from tests.model.training.packs import disc


def blank(h: int = 20, w: int = 30) -> Mask:
    return np.zeros((h, w), bool)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = blank()
    mask[y0:y1, x0:x1] = True
    return mask


def blobs(seed: int, count: int = 6) -> Mask:
    """(count, 24, 32): discs here and there, with holes."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 24, 32), bool)
    for mask in masks:
        for _ in range(4):
            mask ^= disc(24, 32, centre=tuple(rng.uniform(0, 30, 2)), radius=rng.uniform(2, 9))
    return masks


def click(
    truth: Mask, prediction: Mask, excluded: Mask, *, share_central: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The batch's clicks, as arrays."""
    cells, is_object = correcting_clicks(
        *map(torch.from_numpy, (truth, prediction)),
        excluded=torch.from_numpy(excluded),
        share_central=share_central,
        generator=torch.Generator().manual_seed(seed),
    )
    return cells.numpy(), is_object.numpy()


def test_the_first_click_is_in_the_middle() -> None:
    assert central_click(rectangle(5, 4, 12, 11), blank(), excluded=blank()) == Click(8, 7, is_object=True)


def test_the_border_of_the_picture_counts_as_boundary() -> None:
    assert central_click(rectangle(0, 0, 7, 7), blank(), excluded=blank()) == Click(3, 3, is_object=True)


def test_the_larger_error_is_corrected_whichever_it_is() -> None:
    truth = rectangle(0, 0, 9, 9)
    assert central_click(truth, truth | rectangle(20, 5, 25, 10), excluded=blank()) == Click(
        22, 7, is_object=False
    )
    missing = truth & ~rectangle(1, 1, 8, 8)
    assert central_click(truth, missing | rectangle(20, 5, 25, 10), excluded=blank()) == Click(
        4, 4, is_object=True
    )


def test_what_is_right_is_not_clicked() -> None:
    truth = rectangle(5, 4, 12, 11)
    assert central_click(truth, truth, excluded=blank()) is None


def test_no_pixel_is_clicked_twice() -> None:
    truth, excluded = rectangle(3, 3, 7, 6), blank()
    made = []
    while (found := central_click(truth, blank(), excluded=excluded)) is not None:
        made.append((found.x, found.y))
        excluded[found.y, found.x] = True
    assert sorted(made) == sorted((x, y) for x in range(3, 7) for y in range(3, 6))


def test_a_batch_is_clicked_where_each_of_its_masks_would_be() -> None:
    truth, prediction, excluded = blobs(1), blobs(2), blobs(3)
    cells, is_object = click(truth, prediction, excluded)
    for i, (x, y) in enumerate(cells):
        assert central_click(truth[i], prediction[i], excluded=excluded[i]) == Click(x, y, bool(is_object[i]))


def test_other_clicks_are_anywhere_in_the_error() -> None:
    truth, prediction, excluded = blobs(1, 1), blobs(2, 1), blobs(3, 1)
    wrong = (truth ^ prediction) & ~excluded
    seen = np.zeros_like(wrong)
    for seed in range(600):
        ((x, y),), (is_object,) = click(truth, prediction, excluded, share_central=0.0, seed=seed)
        assert is_object == truth[0, y, x]
        seen[0, y, x] = True
    assert not (seen & ~wrong).any()
    assert seen.sum() > 0.7 * wrong.sum()


def test_where_nothing_is_wrong_a_click_confirms_it() -> None:
    truth, excluded = blobs(1), blobs(3)
    cells, is_object = click(truth, truth, excluded, share_central=0.5)
    for i, (x, y) in enumerate(cells):
        assert not excluded[i, y, x]
        assert is_object[i] == truth[i, y, x]


def test_distances_are_the_same_on_every_device() -> None:
    regions = torch.from_numpy(
        np.concatenate([blobs(4), np.ones((1, 24, 32), bool), np.zeros((1, 24, 32), bool)])
    )
    torch.testing.assert_close(_by_rows(regions), _by_opencv(regions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_boxes_are_about_their_masks(share: float) -> None:
    masks = torch.from_numpy(np.stack([rectangle(5, 4, 25, 14), rectangle(0, 0, 30, 20)] * 200))
    boxes = jittered_boxes(masks, share=share, generator=torch.Generator().manual_seed(0))
    exact = torch.tensor([[5.0, 4, 25, 14], [0, 0, 30, 20]]).repeat(200, 1)
    reach = share * torch.tensor([[20.0, 10, 20, 10], [30, 20, 30, 20]]).repeat(200, 1)
    moved = (boxes - exact).abs()
    assert (moved <= reach + 1e-4).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([30, 20])).all()
    assert (moved[::2].amax(0) >= 0.9 * reach[0]).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_moved_masks_are_about_as_large_and_near(share: float) -> None:
    masks = torch.from_numpy(np.stack([rectangle(9, 8, 21, 14)] * 200))
    moved = moved_masks(masks, share=share, generator=torch.Generator().manual_seed(0))
    boxes = jittered_boxes(moved, share=0.0, generator=torch.Generator())
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    exact, ratios = torch.tensor([12.0, 6]), torch.tensor([-share, share]).exp()
    off = (centres - torch.tensor([15.0, 11])).abs().amax(0)
    assert (off <= share * exact + 0.5).all()
    assert ((sizes >= ratios[0] * exact - 1) & (sizes <= ratios[1] * exact + 1)).all()
    if share:
        assert (off >= 0.8 * share * exact).all()
        assert (sizes.amax(0) > exact).all()
        assert (sizes.amin(0) < exact).all()
    else:
        assert torch.equal(moved, masks)


def test_a_mask_that_would_leave_the_picture_stays() -> None:
    speck = torch.from_numpy(np.stack([rectangle(0, 0, 1, 1)] * 100))
    moved = moved_masks(speck, share=0.9, generator=torch.Generator().manual_seed(0))
    assert moved.flatten(1).any(1).all()
