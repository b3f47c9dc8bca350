"""Scenes to train on: what a click may mean, and that it is where the picture shows it."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.training import scenes
from model.training.canvas import LARGEST, SMALLEST
from model.training.pack import Pack, read_pack
from model.training.photometry import photographed
from model.training.scenes import Scenes
from model.training.segments import with_segments
from tests.model.training.packs import background, cutout, photograph, striped, write_pack

SIDE = 96


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("pack")
    write_pack(folder)
    return with_segments(read_pack(folder), folder / "cache")


def made(pack: Pack, *, seed: int = 0) -> Scenes:
    return Scenes(pack, side=SIDE, masks_per_scene=3, seed=seed)


def test_scenes_stack_and_every_mask_is_worth_a_click(pack: Pack) -> None:
    for number in range(80):
        scene = made(pack)[number]
        assert (scene.picture.shape, scene.picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
        assert (scene.masks.shape, scene.masks.dtype) == ((3, SIDE, SIDE), np.bool_)
        shares = scene.masks.mean((1, 2))
        assert shares.min() >= SMALLEST
        assert shares.max() <= LARGEST


def test_a_scene_follows_from_seed_and_number(pack: Pack) -> None:
    ahead, back = made(pack), pickle.loads(pickle.dumps(made(pack)))  # noqa: S301 our own bytes
    forwards = [ahead[number] for number in (0, 7, 1_000_000_007)]
    backwards = [back[number] for number in (1_000_000_007, 7, 0)][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one.picture, other.picture)
        np.testing.assert_array_equal(one.masks, other.masks)
    assert not np.array_equal(forwards[0].picture, forwards[1].picture)
    assert not np.array_equal(forwards[0].picture, made(pack, seed=1)[0].picture)


def test_what_is_held_out_is_in_no_scene() -> None:
    """Scenes to train on stay the same whatever the photographs held out show."""
    names = [f"{number}.jpg" for number in range(60)]
    (held_out, *_) = (name for name in names if photograph(name).is_held_out)
    (kept, *_) = (name for name in names if not photograph(name).is_held_out)
    red, other = (
        Pack((photograph(kept), photograph(held_out, tint=tint)), (), (background(),)).training()
        for tint in (20, 200)
    )
    for number in range(20):
        np.testing.assert_array_equal(made(red)[number].picture, made(other)[number].picture)


@pytest.mark.parametrize(
    "poor",
    [
        Pack((), (), (background(),)),
        Pack((photograph(),), (), ()),
        Pack((photograph(source="dsb2018"),), (cutout(),), ()),
    ],
    ids=["backgrounds", "photographs", "nothing to paste"],
)
def test_a_pack_may_lack_a_part(poor: Pack) -> None:
    for number in range(10):
        assert made(poor)[number].masks.any((1, 2)).all()


def test_a_pack_without_grounds_is_refused() -> None:
    with pytest.raises(ValueError, match="photographs or backgrounds"):
        made(Pack((), (cutout(),), ()))


def test_the_first_click_falls_on_a_thing_more_often_than_on_a_region(pack: Pack) -> None:
    """The photograph's discs are its instances; where there is one of them, regions do not crowd it out."""
    alone = Pack(pack.photographs[:1], (), ())
    of_a_thing = 0
    for number in range(60):
        scene = made(alone)[number]
        of_a_thing += sum(_roundness(mask) > 0.5 for mask in scene.masks)
    assert of_a_thing > 0.5 * 60 * 3


def _roundness(mask: np.ndarray) -> float:
    """Area over that of the box around it: a disc has 0.79, a ground with holes little."""
    y, x = np.nonzero(mask)
    return mask.sum() / ((np.ptp(y) + 1) * (np.ptp(x) + 1))


def test_a_camera_changes_colours_and_moves_nothing() -> None:
    picture = striped(SIDE, SIDE, 40)
    picture[:, SIDE // 2 :] = 230
    before = picture.copy()
    changed = 0
    for seed in range(40):
        seen = photographed(picture, np.random.default_rng(seed))
        assert (seen.shape, seen.dtype) == (picture.shape, np.uint8)
        steps = np.diff(seen.mean((0, 2), dtype=np.float64))
        assert abs(int(np.argmax(steps)) - (SIDE // 2 - 1)) <= 1
        changed += not np.array_equal(seen, picture)
    assert changed > 30
    np.testing.assert_array_equal(picture, before)


def test_a_contact_sheet_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack(tmp_path)
    out, cache = tmp_path / "sheet.png", tmp_path / "cache"
    options = ["--cache", str(cache), "--side", "64"]
    monkeypatch.setattr(sys, "argv", ["scenes", str(tmp_path), str(out), *options])
    scenes.main()
    with Image.open(out) as sheet:
        assert sheet.size == (4 * 2 * 64, 6 * 64)
    assert list(cache.glob("*.png"))
