"""What the checks of all tools need: lines for the results, a large picture, /decode as the reference, and times.

Needs httpx, numpy and Pillow alone, because it runs in the tools' environments.
"""

import base64
import io
import os
import statistics
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw

from tests.server import ROOT, running_server

SCENE = ROOT / "tests" / "data" / "scenes" / "1.jpg"
_REPETITIONS = 20


class Checks:
    """Prints a line for each check, and remembers failures."""

    def __init__(self) -> None:
        self.failed = 0

    def check(self, what: str, holds: bool, detail: object = "") -> None:
        """Print the result of one check."""
        self.failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}{f' ({detail})' if detail != '' else ''}", flush=True)

    def end(self) -> None:
        """End the process: 1 if a check failed."""
        print(f"{self.failed} failed" if self.failed else "all passed")
        sys.exit(1 if self.failed else 0)


@contextmanager
def serving(**settings: str) -> Iterator[tuple[str, Path]]:
    """Yield the address of a server of this checkout with the built-in model, and the file of its log.

    SERVER_PYTHON names the interpreter that has the server's requirements; default is .venv of this checkout.
    """
    python = os.environ.get("SERVER_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"checkpoint": "", "log_level": "info"} | settings
        with running_server(Path(folder), python=python, **settings) as url:
            yield url, Path(folder) / "server.log"


class Reference:
    """Our own endpoints, with which a door is compared."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"X-API-Key": key} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def embed(self, data: bytes) -> str:
        """Embed a picture file. Return its id."""
        reply = self._client.post("/embed", content=data, headers={"Content-Type": "image/jpeg"})
        return str(reply.raise_for_status().json()["image_id"])

    def decode(self, image_id: str, **prompt: Any) -> dict[str, Any]:
        """Return the best mask of a prompt, as /decode has it."""
        reply = self._client.post("/decode", json={"image_id": image_id, **prompt})
        best: dict[str, Any] = reply.raise_for_status().json()["predictions"][0]["masks"][0]
        return best

    def mask(self, image_id: str, **prompt: Any) -> np.ndarray:
        """Return the best mask of a prompt (height, width)."""
        png = self.decode(image_id, mask_format="png", **prompt)["png"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("1"))


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Return the IoU of two masks (height, width); 1 for two empty ones."""
    either = (one | other).sum()
    return float((one & other).sum() / either) if either else 1.0


def filled(rings: list[list[list[float]]], height: int, width: int) -> np.ndarray:
    """Return the mask (height, width) of outer rings of [x, y], where pixel (0, 0) covers 0..1 x 0..1."""
    image = Image.new("1", (4 * width, 4 * height))
    for ring in rings:
        ImageDraw.Draw(image).polygon([(4 * x, 4 * y) for x, y in ring], fill=1)
    return np.asarray(image)[2::4, 2::4]


def large_jpeg() -> bytes:
    """Return a JPEG file of 4000 x 3000 pixels."""
    file = io.BytesIO()
    with Image.open(SCENE) as scene:
        scene.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def another(data: bytes, number: int) -> bytes:
    """Return the same JPEG picture as other bytes: with a comment."""
    return data[:2] + b"\xff\xfe" + struct.pack(">HI", 6, number) + data[2:]


def median_ms(call: Callable[[int], object]) -> float:
    """Call a function with 0, 1, 2 and so on. Return the median of its times."""
    times = []
    for number in range(_REPETITIONS):
        started = perf_counter()
        call(number)
        times.append(1000 * (perf_counter() - started))
    return statistics.median(times)


def print_times(
    data: bytes,
    reference: Reference,
    *,
    door: Callable[[bytes], object],
    point: tuple[float, float],
    base64_bytes: int,
) -> None:
    """Print medians of the first click and of later ones, through a door and through /embed and /decode.

    `door` clicks at `point` on a picture file.
    """
    prompt = {"point_coords": [list(point)], "point_labels": [1]}
    door(another(data, 10**6))  # connections and caches are warm from here on
    first_own = median_ms(lambda number: reference.decode(reference.embed(another(data, number)), **prompt))
    first = median_ms(lambda number: door(another(data, 1000 + number)))
    image_id = reference.embed(data)
    door(data)
    own = median_ms(lambda _: reference.decode(image_id, **prompt))
    later = median_ms(lambda _: door(data))
    mb = base64_bytes / 1e6
    print(
        f"first click: {first:.0f} ms; /embed and /decode: {first_own:.0f} ms ({_REPETITIONS} pictures each)"
    )
    print(f"later clicks: {later:.1f} ms; /decode: {own:.1f} ms; {mb:.1f} MB of base64")
    print(f"that is {(later - own) / mb:.1f} ms per MB over /decode")
