"""Pictures are decoded upright, as their EXIF says; broken or doubtful metadata is ignored."""

import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from app.codecs.images import Pixels
from tests.app.codecs.small_pictures import (
    GREY,
    HEIGHT,
    LOSSLESS,
    LOSSY,
    WIDTH,
    decoded,
    encoded,
    exif,
    filled,
    gradient,
)

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("file_format", "options"), [LOSSLESS[0], *LOSSLESS[4:6]])
def test_pictures_come_out_upright(orientation: int, file_format: str, options: dict[str, object]) -> None:
    tag = {"tiffinfo": {0x0112: orientation}} if file_format == "TIFF" else {"exif": exif(orientation)}
    data = encoded(Image.fromarray(gradient()), file_format, **options, **tag)
    np.testing.assert_array_equal(decoded(data), UPRIGHT[orientation](gradient()))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("file_format", "options"), [LOSSY[0], LOSSY[3], LOSSY[5]])
def test_photographs_come_out_upright(orientation: int, file_format: str, options: dict[str, object]) -> None:
    if file_format == "MPO":  # a phone's second picture (depth, another exposure) is ignored
        options = {**options, "save_all": True, "append_images": [filled("RGB", "red")]}
    data = encoded(
        Image.fromarray(gradient()), file_format, exif=exif(orientation, byte_order=">"), **options
    )
    assert np.abs(decoded(data).astype(int) - UPRIGHT[orientation](gradient())).mean() < 8


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("size", [(700, 801), (5, 65_535), (65_535, 5)])
def test_large_pictures_come_out_whole(orientation: int, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(orientation).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(picture), "PNG", exif=exif(orientation), compress_level=0)
    np.testing.assert_array_equal(decoded(data), UPRIGHT[orientation](picture))


def with_exif(file_format: str, block: bytes) -> bytes:
    """Return a grey picture with `block` as its EXIF."""
    if file_format != "AVIF":
        return encoded(filled("RGB", GREY), file_format, exif=b"Exif\0\0" + block, lossless=True)
    # the AVIF encoder checks the block, so it is damaged after encoding
    room = b"II*\0\x08\0\0\0" + bytes(300)
    data = encoded(filled("RGB", GREY), "AVIF", exif=room)
    assert room in data
    return data.replace(room, block.ljust(len(room), b"\xff"))


BROKEN_EXIF = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "cut in its header": b"II*\0\x08",
    "begins after its end": b"II*\0\xff\xff\xff\xff",
    "claims more tags than it has": b"MM\0*\0\0\0\x08\xff\xff\x01\x0f",
    "orientation of 9": exif(9)[6:],
    "orientation of 0": exif(0)[6:],
    "orientation in words": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, 2, 2) + b"\x06\0\0\0",
    "a text far outside": exif(1)[6:].replace(
        struct.pack("<HHI", 0x010F, 2, 17), struct.pack("<HHI", 0x010F, 2, 2**31)
    ),
    "a resolution of no numbers": b"II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHII", 0x011A, 5, 0, 0)
    + struct.pack("<HHII", 0x0128, 3, 1, 2)
    + bytes(4),
}


@pytest.mark.parametrize("damage", BROKEN_EXIF)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_broken_exif_is_ignored(file_format: str, damage: str) -> None:
    result = decoded(with_exif(file_format, BROKEN_EXIF[damage]))
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result.astype(int) - 90).max() <= 2


def test_a_broken_index_of_further_pictures_is_ignored() -> None:
    data = bytearray(encoded(filled("RGB", GREY), "MPO", save_all=True, append_images=[filled("RGB", "red")]))
    at = data.index(b"MPF\0")
    data[at + 4 : at + 40] = b"\xff" * 36
    assert np.abs(decoded(bytes(data)).astype(int) - 90).max() <= 2


def test_bytes_that_fill_a_jpeg_do_not_hide_its_orientation() -> None:
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=exif(6))
    assert decoded(data[:2] + b"\xff\xff" + data[2:]).shape == (WIDTH, HEIGHT, 3)


def test_doubtful_metadata_is_neither_an_error_nor_logged() -> None:
    tiff = encoded(filled("RGB", GREY), "TIFF", tiffinfo={0x010F: "Maker of cameras"})
    at = tiff.index(struct.pack("<HHI", 0x010F, 2, 17))
    doubtful = tiff[: at + 4] + struct.pack("<I", 2**31) + tiff[at + 8 :]
    program = (
        "import sys; from app.codecs.images import decode_image; "
        "print(decode_image(sys.stdin.buffer.read(), max_pixels=100).shape)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], input=doubtful, capture_output=True)
    assert (done.stdout.strip(), done.stderr) == (b"(6, 9, 3)", b"")
