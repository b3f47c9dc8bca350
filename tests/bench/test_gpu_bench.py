"""The benchmark of GPUs loses nothing: failures, deadlines, signals. Its steps are rehearsed, not tested."""

import ast
import hashlib
import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distribution, packages_distributions
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.codecs.images import decode_image
from model.network.config import VARIANTS
from tests.bench import gpu, load
from tests.bench.gpu_clock import Clocked
from tests.bench.gpu_results import Results
from tests.bench.gpu_served import Photographs
from tests.bench.gpu_session import REHEARSAL, Session
from tests.bench.gpu_steps import Step, heeding_signals, run_steps
from tests.bench.report import Target
from tests.model.gpu.host_gpu import HostGpu
from tests.server import ROOT

ON_THE_MACHINE = {"torch", "numpy", "pillow", "scipy", "safetensors", "tqdm", "certifi"}
"""What the docstring of gpu.py asks of a machine; what these need comes with them."""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    # A rehearsal adds a variant to those of its process.
    monkeypatch.setitem(VARIANTS, REHEARSAL, VARIANTS["sam2.1_hiera_tiny"])
    results = Results(tmp_path / "out", machine={"GPU": "none"}, targets=())
    return Session(results, rehearse=True, folder=tmp_path)


def written(session: Session) -> dict:
    """What lies on the disk now."""
    return json.loads((session.results.folder / "gpu.json").read_text())


def adding(case: str) -> Callable[[Session], None]:
    return lambda session: session.add("figures", case, ms=1.0)


def fail(session: Session) -> None:
    session.add("figures", "before the failure", ms=1.0)
    raise ZeroDivisionError("no such figure")


def test_a_step_that_fails_costs_no_other_its_figures(session: Session) -> None:
    steps = [Step("first", adding("a"), 1), Step("broken", fail, 1), Step("last", adding("b"), 1)]
    run_steps(steps, session, seconds=100)
    content = written(session)
    assert [row["case"] for row in content["rows"]] == ["a", "before the failure", "b"]
    (note,) = content["notes"]
    assert (note["kind"], note["step"]) == ("failed", "broken")
    assert "ZeroDivisionError: no such figure" in note["text"]
    assert "failed after" in content["steps"]["broken"]
    assert not session.results.is_whole


def test_a_part_that_fails_leaves_the_rest_of_its_step(session: Session) -> None:
    def step(session: Session) -> None:
        with session.part("curve"):
            raise KeyError("nothing")
        session.add("figures", "behind it", ms=1.0)

    run_steps([Step("parts", step, 1)], session, seconds=100)
    assert [row["case"] for row in written(session)["rows"]] == ["behind it"]
    assert written(session)["notes"][0]["text"].startswith("curve: Traceback")


def test_a_wrong_answer_is_noted_and_the_run_goes_on(session: Session) -> None:
    steps = [Step("check", lambda s: s.wrong("a mask is upside down"), 1), Step("time", adding("a"), 1)]
    run_steps(steps, session, seconds=100)
    assert written(session)["notes"] == [
        {"kind": "wrong", "step": "check", "text": "a mask is upside down"}
    ]  # fmt: skip
    assert len(session.results.rows) == 1
    assert not session.results.is_whole


def test_what_does_not_fit_is_skipped_and_what_is_shorter_is_not(session: Session) -> None:
    now = 0.0

    def passing(seconds: float) -> Callable[[Session], None]:
        def step(session: Session) -> None:
            nonlocal now
            now += seconds

        return step

    steps = [Step("a", passing(70), 60), Step("long", passing(40), 40), Step("short", passing(20), 25)]
    run_steps(steps, session, seconds=100, clock=lambda: now)
    assert session.results.steps == {"a": "70.0", "long": "skipped", "short": "20.0"}
    assert session.results.notes[0].text == "it takes 40 s, and 30 are left"
    assert session.results.is_whole  # by its own choice


def test_a_step_that_hangs_is_cut_off_whatever_it_catches(session: Session) -> None:
    def hang(session: Session) -> None:
        with session.part("a part"):
            signal.pause()

    run_steps([Step("hangs", hang, 0), Step("last", adding("a"), 0)], session, seconds=0.2)
    assert (
        float(session.results.steps["hangs"].removeprefix("failed after ")) >= 0.2
    )  # more on a busy machine
    assert "cut off after" in session.results.notes[0].text
    assert session.results.steps["last"] == "skipped"


def test_every_figure_is_on_the_disk_at_once_and_nothing_else_is(session: Session) -> None:
    session.results.begin("step")
    session.add("figures", "a", ms=1.0)
    assert written(session)["rows"][0]["values"] == {"ms": 1.0}
    assert written(session)["steps"] == {"step": "running"}
    assert "| a | ours | 1.00 |" in (session.results.folder / "gpu.md").read_text()
    session.results.keep("table.txt", "kernels")
    assert {path.name for path in session.results.folder.iterdir()} == {"gpu.json", "gpu.md", "table.txt"}


