"""Small pictures, their files in every format, and a decoder with checks."""

import io
import struct

import numpy as np
from PIL import Image

from app.codecs.images import Pixels, decode_image

HEIGHT, WIDTH = 6, 9
GREY = (90, 90, 90)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Return the file that Pillow writes for `image`."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Pixels:
    """Decode with a limit that no picture of these tests reaches, and check what every result must have."""
    pixels = decode_image(data, max_pixels=2_000_000)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    return pixels


def gradient(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Return a smooth picture in which no two pixels are the same, and no two orientations."""
    row, column = np.mgrid[0:height, 0:width]
    channels = (40 + 20 * row, 30 + 20 * column, 200 - 7 * (row + column))
    return np.stack(channels, axis=-1).astype(np.uint8)


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with another value for one tag of type SHORT or LONG."""
    patched = bytearray(tiff)
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [start + 2 + 12 * number for number in range(count)]
    (at,) = [entry for entry in entries if struct.unpack_from("<H", tiff, entry) == (tag,)]
    struct.pack_into("<I", patched, at + 8, value)
    return bytes(patched)


def exif(orientation: int, *, byte_order: str = "<") -> bytes:
    """Return an EXIF block as cameras write it: a text and a fraction in addition to the orientation."""
    block = Image.Exif()
    block.endian = byte_order
    block[0x010F] = "Maker of cameras"
    block[0x0112] = orientation
    block[0x011A] = 72.0
    return block.tobytes()


LOSSLESS: list[tuple[str, dict[str, object]]] = [
    ("PNG", {}),
    ("PNG", {"optimize": True}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    *[("TIFF", {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")],
]
LOSSY: list[tuple[str, dict[str, object]]] = [
    ("JPEG", {"quality": 95, "subsampling": 0}),
    ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
    ("JPEG", {"quality": 95, "keep_rgb": True}),
    ("MPO", {"quality": 95, "subsampling": 0}),
    ("WEBP", {"quality": 95}),
    ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ("TIFF", {"compression": "jpeg", "quality": 95}),
]


def filled(mode: str, colour: object) -> Image.Image:
    """Return a picture of one colour, given as in its mode."""
    return Image.new(mode, (WIDTH, HEIGHT), colour)  # type: ignore[arg-type]


def gif_of_a_small_frame(transparent: int | None = None) -> tuple[bytes, Pixels]:
    """Return a GIF whose first frame, blue, is smaller than its screen, and its pixels as browsers show them."""
    control = b"" if transparent is None else b"!\xf9\4\1\0\0" + bytes((transparent, 0))
    head = b"GIF89a" + struct.pack("<HHBBB", 9, 7, 0x80, 0, 0) + bytes((200, 0, 0, 0, 0, 200))
    frame = b"," + struct.pack("<HHHHB", 2, 3, 4, 2, 0) + b"\2\5\x4c\x98\x30\x61\x52\0;"
    shown = np.full((7, 9, 3), 255, np.uint8)
    shown[3:5, 2:6] = (0, 0, 200)
    return head + control + frame, shown
