"""The training loop on a network and data small enough for a test: it learns, and a cut leaves no trace."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from model.network.config import VARIANTS, DecoderConfig, HieraConfig, Sam2Config
from model.training import trainer as trainer_module
from model.training.export import read_weights
from model.training.network import WorkingCopy, initial_network
from model.training.optimiser import decays
from model.training.rounds import Rounds
from model.training.state import Plan, PlanDiffers, State
from model.training.trainer import Pace, Trainer, learning_rate
from tests.model.training.packs import disc

TOY = Sam2Config(
    HieraConfig(
        embed_dim=8,
        num_heads=1,
        stages=(1, 1, 1, 1),
        global_attention_blocks=(2, 3),
        window_sizes=(8, 4, 4, 2),
    ),
    image_size=64,
    embed_dim=32,
    mask_in_chans=16,
    decoder=DecoderConfig(mlp_dim=32, num_heads=4),
)
PLAN = Plan(
    variant="toy", side=64, steps=6, batch=2, masks=2, learning_rate=1e-3, warm_up=2, seed=7, start_from=""
)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Discs:
    """A picture of two bright discs."""

    picture: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]


class DiscScenes:
    def __getitem__(self, index: int) -> Discs:
        rng = np.random.default_rng(index)
        left = disc(64, 64, centre=(16, rng.uniform(16, 48)), radius=rng.uniform(6, 13))
        right = disc(64, 64, centre=(48, rng.uniform(16, 48)), radius=rng.uniform(6, 13))
        picture = rng.integers(0, 60, (64, 64, 3), np.uint8)
        picture[left | right] += np.uint8(150)
        return Discs(picture, np.stack([left, right]))


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(VARIANTS, "toy", TOY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for tensors this small, several only wait for each other
    yield
    torch.set_num_threads(threads)


def trainer(
    plan: Plan = PLAN,
    *,
    state: State | None = None,
    start: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    stop_after_s: float = 1e9,
    workers: int = 0,
) -> Trainer:
    pace = Pace(CPU, dtype, workers=workers, stop_after_s=stop_after_s)
    return Trainer(plan, DiscScenes(), pace=pace, state=state, start=start)


def run(
    begun: Trainer, folder: Path, *, stop: Callable[[], bool] = lambda: False
) -> tuple[bool, list[dict[str, object]]]:
    """Whether it came to its end, and what it noted."""
    notes: list[dict[str, object]] = []
    return begun.run(folder, validate=lambda _: {"scenes@1": 0.5}, note=notes.append, stop=stop), notes


def after(steps: int) -> Callable[[], bool]:
    """Stops a run after so many steps."""
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) >= steps

    return stop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(tmp_path: Path, dtype: torch.dtype) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert run(trainer(dtype=dtype), whole)[0]
    assert not run(trainer(dtype=dtype), cut, stop=after(2))[0]
    assert not run(trainer(dtype=dtype, state=State.load(cut)), cut, stop=after(1))[0]
    assert run(trainer(dtype=dtype, state=State.load(cut)), cut)[0]
    expected, found = State.load(whole), State.load(cut)
    assert expected is not None
    assert found is not None
    assert found.step == expected.step == PLAN.steps
    for kind in ("network", "average"):
        for name, values in getattr(expected, kind).items():
            assert torch.equal(getattr(found, kind)[name], values), (kind, name)
    assert found.losses == expected.losses


def test_workers_make_the_same_batches(tmp_path: Path) -> None:
    alone = list(trainer()._batches())
    helped = list(trainer(workers=1)._batches())
    assert len(alone) == len(helped) == PLAN.steps
    for (picture, masks), (same_picture, same_masks) in zip(alone, helped, strict=True):
        assert torch.equal(picture, same_picture)
        assert torch.equal(masks, same_masks)


def test_time_out_saves(tmp_path: Path) -> None:
    assert not run(trainer(stop_after_s=0), tmp_path)[0]
    state = State.load(tmp_path)
    assert state is not None
    assert state.step == 1


def test_losses_rate_and_held_out_figures_are_noted(tmp_path: Path) -> None:
    is_done, notes = run(trainer(), tmp_path)
    assert is_done
    assert notes[0].keys() == {"step", "learning_rate", "seconds", "losses"}
    assert {"loss", "gradient", "iou_error"} <= cast("dict[str, float]", notes[0]["losses"]).keys()
    assert notes[-1] == {"step": PLAN.steps, "held_out": {"scenes@1": 0.5}}


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run(trainer(), tmp_path)
    before = (tmp_path / "state.pt").stat().st_mtime_ns
    assert run(trainer(state=State.load(tmp_path)), tmp_path) == (True, [])
    assert (tmp_path / "state.pt").stat().st_mtime_ns == before


def test_another_plan_is_refused(tmp_path: Path) -> None:
    run(trainer(), tmp_path, stop=after(2))
    with pytest.raises(PlanDiffers, match=r"began with steps 6, not 9; seed 7, not 8\. .* from step 2"):
        trainer(replace(PLAN, steps=9, seed=8), state=State.load(tmp_path))


def test_a_save_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = trainer()
    begun.state().save(tmp_path)

    def fail(values: object, file: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        begun.state().save(tmp_path)
    assert State.load(tmp_path) is not None


def test_it_learns() -> None:
    begun = trainer(replace(PLAN, steps=24, warm_up=5, learning_rate=5e-3))
    losses = []
    for pictures, masks in begun._batches():
        begun.take_step(pictures, masks)
        losses.append(float(begun._fresh_losses[-1]["loss"]))
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:4])


def test_a_run_can_begin_with_weights_of_another(tmp_path: Path) -> None:
    run(trainer(), tmp_path, stop=after(3))
    weights = read_weights(tmp_path)
    later = trainer(replace(PLAN, side=96, start_from="x"), start=weights)
    assert later.step == 0
    for name, values in later.network.state_dict().items():
        assert torch.equal(values, weights[name])


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    plan = replace(PLAN, steps=102, warm_up=2, learning_rate=1.0)
    rates = [learning_rate(plan, step) for step in range(103)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[52] == pytest.approx(0.5)
    assert rates[102] == pytest.approx(0)


def test_what_decays() -> None:
    names = {
        name for name, x in initial_network(VARIANTS["builtin"], seed=0).named_parameters() if decays(name, x)
    }
    for part in (
        "attn.qkv.weight",
        "mlp.layers.0.weight",
        "convs.3.conv.weight",
        "output_upscaling.0.weight",
        "cross_attn_image_to_token.q_proj.weight",
    ):
        assert any(name.endswith(part) for name in names), part
    assert not [name for name in names if "embed" in name and "patch_embed" not in name]
    assert not [name for name in names if name.endswith("bias") or "norm" in name]
    assert not [name for name in names if name.endswith(("token.weight", "tokens.weight"))]


def test_a_network_follows_from_its_seed() -> None:
    torch.manual_seed(1)
    first = initial_network(TOY, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = initial_network(TOY, seed=3).state_dict(), initial_network(TOY, seed=4).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in first.items())
    assert not torch.equal(first["image_encoder.trunk.pos_embed"], other["image_encoder.trunk.pos_embed"])


def test_the_copy_keeps_positions_exact_and_loses_no_small_step() -> None:
    network = initial_network(TOY, seed=0)
    copy = WorkingCopy(network, dtype=torch.bfloat16)
    assert {x.dtype for x in copy.network.parameters()} == {torch.bfloat16}
    assert {x.dtype for x in copy.network.buffers()} == {torch.float32}
    with torch.no_grad():
        for _ in range(1000):
            network.no_mem_embed += 1e-4
        copy.follow()
    assert (copy.network.no_mem_embed.float() - network.no_mem_embed).abs().max() < 1e-3
    assert network.no_mem_embed.mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("kind", ["click", "box", "click in box"])
@pytest.mark.parametrize("silent", [0, 2])
def test_gradients_reach_every_part(monkeypatch: pytest.MonkeyPatch, kind: str, silent: int) -> None:
    monkeypatch.setattr("model.training.rounds.FIRST_PROMPTS", {kind: 1.0})
    monkeypatch.setattr("model.training.rounds.SILENT_ROUNDS", tuple(float(i == silent) for i in range(3)))
    network = initial_network(TOY, seed=0)
    scene = DiscScenes()[0]
    rounds = Rounds(
        network,
        torch.from_numpy(scene.picture)[None],
        torch.from_numpy(scene.masks)[None],
        chance=np.random.default_rng(1),
    )
    loss = rounds.play()
    loss.total.backward()
    without = {name for name, x in network.named_parameters() if x.grad is None or not x.grad.any()}
    without -= {
        name for name in without if "hypernetworks_mlps" in name and "mlps.0" not in name
    }  # the best learns
    corners = {f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in (2, 3)}
    clicks = {f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in (0, 1)}
    assert without <= corners | clicks
    assert corners <= without if kind == "click" else not corners & without


def test_plain_attention_changes_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain attention changes the time of a step, not its outcome."""
    plain = trainer(dtype=torch.float32)
    monkeypatch.setattr(trainer_module, "PlainAttention", _Nothing)
    fused = trainer(dtype=torch.float32)
    for begun in (plain, fused):
        begun.take_step(*next(begun._batches()))
    assert plain.report().losses["loss"] == pytest.approx(fused.report().losses["loss"], rel=1e-4)


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
