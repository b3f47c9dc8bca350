"""An evaluation set small enough to make in a test, in the format of ../shared/data/eval/README.md."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from model.training.objects import Annotated
from tests.model.training.packs import disc, encoded, striped


def pictures() -> list[Annotated]:
    """Two pictures of a red disc each, the second with an uncertain band about it."""
    found = []
    for file, centre, radius, has_band in (("a.png", (40, 30), 18, False), ("b.png", (50, 25), 15, True)):
        truth = disc(60, 80, centre=centre, radius=radius)
        band = disc(60, 80, centre=centre, radius=radius + 3) & ~disc(
            60, 80, centre=centre, radius=radius - 3
        )
        pixels = striped(60, 80, 40)
        pixels[truth] = (220, 30, 30)
        found.append(Annotated(file, pixels, (truth,), band & has_band))
    return found


def write_set(path: Path) -> None:
    """The pictures, as a tar."""
    with tarfile.open(path, "w") as tar:
        lines = []
        files = []
        for picture in pictures():
            said = {"file": picture.file, "masks": [encoded(mask) for mask in picture.masks]}
            if picture.ignored.any():
                said["ignore"] = encoded(picture.ignored)
            lines.append(json.dumps(said))
            file = io.BytesIO()
            Image.fromarray(picture.pixels).save(file, "PNG")
            files.append((picture.file, file.getvalue()))
        for name, content in [("annotations.jsonl", "\n".join(lines).encode()), *files]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def logits_of(mask: np.ndarray, side: int) -> np.ndarray:
    """Low-resolution logits (side, side) that give a mask (h, w) back, but for its edge."""
    small = Image.fromarray(mask).resize((side, side), Image.Resampling.BOX)
    return np.where(np.asarray(small), 8.0, -8.0).astype(np.float32)
