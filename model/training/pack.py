"""The training pack: photographs, cut-outs and backgrounds out of tar files, with their masks.

Does not know about scenes or models; ../shared/data/train/README.md has the format and the sources.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""(h, w, 3) RGB or (h, w, 4) RGB and alpha, 0..255."""

Mask: TypeAlias = npt.NDArray[np.bool_]
"""(h, w), True on the object."""

HELD_OUT_SHARES = {
    "coco-cc": 0.25,
    "coco-cc-person": 0.12,
    "openimages-animals": 0.1,
    "food": 0.12,
    "fruits-nuts": 0.2,
    "breadboards": 0.1,
    "mushrooms": 0.25,
    "boards": 0.05,
    "mandarins": 0.05,
    "facades": 0.05,
    "dsb2018": 0.03,
}
"""How much of a source is kept from training, as names fall: a hundred photographs of the pack as it is, seventy of
them everyday scenes."""

HELD_OUT_SHARE = 0.06
"""Of any other source. For the four that earlier weights were trained on, nothing above it: they saw the rest."""


class PackError(Exception):
    """A folder cannot serve as a training pack. The message names the file and says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of the pack with its masks, which stay encoded until they are asked for."""

    pixels: Pixels
    """(h, w, 3) of a photograph, (h, w, 4) of a cut-out."""
    runs: tuple[dict[str, Any], ...]
    """One COCO RLE (`size`, `counts`) an instance; they may overlap."""
    source: str
    """The set it comes from, as its line in the pack says: "balloon"."""
    file: str
    """Its name within that set."""
    segments: tuple[Pixels, ...] = ()
    """(h, w) each: labels 0..255 of regions, from fine to coarse; segments.py finds them."""

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Every instance, (h, w) each; decoded anew at every call."""
        return tuple(self.mask(index) for index in range(len(self.runs)))

    def mask(self, index: int) -> Mask:
        """One instance, (h, w)."""
        return coco.decode(self.runs[index]).view(np.bool_)

    @cached_property
    def areas(self) -> npt.NDArray[np.float64]:
        """(m,): pixels of each instance."""
        return np.array(coco.area(list(self.runs)), np.float64) if self.runs else np.zeros(0)

    @cached_property
    def boxes(self) -> npt.NDArray[np.float64]:
        """(m, 4): left, top, width and height of each instance in pixels."""
        return coco.toBbox(list(self.runs)) if self.runs else np.zeros((0, 4))

    @property
    def is_held_out(self) -> bool:
        """Whether its source's share falls on it. `Pack` holds the same photograph out of other sources too."""
        return self.place < 1

    @property
    def place(self) -> float:
        """Where its name falls, in the share of its source that is held out: those below 1 are."""
        digest = hashlib.sha256(self.name.encode()).digest()
        share = HELD_OUT_SHARES.get(self.source, HELD_OUT_SHARE)
        return int.from_bytes(digest[:8], "big") / 2**64 / share

    @property
    def name(self) -> str:
        """Its file without folder and ending: COCO's number, by which sets that share photographs agree."""
        return Path(self.file).stem


@dataclass(frozen=True, eq=False)
class Pack:
    """What scenes are made of."""

    photographs: tuple[Picture, ...]
    """With instances."""
    cutouts: tuple[Picture, ...]
    """With alpha and one mask each."""
    backgrounds: tuple[Picture, ...]
    """Photographs without masks."""

    def training(self) -> "Pack":
        """All but the photographs held out, which are no backgrounds either."""
        names = self._held_out_names
        return replace(
            self,
            photographs=tuple(p for p in self.photographs if p.name not in names),
            backgrounds=tuple(p for p in self.backgrounds if p.name not in names),
        )

    def held_out(self) -> "Pack":
        """The photographs held out, and nothing else."""
        return Pack(tuple(p for p in self.photographs if p.name in self._held_out_names), (), ())

    @cached_property
    def _held_out_names(self) -> frozenset[str]:
        return frozenset(p.name for p in self.photographs if p.is_held_out)


def read_pack(folder: Path) -> Pack:
    """Every tar of a folder, decoded into memory: about 1.1 GB for the pack as it is.

    Cut-outs are the pictures with alpha, backgrounds those without masks.

    Raises:
        PackError: the folder holds no tar, or one that is damaged, is not of this format or lacks a file, or a mask
            that does not fit its picture.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise PackError(f"There is no tar file in {folder}.")
    pictures = [picture for path in tars for picture in _pictures(path)]
    with_alpha = [picture for picture in pictures if picture.pixels.shape[2] == 4]
    opaque = [picture for picture in pictures if picture.pixels.shape[2] == 3]
    return Pack(
        photographs=tuple(picture for picture in opaque if picture.runs),
        cutouts=tuple(with_alpha),
        backgrounds=tuple(picture for picture in opaque if not picture.runs),
    )


def as_pixels(image: npt.NDArray[Any]) -> Pixels:
    """What OpenCV made of bytes: bytes again, which its types do not say. Nothing is copied."""
    return np.asarray(image, np.uint8)


def _pictures(path: Path) -> Iterator[Picture]:
    """One tar, in the order of its lines."""
    place = "it"
    try:
        with tarfile.open(path) as tar:
            for number, line in enumerate(_member(tar, "annotations.jsonl").decode().splitlines(), start=1):
                place = f"line {number} of annotations.jsonl, or its picture,"
                yield _picture(tar, json.loads(line), path=path)
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise PackError(f"{path}: {place} cannot be read: {error or type(error).__name__}.") from error


def _picture(tar: tarfile.TarFile, entry: dict[str, Any], *, path: Path) -> Picture:
    """The picture of one line."""
    with Image.open(io.BytesIO(_member(tar, entry["file"]))) as image:
        has_alpha = image.mode in ("RGBA", "LA", "PA")
        pixels = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    for run in entry["masks"]:
        if tuple(run["size"]) != pixels.shape[:2]:
            raise PackError(f"{path}: {entry['file']} is {pixels.shape[:2]}, a mask of it {run['size']}.")
    coco.area(entry["masks"])  # raises TypeError for counts that are a list, now and not amid the training
    return Picture(pixels, tuple(entry["masks"]), entry["source"], entry["file"])


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one file in a tar."""
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise PackError(f"{tar.name!s} holds no file {name}.")
    return file.read()
