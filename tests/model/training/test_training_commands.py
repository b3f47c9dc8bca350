"""The commands: train, go on, export, evaluate, and what they say where they cannot."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.checkpoints.halves import load_image_half
from model.network.config import BUILTIN, VARIANTS
from model.runner import load_runner
from model.training import evaluate, export, memory
from model.training.__main__ import main, signalled, training_dtype
from model.training.objects import DataError, read_annotated
from model.training.state import State
from model.types import Prompt
from tests.model.training.eval_sets import pictures, write_set
from tests.model.training.packs import encoded, photograph, striped, write_pack, write_tar

SMALL = ("--side", "64", "--steps", "2", "--batch", "1", "--masks", "1", "--workers", "0", "--threads", "1")


@pytest.fixture(autouse=True)
def _as_before() -> object:
    threads, handlers = (
        torch.get_num_threads(),
        [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)],
    )
    yield
    torch.set_num_threads(threads)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pack in `data` and a run of two steps in `run`."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "data").mkdir()
    write_pack(folder / "data")
    assert main([str(folder / "data"), str(folder / "run"), *SMALL]) == 0
    return folder


def test_a_run_leaves_its_state_and_its_log(trained: Path) -> None:
    state = State.load(trained / "run")
    assert state is not None
    assert state.step == 2
    notes = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    assert notes[0]["step"] == 2
    assert "held_out" in notes[1]


def test_another_command_line_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained / "data"), str(trained / "run"), *SMALL, "--seed", "5"]) == 1
    assert "began with seed 0, not 5" in capsys.readouterr().err


def test_a_folder_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "run"), *SMALL]) == 1
    assert "no tar file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--batch", "0", "not a whole number of at least 1"),
        ("--masks", "two", "not a whole number of at least 1"),
        ("--workers", "-1", "not a whole number of at least 0"),
        ("--threads", "0", "not a whole number of at least 1"),
        ("--learning-rate", "nan", "not a finite number of at least 0"),
        ("--stop-after-min", "nan", "not a number of minutes"),
    ],
)
def test_a_number_that_cannot_be_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, why: str
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "run"), option, value])
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for command in (main, memory.main):
        assert command([str(tmp_path), str(tmp_path / "file")]) == 1
        assert f"File exists: '{tmp_path / 'file'}'" in capsys.readouterr().err


def test_a_run_that_diverges_stops_and_saves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State.load(trained / "run")
    assert state is not None
    state.step, state.network["no_mem_embed"] = 1, state.network["no_mem_embed"] * float("nan")
    state.save(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    assert main([str(trained / "data"), str(tmp_path), *SMALL]) == 1
    said = capsys.readouterr().err
    assert "Training has diverged by step 2: loss nan" in said
    assert "saved before is still in" in said
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_disk_that_is_full_is_named_and_keeps_the_last_state(trained: Path, tmp_path: Path) -> None:
    state = State.load(trained / "run")
    assert state is not None
    state.save(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=r"state\.pt cannot be written"):
            state.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_signal_asks_to_stop() -> None:
    stops = signalled()
    assert not stops()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stops()


def test_float16_is_not_trained_in() -> None:
    assert training_dtype("float16", torch.device("cpu")) == torch.float32
    assert training_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_an_export_loads_and_is_the_average(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "builtin.safetensors"
    assert export.main([str(trained / "run"), str(out)]) == 0
    assert out.stat().st_size < 25e6
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == BUILTIN
    (run,) = json.loads(metadata["runs"])
    assert (run["step"], run["plan"]["side"]) == (2, 64)
    state = State.load(trained / "run")
    assert state is not None
    runner = load_runner(BUILTIN, checkpoint=out, device="cpu", dtype="float32", image_size=64)
    model, _ = load_image_half(
        runner.config, out, variant=BUILTIN, device=torch.device("cpu"), dtype=torch.float32
    )
    for name, values in model.state_dict().items():
        torch.testing.assert_close(values, state.average[name].half().float(), rtol=0, atol=0)
    embedding = runner.encode([striped(60, 80, 40)])[0]
    prediction = runner.decode([(embedding, Prompt(points=((40.0, 30.0),), labels=(1,)))])[0]
    assert prediction.logits.shape == (3, 16, 16)


def test_a_run_begins_with_exported_weights(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    assert export.main([str(trained / "run" / "state.pt"), str(out)]) == 0
    later = [str(trained / "data"), str(tmp_path / "later"), *SMALL, "--start-from", str(out)]
    assert main([*later, "--learning-rate", "0"]) == 0
    state, start = State.load(tmp_path / "later"), export.read_weights(out)
    assert state is not None
    assert all(torch.equal(x, start[name]) for name, x in state.network.items())
    assert len(state.plan.start_from) == 16


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    assert export.main([str(tmp_path), str(tmp_path / "out.safetensors")]) == 1
    assert "state.pt cannot be exported" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path), *SMALL]) == 1
    assert "state.pt is no state of a run, or is damaged" in capsys.readouterr().err


def test_what_no_run_can_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    for path, why in (("cut.safetensors", "is no file of weights"), ("gone/state.pt", "No such file")):
        said = [str(tmp_path), str(tmp_path / "run"), *SMALL, "--start-from", str(tmp_path / path)]
        assert main(said) == 1
        assert why in capsys.readouterr().err


def test_weights_that_float16_cannot_hold_are_not_exported(trained: Path, tmp_path: Path) -> None:
    state = State.load(trained / "run")
    assert state is not None
    state.average["no_mem_embed"] += 1e6
    with pytest.raises(ValueError, match="not finite in float16: no_mem_embed"):
        export.export([export.Weights.of(state)], tmp_path / "out.safetensors")


def test_an_export_that_cannot_be_written_says_where(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gone" / "out.safetensors"
    assert export.main([str(trained / "run"), str(out)]) == 1
    assert f"{out} cannot be written" in capsys.readouterr().err


def test_an_export_of_several_runs_is_their_mean(trained: Path, tmp_path: Path) -> None:
    one, other = State.load(trained / "run"), State.load(trained / "run")
    assert one is not None
    assert other is not None
    for name, values in one.average.items():
        other.average[name] = values + 0.5
    other.save(tmp_path)
    out = tmp_path / "mean.safetensors"
    assert export.main([str(trained / "run"), str(tmp_path), str(out)]) == 0
    for name, values in export.read_weights(out).items():
        torch.testing.assert_close(values, one.average[name] + 0.25, rtol=1e-3, atol=1e-4)
    with safe_open(out, "pt") as file:
        assert len(json.loads(file.metadata()["runs"])) == 2


def test_an_exported_file_and_a_run_have_a_mean(trained: Path, tmp_path: Path) -> None:
    run, file, out = trained / "run", tmp_path / "file.safetensors", tmp_path / "mean.safetensors"
    assert export.main([str(run), str(file)]) == 0
    state = State.load(run)
    assert state is not None
    state.average["no_mem_embed"] += 0.5
    state.save(tmp_path)
    assert export.main([str(file), str(tmp_path), str(out)]) == 0
    moved = export.read_weights(out)["no_mem_embed"] - export.read_weights(file)["no_mem_embed"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25), rtol=1e-2, atol=1e-3)
    with safe_open(out, "pt") as exported:
        assert [run["step"] for run in json.loads(exported.metadata()["runs"])] == [2, 2]


def test_weights_of_unknown_origin_are_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "some.safetensors")
    assert export.main([str(tmp_path / "some.safetensors"), str(tmp_path / "out.safetensors")]) == 1
    assert "does not say which runs it is from" in capsys.readouterr().err


def test_runs_of_different_models_have_no_mean(trained: Path, tmp_path: Path) -> None:
    state = State.load(trained / "run")
    assert state is not None
    other = replace(state, plan=replace(state.plan, variant="another"))
    with pytest.raises(ValueError, match="not weights of one model: another, builtin"):
        export.export([export.Weights.of(state), export.Weights.of(other)], tmp_path / "out.safetensors")


def test_evaluation_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set.tar")
    said = [str(tmp_path / "set.tar"), "--checkpoint", "untrained", "--side", "64", "--dtype", "float32"]
    assert evaluate.main([*said, "--json", str(tmp_path / "figures.json")]) == 0
    shown = capsys.readouterr().out
    assert "2 objects" in shown
    assert "| builtin (untrained), 64 px, float32, cpu |" in shown
    assert "| grabCut, true box | 1.000 |" in shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 <= figures["miou_at_1"] <= 1
    assert 1 <= figures["noc_90"] <= 20
    assert figures["click_ms"] > 0


def test_evaluation_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 1
    assert "There is no tar file" in capsys.readouterr().err
    write_set(tmp_path / "set.tar")
    assert evaluate.main([str(tmp_path), "--checkpoint", str(tmp_path / "gone.pt")]) == 1
    assert "gone.pt cannot be read" in capsys.readouterr().err


def test_an_evaluation_set_comes_back_as_written(tmp_path: Path) -> None:
    write_set(tmp_path / "set.tar")
    for read, written in zip(read_annotated(tmp_path), pictures(), strict=True):
        np.testing.assert_array_equal(read.pixels, written.pixels)
        np.testing.assert_array_equal(read.masks[0], written.masks[0])
        np.testing.assert_array_equal(read.ignored, written.ignored)


def test_what_is_no_evaluation_set(tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"no\.tar is no evaluation set"):
        list(read_annotated(tmp_path / "no.tar"))
    write_tar(tmp_path / "gone.tar", [replace(photograph(), file="x.png")])
    whole = (tmp_path / "gone.tar").read_bytes()
    (tmp_path / "gone.tar").write_bytes(whole.replace(b'"x.png"', b'"y.png"'))
    with pytest.raises(DataError, match=r"y\.png"):
        list(read_annotated(tmp_path / "gone.tar"))


@pytest.mark.parametrize(
    ("masks", "why"),
    [
        ([encoded(np.zeros((60, 80), np.bool_))], r"a mask of a\.png is empty"),
        ([encoded(np.ones((30, 40), np.bool_))], r"a\.png is \(60, 80\), a mask of it \(30, 40\)"),
        ([{"size": [60, 80], "counts": [9, 4791]}], "Expected bytes, got list"),
        ([], "no picture has a mask"),
    ],
)
def test_objects_that_nobody_can_click_at_are_refused(
    tmp_path: Path, masks: list[dict[str, object]], why: str
) -> None:
    picture = replace(photograph("a.png"), pixels=striped(60, 80, 40), runs=tuple(masks))
    write_tar(tmp_path / "set.tar", [picture])
    with pytest.raises(DataError, match=why):
        list(read_annotated(tmp_path))


def test_any_variant_can_be_evaluated_at_any_size() -> None:
    runner = load_runner("sam2.1_hiera_tiny", checkpoint=None, device="cpu", dtype="float32", image_size=128)
    assert runner.mask_size == (32, 32)
    assert VARIANTS["sam2.1_hiera_tiny"].image_size == 1024
