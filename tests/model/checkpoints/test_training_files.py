"""What training programs write: weights beside optimizer states, figures and options, which are left aside."""

import argparse
import collections
import datetime
import functools
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.checkpoints.parameters import recognise
from model.errors import CheckpointError
from tests.model.checkpoints.test_checkpoint_refused import Hostile
from tests.model.checkpoints.weight_files import (
    Box,
    box_weights,
    hollow,
    load,
    on_meta,
    released_shapes,
    saved,
)


class Phase:
    """A class of the training program, which the server does not have."""


def beside_the_weights() -> dict[str, object]:
    """What Meta's trainer saves beside "model", and what people add to it."""
    box = Box()
    optimizer = torch.optim.AdamW(box.parameters(), lr=float(np.float64(5e-6)))
    box.linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    losses = collections.defaultdict(float)
    losses["train_all_loss"] = np.float64(0.25)
    return {
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "loss": collections.OrderedDict(train=losses),
        "steps": {"train": 120, Phase(): Phase()},
        "time_elapsed": datetime.timedelta(seconds=90),
        "best_meter_values": {"iou": np.float32(0.5), "per_class": np.ones(3)},
        "scaler": {"scale": 65536.0, "_growth_tracker": torch.tensor(2)},
        "args": argparse.Namespace(folder=Path("/data"), recent=collections.deque([0.5])),
        "versions": {"torch": torch.__version__, "numpy": np.dtype("float32")},
    }


def test_a_checkpoint_of_a_training_run_loads_as_its_weights_do(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    training = saved({"model": box_weights()} | beside_the_weights(), tmp_path / "checkpoint.pt")
    released = saved({"model": box_weights()}, tmp_path / "released.pt")
    assert load(on_meta(), training) == load(on_meta(), released)
    assert "left aside beside the weights: argparse.Namespace" in caplog.text


@pytest.mark.parametrize("key", beside_the_weights())
def test_each_thing_that_trainers_save_is_left_aside(tmp_path, key):
    content = {"model": box_weights(), key: beside_the_weights()[key]}
    assert len(load(on_meta(), saved(content, tmp_path / "checkpoint.pt"))) == 64


def test_no_class_of_the_file_is_looked_up(tmp_path, monkeypatch):
    path = saved({"model": box_weights(), "args": argparse.Namespace(a=1)}, tmp_path / "checkpoint.pt")

    def fails(*_: object) -> None:
        raise AssertionError("it was made")

    monkeypatch.setattr(argparse.Namespace, "__init__", fails)
    monkeypatch.setattr(argparse.Namespace, "__setstate__", fails, raising=False)
    load(on_meta(), path)


@pytest.mark.parametrize("place", ["beside", "within"])
def test_a_function_to_call_is_refused_and_named(tmp_path, place):
    marker = tmp_path / "it-ran"
    hidden = {"figures": [np.float64(1), {"deep": Hostile(marker)}]}
    content = {"model": box_weights() | (hidden if place == "within" else {})} | hidden
    with pytest.raises(CheckpointError, match=r"\(getattr\).*could run code.*state_dict"):
        load(on_meta(), saved(content, tmp_path / "checkpoint.pt"))
    assert not marker.exists()


def test_names_that_look_like_data_call_nothing(tmp_path):
    """Numpy and pathlib have functions that act; what stands in for them does not."""
    marker = tmp_path / "it-ran"
    content = {"model": box_weights(), "figures": 1}
    path = saved(content, tmp_path / "checkpoint.pt")

    class Acts:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return np.save, (marker, 1)

    torch.save(content | {"figures": Acts()}, path)
    load(on_meta(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_may_act_is_refused_by_name(tmp_path):
    content = {"model": box_weights(), "rate": functools.partial(print, 1)}
    with pytest.raises(CheckpointError, match=r"\((functools\.partial|builtins\.print)\).*could run code"):
        load(on_meta(), saved(content, tmp_path / "checkpoint.pt"))


def test_a_pickled_module_is_told_from_its_weights(tmp_path):
    content = {"model": Phase(), "epoch": 3}
    with pytest.raises(CheckpointError, match=r'a tests\.\S+\.Phase under "model"; save its state_dict\(\)'):
        load(on_meta(), saved(content, tmp_path / "checkpoint.pt"))


def test_stand_ins_are_not_left_for_others(tmp_path):
    load(on_meta(), saved({"model": box_weights(), "phase": Phase()}, tmp_path / "checkpoint.pt"))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model._orig_mod."])
def test_weights_are_found_where_programs_put_them(tmp_path, key, prefix):
    shapes = released_shapes("sam2.1_hiera_tiny")
    weights: dict[str, Tensor] = {f"{prefix}{name}": tensor for name, tensor in hollow(shapes).items()}
    if prefix.startswith("model."):  # Lightning keeps the parameters of a loss in the same dict
        weights["criterion.weight"] = torch.zeros(2)
    path = saved({key: weights, "epoch": 1}, tmp_path / "checkpoint.pt")
    assert recognise(path) == ("sam2.1_hiera_tiny",)


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ("image_encoder.", "_orig_mod."),
        ("image_encoder.trunk.blocks.3.", "_checkpoint_wrapped_module."),
        ("sam_mask_decoder.", "_fsdp_wrapped_module._orig_mod."),
    ],
)
def test_parts_that_were_wrapped_one_by_one_are_found(tmp_path, part, word):
    shapes = released_shapes("sam2.1_hiera_tiny")
    weights = {f"module.{name.replace(part, part + word)}": x for name, x in hollow(shapes).items()}
    assert any(word in name for name in weights)
    load(on_meta(shapes), saved({"model": weights}, tmp_path / "checkpoint.pt"))


def test_of_several_networks_the_one_with_the_shortest_names_is_used_and_said(tmp_path, caplog):
    shapes = released_shapes("sam2.1_hiera_tiny")
    words = ("model_ema.module.", "model.")
    weights = {f"{word}{name}": tensor for word in words for name, tensor in hollow(shapes).items()}
    load(on_meta(shapes), saved({"state_dict": weights}, tmp_path / "both.pt"))
    assert "names begin with 'model.' is used, not 'model_ema.module.'" in caplog.text


def test_a_parameter_of_the_model_s_own_is_still_refused(tmp_path):
    weights = {f"module.{name}": x for name, x in hollow(released_shapes("sam2.1_hiera_tiny")).items()}
    path = saved(
        {"model": weights | {"module.adapter.weight": nn.Parameter(torch.zeros(1))}}, tmp_path / "c.pt"
    )
    module = on_meta(released_shapes("sam2.1_hiera_tiny"))
    with pytest.raises(CheckpointError, match=r"1 unexpected: adapter\.weight \[1\]"):
        load(module, path)


def test_adapters_that_were_not_merged_say_what_to_do(tmp_path):
    shapes = released_shapes("sam2.1_hiera_tiny")
    adapter = {"image_encoder.trunk.blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 96)}
    weights = {f"base_model.model.{name}": x for name, x in (hollow(shapes) | adapter).items()}
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*lora_A.*LoRA adapters.*merge_and_unload\(\)"):
        load(on_meta(shapes), saved(weights, tmp_path / "checkpoint.pt"))
