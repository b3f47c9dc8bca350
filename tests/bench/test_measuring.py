"""Tests that a run of the bench keeps what it has measured. Needs no peers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.measuring import measure
from tests.bench.report import Row


def test_what_a_section_measured_before_it_failed_is_kept(tmp_path: Path) -> None:
    def fails() -> Iterator[Row]:
        yield Row("video", "1 object", "ours", {"n": 3})
        raise MemoryError

    with pytest.raises(MemoryError):
        measure(
            {"click": lambda: [Row("click", "one", "ours", {"n": 2})], "video": fails},
            head={},
            folder=tmp_path,
        )
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["values"]["n"] for row in rows] == [2, 3]
    assert "1 object" in (tmp_path / "bench.md").read_text()
