"""Pictures of more than 8 bits look to the client as to the service: scaled by their own range."""

import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from sam2_client.pictures import Picture, open_picture
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


def other_tiff(values: npt.NDArray[Any], photometric: str = "minisblack", **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric=photometric, metadata=None, **options)
    return file.getvalue()


GREY = VALUES[..., 0]
WITH_HOLES = np.where(GREY % 3 == 0, -9999, GREY).astype(np.float32)
OTHER = {
    "grey and alpha": png(VALUES[..., 2:], 4, 16),
    "grey and alpha, interlaced": png(VALUES[..., 2:], 4, 16, interlaced=True),
    "transparent grey": png(GREY[..., None], 0, 16, chunk(b"tRNS", int(GREY.min()).to_bytes(2, "big"))),
    "white is 0": other_tiff(GREY.astype(np.uint16), "miniswhite"),
    "white is 0, floats": other_tiff(GREY.astype(np.float32), "miniswhite"),
    "signed bytes": other_tiff((GREY % 256 - 128).astype(np.int8)),
    "signed": other_tiff((GREY - 2000).astype(np.int16)),
    "beyond 2^31": other_tiff(GREY.astype(np.uint32) << 20),
    "no data": other_tiff(WITH_HOLES, extratags=[(42113, "s", 0, "-9999", True)]),
    "tiny": other_tiff(GREY.astype(np.float32) * np.float32(1e-15)),
    "CMYK": other_tiff((VALUES // 4).astype(np.uint16), "separated"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_deep_files_are_what_the_service_sees(kind: str) -> None:
    seen = decoded(OTHER[kind]).astype(int)
    assert len(np.unique(seen)) > 50
    assert np.abs(np.asarray(open_picture(OTHER[kind])).astype(int) - seen).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        other_tiff(np.moveaxis(COLOURS, 2, 0).astype(np.uint16), "rgb", planarconfig="separate"),
        other_tiff(VALUES.astype(np.uint16), "rgb", extrasamples=["assocalpha"]),
    ],
    ids=["planes", "premultiplied"],
)
def test_what_pillow_reads_otherwise_is_not_shown(data: bytes) -> None:
    decoded(data)
    with pytest.raises(OSError, match=r"cannot be shown here as the service sees it.*convert it to PNG"):
        open_picture(data)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_grey_of_16_bits_is_uploaded_in_any_byte_order(mode: str) -> None:
    values = COLOURS[..., 0]
    stored = values.astype({"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (13, 11), stored.tobytes())
    for picture in (image, stored):
        sent = np.asarray(Image.open(io.BytesIO(Picture(picture).read())))
        assert np.array_equal(sent, values)


def test_a_tiff_of_the_other_byte_order_is_itself_when_pillow_opens_it() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, COLOURS[..., 0].astype(np.uint16), byteorder=">")
    opened = Image.open(file)
    assert opened.mode == "I;16B"
    assert np.array_equal(decoded(Picture(opened).read()), decoded(file.getvalue()))
