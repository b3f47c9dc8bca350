"""What clients send: pictures of their own, clicks, uploads.

Knows nothing of time.
"""

import io
import json
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tests.bench.load import Stream
from tests.bench.server import RunningServer
from tests.golden.recipe import image

WIDTH, HEIGHT = 1800, 1200


def embed_own_pictures(server: RunningServer, count: int) -> list[str]:
    """Ids of `count` different pictures of 1800 x 1200, embedded now if they are not yet."""
    ids = []
    for i in range(count):
        colour = np.array([40 + 10 * i, 200 - 9 * i, 90], np.uint8)
        pixels = np.broadcast_to(colour, (HEIGHT, WIDTH, 3)).copy()
        pixels[200 : 300 + 40 * i, 300 : 600 + 50 * i] = 255 - colour
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
        ids.append(server.embed(file.getvalue()))
    return ids


def clickers(count: int, ids: Sequence[str]) -> tuple[Stream, ...]:
    """Clients, each clicking in eight places of its own picture (or sharing it, where there are more clients)."""
    return tuple(
        Stream(
            "click",
            "/decode",
            "application/json",
            tuple(
                _click(ids[i % len(ids)], 150 + 200 * place, 100 + (i * 37 + place * 131) % 1000)
                for place in range(8)
            ),
        )
        for i in range(count)
    )


def jpeg_of_a_megabyte() -> bytes:
    """A JPEG of 1800 x 1200 and about 10**6 bytes, noise included."""
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
    """A BMP file of one pixel: another picture for each number below 2**24, and no work to decode."""
    file_header = struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54)
    picture_header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
    return file_header + picture_header + struct.pack("<I", number)


def _click(image_id: str, x: int, y: int) -> bytes:
    return json.dumps({"image_id": image_id, "point_coords": [[x, y]], "point_labels": [1]}).encode()
