"""Requests of clients: their own pictures, clicks, uploads.

Does not know about time.
"""

import io
import json
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from model.types import Pixels
from tests.bench.load import Stream
from tests.bench.server import RunningServer
from tests.golden.recipe import image

WIDTH, HEIGHT = 1800, 1200


def own_picture(number: int) -> Pixels:
    """Return the picture of one client, HEIGHT x WIDTH: a rectangle on a plain background."""
    colour = np.array([40 + 10 * number, 200 - 9 * number, 90], np.uint8)
    pixels = np.broadcast_to(colour, (HEIGHT, WIDTH, 3)).copy()
    pixels[200 : 300 + 40 * number, 300 : 600 + 50 * number] = 255 - colour
    return pixels


def embed_own_pictures(server: RunningServer, count: int) -> list[str]:
    """Embed the first `count` own pictures, if they are not embedded yet. Return their ids."""
    ids = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(own_picture(number)).save(file, format="PNG", compress_level=1)
        ids.append(server.embed(file.getvalue()))
    return ids


def places(client: int) -> list[tuple[float, float]]:
    """Return the points at which a client clicks, in turn: x, y in pixels."""
    return [(150.0 + 200 * i, 100.0 + (client * 37 + i * 131) % 1000) for i in range(8)]


def clickers(count: int, ids: Sequence[str]) -> tuple[Stream, ...]:
    """Return clients that click at their own places, on their own pictures (shared if there are more clients)."""
    return tuple(
        Stream(
            "click",
            "/decode",
            "application/json",
            tuple(_click(ids[client % len(ids)], *place) for place in places(client)),
        )
        for client in range(count)
    )


def jpeg_of_a_megabyte() -> bytes:
    """Return a JPEG of 1800 x 1200 pixels and about 10**6 bytes, with noise."""
    picture = Image.fromarray(image("upload", WIDTH, HEIGHT))
    files = []
    for quality in range(98, 60, -2):
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=quality)
        files.append(file.getvalue())
        if file.tell() < 1_000_000:
            break
    return min(files, key=lambda data: abs(len(data) - 1_000_000))


def tiny_bitmap(number: int) -> bytes:
    """Return a BMP file of one pixel: a different picture for each number below 2**24, and no work to decode."""
    file_header = struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54)
    picture_header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
    return file_header + picture_header + struct.pack("<I", number)


def _click(image_id: str, x: float, y: float) -> bytes:
    return json.dumps({"image_id": image_id, "point_coords": [[x, y]], "point_labels": [1]}).encode()
