"""Pictures with objects to find, as evaluation has them; and how to read a tar of them.

Does not know about models. The format is that of ../shared/data/eval/README.md.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Raises DataError where there is no tar or no object, and for a tar that is not of this format.
    """
    tars = sorted(data.glob("*.tar")) if data.is_dir() else [data]
    if not tars:
        raise DataError(f"There is no tar file in {data}.")
    has_objects = False
    for path in tars:
        for picture in _read_tar(path):
            has_objects = has_objects or bool(picture.masks)
            yield picture
    if not has_objects:
        raise DataError(f"There is no object in {data}: no picture has a mask.")


def _read_tar(path: Path) -> Iterator[Annotated]:
    try:
        with tarfile.open(path) as tar:
            for line in _member(tar, "annotations.jsonl").decode().splitlines():
                entry = json.loads(line)
                with Image.open(io.BytesIO(_member(tar, entry["file"]))) as image:
                    pixels = np.array(image.convert("RGB"))
                masks = tuple(_object(run, pixels.shape[:2], file=entry["file"]) for run in entry["masks"])
                ignored = coco.decode(entry["ignore"]).view(bool) if "ignore" in entry else None
                yield Annotated(
                    entry["file"],
                    pixels,
                    masks,
                    np.zeros(pixels.shape[:2], bool) if ignored is None else ignored,
                )
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no evaluation set: {error}") from error


def _object(run: dict[str, Any], size: tuple[int, ...], *, file: str) -> Mask:
    """(h, w) of one COCO RLE. Raises ValueError for a mask of another size than its picture, and an empty one."""
    mask = np.asarray(coco.decode(run).view(bool))
    if mask.shape != size:
        raise ValueError(f"{file} is {size}, a mask of it {mask.shape}")
    if not mask.any():
        raise ValueError(f"a mask of {file} is empty")
    return mask


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()
