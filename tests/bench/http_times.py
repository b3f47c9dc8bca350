"""Measures times over HTTP, as one client on the same machine sees them: python -m tests.bench.http_times

Starts its own server with random weights. They take as long as real ones, but their ragged masks take longer to
encode. Prints a table of medians; docs/performance.md ("Random weights") has the results.
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from model.network.config import VARIANTS
from tests.server import running_server

WIDTH, HEIGHT = 1800, 1200
_CACHED_UPLOADS = 50


def photograph(seed: int) -> bytes:
    """Return a JPEG of 1800 x 1200 pixels with detail at every scale, a different one for each seed."""
    random = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        picture += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) / 4
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def median_ms(ask: Callable[[int], object], repeats: int) -> float:
    """Return the median time of `ask(i)` in ms, after one call that does not count."""
    times = []
    for i in range(repeats + 1):
        started = time.perf_counter()
        ask(i)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])


def measure(client: httpx.Client, repeats: int) -> dict[str, float]:
    """Return median milliseconds by kind of request."""

    def embed(picture: bytes) -> str:
        reply = client.post(
            "/embed", content=picture, headers={"Content-Type": "image/jpeg"}
        ).raise_for_status()
        return str(reply.json()["image_id"])

    def decode(*prompts: dict[str, Any]) -> None:
        client.post("/decode", json={"image_id": image_id, "prompts": prompts}).raise_for_status()

    pictures = [photograph(seed) for seed in range(repeats + 1)]
    image_id = embed(pictures[0])
    random = np.random.default_rng(0)
    clicks = (random.random((repeats + 1, 2)) * (WIDTH, HEIGHT)).round().tolist()
    corners = (random.random((16, 2)) * (WIDTH / 2, HEIGHT / 2)).round().tolist()
    boxes = [{"box": [x, y, x + 600, y + 400]} for x, y in corners]
    return {
        "embed a new picture": median_ms(lambda i: embed(pictures[i]), repeats),
        "embed it again (cached)": median_ms(lambda _: embed(pictures[0]), _CACHED_UPLOADS),
        "one click, three masks": median_ms(
            lambda i: decode({"point_coords": [clicks[i]], "point_labels": [1]}), repeats
        ),
        "16 boxes, a mask each": median_ms(lambda _: decode(*boxes), repeats),
    }


def main() -> None:
    """Measure one variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=VARIANTS, default="sam2.1_hiera_tiny")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), model=arguments.model, deadline_s="600") as url,
        httpx.Client(base_url=url, timeout=600, trust_env=False) as client,
    ):
        times = measure(client, arguments.repeats)
        model = client.get("/model").json()
    print(
        f"{model['model']} on {model['device']} in {model['dtype']}; {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(
        f"JPEG of {WIDTH} x {HEIGHT} pixels; medians of {arguments.repeats}, cached uploads of {_CACHED_UPLOADS}\n"
    )
    print("| one request | ms |\n| --- | ---: |")
    for what, ms in times.items():
        print(f"| {what} | {ms:.{1 if ms < 100 else 0}f} |")


if __name__ == "__main__":
    main()
