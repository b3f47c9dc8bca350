"""Files that are no checkpoints, foreign, cut or hostile: no code in them runs, and each is told what it is."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from model.errors import CheckpointError
from tests.model.checkpoints.weight_files import FORMATS, box_weights, load, on_meta, saved


class Hostile:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_does_not_run(tmp_path, archive):
    marker, path = tmp_path / "it-ran", tmp_path / "weights.pt"
    if archive:
        torch.save({"model": box_weights(), "extra": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Hostile(marker)}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load(on_meta(), path)
    assert not marker.exists()


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, write, part):
    path = tmp_path / "weights"
    write(box_weights(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match="damaged"):
        load(on_meta(), path)


@pytest.mark.parametrize("write", FORMATS)
def test_damage_is_an_error_of_ours_or_harmless(tmp_path, write):
    path = tmp_path / "weights"
    write(box_weights(), path)
    content = path.read_bytes()
    dice = np.random.default_rng(0)
    refused = 0
    for _ in range(50):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[dice.integers(len(damaged))] = dice.integers(256)
        path.write_bytes(damaged)
        try:
            load(on_meta(), path)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80", b"<!DOCTYPE html><html>404</html>", bytes(1000)]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"weights.pt .*SAM2_CHECKPOINT|weights.pt holds something besides"
    ):
        load(on_meta(), path)


def test_any_other_archive_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(on_meta(), path)


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "a list"), ({"epoch": 3}, "the keys epoch"), ({"model": "tiny"}, "the keys model")],
)
def test_a_file_without_weights_says_what_it_has(tmp_path, content, found):
    with pytest.raises(CheckpointError, match=f"holds no weights.*found {found}"):
        load(on_meta(), saved(content, tmp_path / "weights.pt"))


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(CheckpointError, match=r"No such file.*SAM2_CHECKPOINT"):
        load(on_meta(), tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(on_meta(), tmp_path)
    with pytest.raises(CheckpointError, match="Input/output error"):
        load(on_meta(), Path("/proc/self/mem"))  # a regular file whose first bytes cannot be read
