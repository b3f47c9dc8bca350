"""All but the trunk learns, on photographs as they are: which views there are, and what is kept of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.network.config import VARIANTS
from model.network.hiera import Hiera
from model.training.__main__ import main
from model.training.kept_maps import KeptMaps
from model.training.network import initial_network
from model.training.pack import Pack
from model.training.photographs import VIEW_SHARES, Photographs
from model.training.state import State
from model.training.trainer import Pace, Trainer
from tests.model.training.packs import background, disc, encoded, photograph, write_pack
from tests.model.training.test_trainer import PLAN, TOY, DiscScenes

SIDE = 64
FILES = ("a.jpg", "b.jpg", "c.jpg")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(VARIANTS, "toy", TOY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each forward of a trunk had."""
    seen: list[int] = []
    forward = Hiera.forward

    def count(trunk: Hiera, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(len(images))
        return forward(trunk, images)

    monkeypatch.setattr(Hiera, "forward", count)
    return seen


def scenes(*, masks: int = 2, seed: int = 0) -> Photographs:
    pictures = tuple(photograph(file, tint=tint) for tint, file in zip((20, 60, 100), FILES, strict=True))
    return Photographs(Pack(pictures, (), ()), side=SIDE, masks_per_scene=masks, seed=seed)


def test_pictures_come_again_with_other_objects() -> None:
    drawn = [scenes(masks=1)[index] for index in range(60)]
    pictures = {scene.picture.tobytes() for scene in drawn}
    assert len(FILES) < len(pictures) <= len(FILES) * len(VIEW_SHARES)
    others = {scenes(seed=1)[index].picture.tobytes() for index in range(60)}
    assert len(pictures | others) <= len(FILES) * len(VIEW_SHARES), "of another seed too"
    of_one = [scene for scene in drawn if scene.picture.tobytes() == drawn[0].picture.tobytes()]
    assert len({scene.masks.tobytes() for scene in of_one}) == 2


def test_a_scene_follows_from_its_number() -> None:
    first, again = scenes()[7], scenes()[7]
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.masks, again.masks)


def test_masks_are_on_their_objects() -> None:
    for index in range(20):
        scene = scenes()[index]
        assert scene.masks.shape == (2, SIDE, SIDE)
        for mask in scene.masks:
            colours = scene.picture[mask].astype(int)
            is_red = colours[:, 0] > colours[:, 1]
            assert max(is_red.mean(), 1 - is_red.mean()) > 0.9, "one disc, not a bit of each"


def test_what_is_too_small_or_out_of_view_is_not_clicked_at() -> None:
    whole = photograph()
    speck = encoded(disc(120, 160, centre=(100, 110), radius=2))
    picture = replace(whole, runs=(whole.runs[0], speck))
    drawn = Photographs(Pack((picture,), (), ()), side=SIDE, masks_per_scene=3, seed=0)
    for index in range(20):
        masks = drawn[index].masks
        assert (masks == masks[0]).all(), "the one object, again"
        assert masks[0].sum() > 200


def test_a_pack_without_objects_is_refused() -> None:
    with pytest.raises(ValueError, match="No photograph of the pack has an object"):
        Photographs(Pack((background(),), (), (background(),)), side=SIDE, masks_per_scene=1, seed=0)


def test_kept_maps_are_those_of_the_network(tmp_path: Path, counted: list[int]) -> None:
    network = initial_network(TOY, seed=0)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    wanted = network.encode(images)
    counted.clear()
    kept = KeptMaps(tmp_path / "maps")
    for _ in range(2):
        for found, one in zip(kept.encode(network, images), wanted, strict=True):
            assert found.shape == one.shape
            torch.testing.assert_close(found, one, rtol=0, atol=2e-3 * float(one.detach().abs().max()))
    KeptMaps(tmp_path / "maps").encode(network, images[1:])
    assert counted == [1, 1], "each picture once"
    assert len(list((tmp_path / "maps").iterdir())) == 2


def trainer(folder: Path, *, state: State | None = None, dtype: torch.dtype = torch.float32) -> Trainer:
    pace = Pace(CPU, dtype, workers=0)
    kept = KeptMaps(folder / "maps")
    return Trainer(
        replace(PLAN, photographs=True), DiscScenes(), pace=pace, state=state, start=None, kept=kept
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trunk_stays_and_all_else_learns(tmp_path: Path, dtype: torch.dtype) -> None:
    begun = trainer(tmp_path, dtype=dtype)
    before = {name: x.clone() for name, x in begun.network.state_dict().items()}
    batches = begun._batches()
    for _ in range(3):
        begun.take_step(*next(batches))
    after = begun.network.state_dict()
    same = {name for name, x in before.items() if torch.equal(x, after[name])}
    assert {name for name in before if ".trunk." in name} <= same
    for part in ("image_encoder.neck", "sam_prompt_encoder.mask_downscaling", "sam_mask_decoder.transformer"):
        assert not any(name.startswith(part) and name.endswith("weight") for name in same), part


def test_a_run_that_was_cut_goes_on_from_its_maps(tmp_path: Path, counted: list[int]) -> None:
    def run(begun: Trainer, name: str, *, steps: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        begun.run(
            tmp_path / name, validate=lambda _: {}, note=lambda _: None, stop=lambda: begun.step >= steps
        )

    run(trainer(tmp_path), "whole", steps=6)
    made = len(counted)
    run(trainer(tmp_path), "cut", steps=2)
    run(trainer(tmp_path, state=State.load(tmp_path / "cut")), "cut", steps=6)
    whole, cut = State.load(tmp_path / "whole"), State.load(tmp_path / "cut")
    assert whole is not None
    assert cut is not None
    assert all(torch.equal(x, cut.average[name]) for name, x in whole.average.items())
    assert len(counted) == made, "no picture went through the trunk again"


SMALL = ("--side", "64", "--steps", "1", "--batch", "1", "--masks", "1", "--workers", "0", "--threads", "1")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, first, second = (tmp_path / name for name in ("data", "first", "second"))
    data.mkdir()
    write_pack(data)
    assert main([str(data), str(second), *SMALL, "--photographs"]) == 1
    assert "--start-from" in capsys.readouterr().err
    assert main([str(data), str(first), *SMALL]) == 0
    from_first = ("--photographs", "--start-from", str(first / "state.pt"))
    assert main([str(data), str(second), *SMALL, *from_first]) == 0
    state = State.load(second)
    assert state is not None
    assert state.plan.photographs
    assert list((second / "maps").iterdir())
    assert main([str(data), str(second), *SMALL, *from_first[1:]]) == 1
    assert "photographs True, not False" in capsys.readouterr().err
