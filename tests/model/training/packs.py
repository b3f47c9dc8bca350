"""A training pack small enough to make in a test: plain things on striped grounds.

Does not know what is done with it.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

from model.training.pack import Mask, Picture, Pixels

RED, GREEN = (220, 30, 30), (30, 180, 40)


def disc(h: int, w: int, *, centre: tuple[float, float], radius: float) -> Mask:
    """(h, w): a disc around (x, y)."""
    y, x = np.mgrid[:h, :w]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def encoded(mask: Mask) -> dict[str, Any]:
    """As a line of the pack has it."""
    run = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": run["size"], "counts": run["counts"].decode()}


def striped(h: int, w: int, tint: int) -> Pixels:
    """(h, w, 3): blue stripes, so that it is neither plain nor like a thing."""
    y, x = np.mgrid[:h, :w]
    blue = 120 + 60 * ((x + 2 * y) // 9 % 2)
    return np.dstack([np.full((h, w), tint), np.full((h, w), 60), blue]).astype(np.uint8)


def photograph(file: str = "a.jpg", source: str = "coco-mini", tint: int = 40) -> Picture:
    """(120, 160): a red disc and a smaller green one apart from it."""
    masks = (
        disc(120, 160, centre=(55, 60), radius=34),
        disc(120, 160, centre=(125, 50), radius=20),
    )
    pixels = striped(120, 160, tint)
    pixels[masks[0]], pixels[masks[1]] = RED, GREEN
    return Picture(pixels, tuple(map(encoded, masks)), source, file)


def cutout(file: str = "white.webp") -> Picture:
    """(60, 80): white where it is, black where it is transparent, as files keep it."""
    mask = disc(60, 80, centre=(40, 30), radius=28)
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[mask] = 255
    return Picture(pixels, (encoded(mask),), "cutouts", file)


def background(file: str = "ground.jpg") -> Picture:
    """(100, 150) without anything on it."""
    return Picture(striped(100, 150, 90), (), "kodak", file)


def write_tar(path: Path, pictures: Sequence[Picture]) -> None:
    """Losslessly, whatever the names say."""
    lines = [
        json.dumps({"file": picture.file, "source": picture.source, "masks": picture.runs})
        for picture in pictures
    ]
    with tarfile.open(path, "w") as tar:
        _add(tar, "annotations.jsonl", "\n".join(lines).encode())
        for picture in pictures:
            _add(tar, picture.file, _png(picture.pixels))


def write_pack(folder: Path) -> None:
    """Three photographs, a cut-out and a background."""
    photographs = [
        photograph("a.jpg"),
        photograph("b.jpg", "balloon", 70),
        photograph("c.jpg", "dsb2018", 10),
    ]
    write_tar(folder / "photographs.tar", photographs)
    write_tar(folder / "cutouts.tar", [cutout()])
    write_tar(folder / "backgrounds.tar", [background()])


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
