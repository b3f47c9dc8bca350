"""Colour of 16 bits a channel looks to the client as to the service: scaled by its own range."""

import io
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from sam2_client.pictures import open_picture
from tests.app.codecs.small_pictures import decoded
from tests.app.codecs.test_png import chunk, png
from tests.oriented_files import turn

VALUES = np.random.default_rng(0).integers(40, 4000, (11, 13, 4))
"""As of a camera of 12 bits, whose high bytes are 0 to 15."""
VALUES[..., 3] *= 16
VALUES[0, 0, 3] = 0
COLOURS = VALUES[..., :3]


def tiff(byte_order: Literal["<", ">"] = "<", **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, COLOURS.astype(np.uint16), photometric="rgb", byteorder=byte_order, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        png(COLOURS, 2, 16),
        png(COLOURS, 2, 16, chunk(b"eXIf", turn(6))),
        png(COLOURS, 2, 16, chunk(b"tRNS", b"".join(int(v).to_bytes(2, "big") for v in COLOURS[3, 3]))),
        png(VALUES, 6, 16, interlaced=True),
        png(COLOURS * 0 + 700, 2, 16),
        tiff(),
        tiff(">"),
        tiff(tile=(16, 16)),
        tiff(compression="zlib"),
        tiff(">", compression="zlib"),
    ],
    ids=[
        "PNG",
        "turned",
        "a transparent colour",
        "alpha",
        "one colour",
        "TIFF",
        "MM",
        "tiles",
        "zlib",
        "zlib MM",
    ],
)
def test_colour_of_16_bits_is_what_the_service_sees(data: bytes) -> None:
    seen = decoded(data).astype(int)
    assert np.abs(np.asarray(open_picture(data)).astype(int) - seen).max() <= 1


def test_what_is_cut_off_is_not_shown() -> None:
    with pytest.raises(OSError, match="truncated"):
        open_picture(tiff()[:-200])


def test_colour_of_8_bits_keeps_its_values() -> None:
    file = io.BytesIO()
    Image.fromarray((COLOURS // 16).astype(np.uint8)).save(file, "PNG")
    assert np.array_equal(np.asarray(open_picture(file.getvalue())), COLOURS // 16)