def test_a_target_without_a_figure_is_named(tmp_path: Path) -> None:
    results = Results(tmp_path, machine={}, targets=(Target("encode", "one", "ours", "ms", at_most=12.0),))
    assert not results.is_whole
    assert "No figure for encode: one: ms" in results.markdown()
    results.add("encode", "one", "ours", {"ms": 11.0})
    assert results.is_whole
    assert "| encode: one | ours | ms | <= 12.0 | 11.0 | met |" in results.markdown()


SCRIPT = """
import signal, sys, time
from tests.bench import gpu
from tests.bench.gpu_steps import Step
def wait(session):
    session.add("figures", "begun", ms=2.0)
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        session.add("figures", "cleaned up", ms=3.0)
steps = (Step("first", lambda s: s.add("figures", "a", ms=1.0), 1), Step("waits", wait, 1), Step("last", wait, 1))
sys.exit(gpu.main(["--rehearse", "--output", sys.argv[1]], steps=steps))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-u", "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting" in line:
                process.send_signal(number)
                break
        said = process.stdout.read()
    assert process.returncode == 1
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["case"] for row in content["rows"]] == ["a", "begun", "cleaned up"]
    assert [(note["kind"], note["step"], note["text"]) for note in content["notes"]] == [
        ("cut", "waits", f"{number.name} came")
    ]  # fmt: skip
    assert content["steps"].keys() == {"first", "waits"}
    assert "| begun | ours | 2.00 |" in said  # the report is printed too


def test_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with heeding_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_numbered_uploads_are_other_files_of_the_same_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    clients = Photographs(3, pixels=pixels).uploaders(2)
    sent = [
        request.partition(b"\r\n\r\n")[2]
        for client in clients
        for request in islice(load._requests(client), 10)
    ]
    assert len({hashlib.sha256(body).digest() for body in sent}) == len(sent) == 20
    plain = decode_image(clients[0].bodies[0], max_pixels=10**6)
    found = [decode_image(body, max_pixels=10**6) for body in sent[:10:2]]
    assert all(np.array_equal(each, plain) for each in found)
    later = Photographs(1, pixels=pixels).uploaders(1)[0]  # of another load on the same server
    assert next(load._requests(later)).partition(b"\r\n\r\n")[2] not in sent


def test_rates_of_two_processes_add_up() -> None:
    both = load.together([load.Measured([0.1] * 10, 2.0), load.Measured([0.2] * 30, 3.0)])
    assert both.per_second == pytest.approx(5 + 10)
    assert len(both.latencies) == 40


def test_the_clock_sees_a_decode_from_its_first_upload_to_its_last_mark() -> None:
    clock = Clocked(HostGpu())
    with pytest.raises(LookupError, match="uploaded nothing"):
        clock.median_ms(object, count=1)

    def decode() -> None:
        with clock.clicks.current():
            clock.clicks.upload(np.zeros(3, np.float32), clock.host_memory(3, dtype=torch.float32))
            clock.clicks.mark().wait()

    assert clock.median_ms(decode, count=3) >= 0
    decode()
    assert not clock.is_running


def test_every_step_has_a_name_of_its_own_and_most_fit_into_one_call() -> None:
    assert len({step.name for step in gpu.STEPS}) == len(gpu.STEPS)
    assert sum(step.cost_s for step in gpu.STEPS[:-1]) <= 480  # what is last is for whom time is left


def test_the_kit_has_all_that_a_server_imports() -> None:
    kit = set(re.search(r"^KIT := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    kit = {canonicalize_name(name) for name in kit - {"\\"}}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_a_server = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    imported = {module for room in ("app", "model") for module in _imports(ROOT / room)}
    of_module = packages_distributions()
    lines = [
        line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines
    ]
    of_extras = {canonicalize_name(Requirement(line).name) for line in lines} & {
        canonicalize_name(each[0]) for each in of_module.values()
    }
    found = {canonicalize_name(of_module[module][0]) for module in imported if module in of_module}
    of_a_server |= found - _with_what_they_need(of_extras)
    there = _with_what_they_need(ON_THE_MACHINE)
    of_a_server.remove("av")  # imported with the first video; its wheels are most of what a kit may weigh
    missing = _with_what_they_need(of_a_server - there) - there - kit
    assert missing == set()


def _imports(folder: Path) -> set[str]:
    """Top-level modules that a folder's files import; what extras bring is left out."""
    found = set()
    for path in folder.rglob("*.py"):
        if "training" in path.parts or path.name == "tracing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"app", "model"}


def _with_what_they_need(names: set[str]) -> set[str]:
    """Distributions and all that they require, on Linux with Python 3.12."""
    found: set[str] = set()
    waiting = [*names]
    environment = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        asked = map(Requirement, distribution(name).requires or [])
        waiting += [
            canonicalize_name(r.name) for r in asked if r.marker is None or r.marker.evaluate(environment)
        ]
    return found
