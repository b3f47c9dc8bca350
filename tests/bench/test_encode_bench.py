"""Tests what the section encode stands on: the floor, an earlier commit, and charts. Needs no peers."""

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.bench import earlier, floor
from tests.bench.charts import draw
from tests.bench.report import OURS, Row, timed_rows
from tests.bench.timing import Effort, take_turns

RECTANGLE = "{http://www.w3.org/2000/svg}rect"


def test_the_floor_counts_attention() -> None:
    """207 GFLOP are layers and convolutions; three global blocks alone have 77 of attention."""
    assert floor.encode_operations("sam2.1_hiera_tiny") == pytest.approx(292e9, rel=0.02)


def test_the_cpus_time_may_be_the_clock() -> None:
    ticks = iter(range(100))
    seconds = take_turns({"a": lambda: None}, Effort(0.0, least=2, warm_up=0), clock=lambda: next(ticks))
    assert seconds == {"a": [1, 1]}


def test_charts_show_each_case_in_both_schemes(tmp_path: Path) -> None:
    rows = timed_rows("encode", "1800 x 1200", {OURS[0]: [0.4], "Theirs & others": [0.8]})
    rows += [
        Row("memory", "one picture", "ours", {"MiB": 11}),
        *timed_rows("click", "alone", {OURS[0]: [1.0]}),
    ]
    (path,) = draw(rows, tmp_path / "charts")
    assert path.name == "encode-1800-x-1200.svg"
    ours, theirs = ElementTree.fromstring(path.read_text()).findall(RECTANGLE)  # noqa: S314
    assert 2 * int(ours.attrib["width"]) == pytest.approx(int(theirs.attrib["width"]), abs=1)
    assert (ours.attrib["class"], theirs.attrib["class"]) == ("ours", "peer")
    assert "prefers-color-scheme: dark" in path.read_text()


@pytest.mark.skipif(
    not (earlier.ROOT / ".git").exists() or shutil.which("git") is None, reason="needs the repository"
)
def test_an_earlier_commit_stands_beside_todays_code(tmp_path: Path) -> None:
    from model import runner

    before = earlier.runner_module("HEAD", tmp_path)
    assert before.Sam2Runner is not runner.Sam2Runner
    assert before.CpuDecoder.__module__ == "model_before.cpu.decoder"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--before no-such-commit: "):
        earlier.runner_module("no-such-commit", tmp_path)
