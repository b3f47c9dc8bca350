"""Pictures with objects to find, as evaluation has them; and how to read a tar of them.

Does not know about models. The format is that of ../shared/data/eval/README.md.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

from model.training.clicks import Mask


class DataError(Exception):
    """A path holds nothing to evaluate on. The message says why."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """A picture and its objects."""

    file: str
    pixels: npt.NDArray[np.uint8]
    """(h, w, 3), RGB."""
    masks: tuple[Mask, ...]
    """(h, w) each."""
    ignored: Mask
    """(h, w): pixels that count neither for nor against."""


def read_annotated(data: Path) -> Iterator[Annotated]:
    """Every picture of a tar with its annotations.jsonl first, or of all tars in a folder.

    Raises DataError where there is none, or a tar is not of this format.
    """
    tars = sorted(data.glob("*.tar")) if data.is_dir() else [data]
    if not tars:
        raise DataError(f"There is no tar file in {data}.")
    for path in tars:
        yield from _read_tar(path)


def _read_tar(path: Path) -> Iterator[Annotated]:
    try:
        with tarfile.open(path) as tar:
            for line in _member(tar, "annotations.jsonl").decode().splitlines():
                said = json.loads(line)
                with Image.open(io.BytesIO(_member(tar, said["file"]))) as image:
                    pixels = np.array(image.convert("RGB"))
                masks = tuple(coco.decode(run).view(bool) for run in said["masks"])
                ignored = coco.decode(said["ignore"]).view(bool) if "ignore" in said else None
                yield Annotated(
                    said["file"],
                    pixels,
                    masks,
                    np.zeros(pixels.shape[:2], bool) if ignored is None else ignored,
                )
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(f"{path} is no evaluation set: {error}") from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()
