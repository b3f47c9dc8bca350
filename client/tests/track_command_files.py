"""What the tests of `sam2 track` share: the command on clip.mp4, and what it has written in the working folder."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from sam2_client.command import main
from tests.small_videos import HEIGHT, WIDTH

POINT = ["--point", f"{WIDTH / 2},{HEIGHT / 2}"]


def run(*arguments: str, frames: str = "clip.mp4") -> int:
    """Run the command, and return its exit code."""
    return main(["track", frames, *arguments])


def mask(frame: int, *, folder: str = "masks", object_id: int = 1) -> np.ndarray:
    """Read the mask of an object on a frame."""
    return np.asarray(Image.open(f"{folder}/{object_id:03d}/{frame:06d}.png")) > 0


def written(folder: str = "masks") -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(each.relative_to(folder).as_posix() for each in Path(folder).rglob("*.*"))


def read(file: str = "out.json") -> dict[str, Any]:
    """Read a COCO file."""
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def shown(file: str = "out.mp4") -> list[tuple[float, np.ndarray]]:
    """Return the time of each frame of a video, and its pixels."""
    with av.open(file) as opened:
        return [
            (float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in opened.decode(video=0)
        ]
