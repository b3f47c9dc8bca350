"""Embeddings and uploads on the disk: whole or missing, of one model, within the capacity."""

import logging
import os
import time
from pathlib import Path

import pytest
import torch

from app.storage.disk_trouble import DiskTrouble
from app.storage.embedding_files import EmbeddingFiles
from model.types import Embedding

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def embedding(value: float = 1.0, *, cells: int = 4) -> Embedding:
    """An embedding of `cells` * 128 bytes with one value."""
    rows = torch.full((cells, 8), value)
    return Embedding(rows, torch.zeros(cells, 4, 2), torch.zeros(cells, 4, 4, 1), (), height=40, width=60)


def files_in(
    folder: Path, *, fingerprint: str = "1" * 64, capacity: int = 2**20, evicted: list[int] | None = None
) -> EmbeddingFiles:
    """The files of a model in a folder."""
    return EmbeddingFiles(
        folder,
        fingerprint=fingerprint,
        capacity_bytes=capacity,
        trouble=DiskTrouble(folder),
        on_evict=lambda: evicted.append(1) if evicted is not None else None,
    )


def write(
    files: EmbeddingFiles, content: str, value: float = 1.0, *, cells: int = 4, used: float | None = None
) -> None:
    """Write an embedding, last used at `used`."""
    made = files.write_beside(content, embedding(value, cells=cells))
    assert made is not None
    made.appear()
    if used is not None:
        os.utime(made.place, (used, used))


def test_what_was_written_is_read_and_for_nobody_else(tmp_path: Path) -> None:
    files = files_in(tmp_path / "cache")
    assert files.read(A) is None
    write(files, A, 7.0)
    found = files.read(A)
    assert found is not None
    assert (found.height, found.width, float(found.image_rows[0, 0])) == (40, 60, 7.0)
    assert files.held([A, B]) == {A}
    assert files.write_beside(A, embedding()) is None  # it already exists
    folders = [path for path in (tmp_path / "cache").rglob("*") if path.is_dir()]
    assert folders
    assert all(path.stat().st_mode & 0o077 == 0 for path in folders)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    made = files.write_beside(A, embedding())
    assert made is not None
    assert files.read(A) is None
    made.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_beyond_the_bound_other_models_go_first_then_the_least_recently_used(tmp_path: Path) -> None:
    evicted: list[int] = []
    now = time.time()
    size = 20_000
    files = files_in(tmp_path, capacity=70_000, evicted=evicted)
    write(files_in(tmp_path, fingerprint="2" * 64), A, cells=size // 128, used=now)
    write(files, A, cells=size // 128, used=now - 300)
    write(files, B, cells=size // 128, used=now - 200)
    files.trim()
    assert evicted == []
    files.touch([A])
    write(files, C, cells=size // 128)
    files.trim()
    assert evicted == [1]
    assert files.held([A, B, C]) == {A, B, C}
    write(files, "d" * 64, cells=size // 128)
    files.trim()
    assert files.held([A, B, C]) == {A, C}  # A was used later than B
    assert files.used_bytes <= 70_000
    assert files.num_embeddings == 3


def test_what_a_killed_server_left_beside_is_cleared_away(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    old, young = files.write_beside(A, embedding()), files.write_beside(B, embedding())
    assert old is not None
    assert young is not None
    os.utime(old.beside, (1.0, 1.0))
    files.trim()
    assert not old.beside.exists()
    assert young.beside.exists()  # another server is writing it


def test_a_disk_that_fails_is_told_once_a_minute_and_when_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = DiskTrouble(tmp_path)
    for _ in range(100):
        trouble.report("an embedding cannot be written", OSError(28, "No space left on device"))
    assert caplog.text.count("No space left on device") == 1
    monkeypatch.setattr("app.storage.disk_trouble.QUIET_S", 0.0)
    trouble.report("an embedding cannot be written", OSError(28, "No space left on device"))
    assert "101 failures" in caplog.text
    trouble.over()
    trouble.over()
    assert caplog.text.count("works again") == 1


def test_a_file_that_cannot_be_read_or_removed_is_a_miss_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    files = files_in(tmp_path)
    files._embedding_path(A).mkdir(parents=True)  # a folder instead of the file
    assert files.read(A) is None
    assert "cannot be read" in caplog.text
    files.remove(A)
    assert files._embedding_path(A).is_dir()


def test_what_cannot_be_removed_keeps_nothing_else_from_going(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here folders in the places of files. Once one of them stopped every eviction, and the disk filled up."""
    files = files_in(tmp_path, capacity=40_000)
    write(files, A, cells=150, used=time.time() - 100)
    write(files, B, cells=150, used=time.time() - 50)
    write(files, C, cells=150)
    place = next(tmp_path.rglob(f"{A}*"))
    place.unlink()
    place.mkdir()
    os.utime(place, (1.0, 1.0))
    files.trim()
    assert files.held([B, C]) == {C}
    assert "cannot be removed" in caplog.text
    (tmp_path / "uploads" / C).mkdir(parents=True)
    files.remove(C)
    assert files.held([C]) == set()


def test_a_file_that_cannot_be_read_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, say, or on a bad sector: it stays where it is, and would count as written for good."""
    files = files_in(tmp_path)
    write(files, A, 1.0)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", _fail)
        assert files.read(A) is None
    assert files.write_beside(B, embedding()) is not None
    write(files, A, 2.0)
    assert (found := files.read(A)) is not None
    assert found.image_rows[0, 0] == 2.0
    assert files.write_beside(A, embedding()) is None


def _fail(*_: object) -> bytes:
    raise OSError(5, "Input/output error")
