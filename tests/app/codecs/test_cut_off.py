"""What is cut off is refused in every format, also where its container says that it is whole."""

import struct

import numpy as np
import pytest
from PIL import Image

from app.codecs.jpeg import jpeg_segments
from app.codecs.tiff_tags import Directory, Tag
from app.errors import InvalidImage
from tests.app.codecs.small_pictures import decoded, encoded

NOISE = np.random.default_rng(0).integers(1, 255, (64, 64, 3), dtype=np.uint8)
PICTURE = Image.fromarray(NOISE)
END = b"\xff\xd9"

JPEGS = {
    "baseline": encoded(PICTURE, "JPEG"),
    "progressive": encoded(PICTURE, "JPEG", progressive=True),
    "own codes": encoded(PICTURE, "JPEG", optimize=True),
    "restarts": encoded(PICTURE, "JPEG", restart_marker_rows=1),
    "grey": encoded(PICTURE.convert("L"), "JPEG"),
    "progressive grey": encoded(PICTURE.convert("L"), "JPEG", progressive=True),
    "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "CMYK, three inks at half resolution": encoded(PICTURE.convert("CMYK"), "JPEG", subsampling=1),
    "progressive CMYK, three at a quarter": encoded(
        PICTURE.convert("CMYK"), "JPEG", subsampling=2, progressive=True
    ),
    "flat, whose data are zeros": encoded(Image.new("L", (640, 640), 128), "JPEG", optimize=True),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize(
    "ending", [b"", b"\xff", END, END + b"more" * 50, bytes(500), b"\xff\xff\xff" + END], ids=repr
)
def test_a_jpeg_that_lacks_only_its_end_is_whole(kind: str, ending: bytes) -> None:
    data = JPEGS[kind]
    if "zeros" in kind:
        ending = ending.strip(b"\0")  # could be what is missing
    np.testing.assert_array_equal(decoded(data[:-2] + ending), decoded(data))


@pytest.mark.parametrize("part", [0.5, 0.8, 0.95, 0.98])
@pytest.mark.parametrize("kind", [kind for kind in JPEGS if "flat" not in kind])
def test_a_jpeg_without_its_last_rows_is_refused(kind: str, part: float) -> None:
    data = JPEGS[kind]
    cut = data[: int(len(data) * part)]
    for file in (cut, cut + END, cut.ljust(len(data) + 999, b"\0"), cut.ljust(len(data) + 999, b"\0") + END):
        with pytest.raises(InvalidImage):
            decoded(file)


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = JPEGS["progressive"]
    scans = [start for marker, start, _ in jpeg_segments(data) if marker == 0xDA]
    for start in scans[1:]:
        with pytest.raises(InvalidImage, match="before its last scan"):
            decoded(data[:start])


def test_damage_within_a_jpeg_is_refused() -> None:
    data = JPEGS["restarts"]
    first, last = data.index(b"\xff\xd0"), data.index(b"\xff\xd2")
    with pytest.raises(InvalidImage):
        decoded(data[: first + 2] + data[last:])


@pytest.mark.parametrize("what", [b"\0\0\0", b"\xff\xfe\0\4xx", b"\xff\xff\xff\xff"], ids=repr)
def test_what_lies_between_the_scans_is_no_damage(what: bytes) -> None:
    data = JPEGS["progressive"]
    scans = [start for marker, start, _ in jpeg_segments(data) if marker == 0xDA]
    np.testing.assert_array_equal(decoded(data[: scans[2]] + what + data[scans[2] :]), decoded(data))


def gif(part: float, *, interlaced: bool, picture: Image.Image = PICTURE) -> bytes:
    """Return a GIF of a part of its data, in proper blocks, with its end."""
    data = encoded(picture.quantize(64), "GIF", interlace=int(interlaced))
    at = data.index(b"\x2c", 13 + 3 * 64) + 11
    head, pixels = data[:at], b""
    while data[at]:
        pixels += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    pixels = pixels[: int(len(pixels) * part)]
    blocks = [pixels[at : at + 255] for at in range(0, len(pixels), 255)]
    return head + b"".join(bytes((len(block),)) + block for block in blocks) + b"\0;"


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_gif_of_too_few_rows_is_refused(interlaced: bool) -> None:
    for part in (0.3, 0.5, 0.9, 0.98):
        with pytest.raises(InvalidImage):
            decoded(gif(part, interlaced=interlaced))
    assert decoded(gif(1, interlaced=interlaced)).shape == (64, 64, 3)


@pytest.mark.parametrize("height", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_gif_that_ends_in_its_first_colour_is_whole(height: int, interlaced: bool) -> None:
    picture = Image.new("RGB", (9, height), (1, 2, 3))
    assert (decoded(encoded(picture, "GIF", interlace=int(interlaced))) == (1, 2, 3)).all()
    clear = encoded(picture.quantize(2), "GIF", interlace=int(interlaced), transparency=0)
    assert (decoded(clear) == 255).all()


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_a_webp_of_half_its_data_is_refused(lossless: bool, part: float) -> None:
    data = encoded(PICTURE, "WEBP", lossless=lossless)
    cut = bytearray(data[: int(len(data) * part) // 2 * 2])
    filled = bytes(cut).ljust(len(data), b"\0")
    struct.pack_into("<I", cut, 4, len(cut) - 8)
    struct.pack_into("<I", cut, 16, len(cut) - 20)
    for file in (data[: len(cut)], bytes(cut), filled):
        with pytest.raises(InvalidImage):
            decoded(file)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_an_avif_of_half_its_data_is_refused(part: float) -> None:
    data = encoded(PICTURE, "AVIF")
    cut = data[: int(len(data) * part)]
    for file in (cut, cut.ljust(len(data), b"\0")):
        with pytest.raises(InvalidImage):
            decoded(file)


@pytest.mark.parametrize("colour", ["black", "white", "grey", "red"])
@pytest.mark.parametrize(("file_format", "lossless"), [("WEBP", False), ("WEBP", True), ("AVIF", False)])
def test_large_areas_of_one_colour_are_no_filling(colour: str, file_format: str, lossless: bool) -> None:
    data = encoded(Image.new("RGB", (1400, 1400), colour), file_format, lossless=lossless)
    assert decoded(data).shape == (1400, 1400, 3)


def run_length_bmp(data: bytes, *, bits: int = 8) -> bytes:
    """Return a BMP of 4 x 3 with a palette of 16 greys."""
    head = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, bits, 1 if bits == 8 else 2, 0, 0, 0, 16, 0)
    palette = b"".join(bytes((16 * grey,) * 3) + b"\0" for grey in range(16))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 64) + head + palette + data


@pytest.mark.parametrize(
    ("data", "bits", "rows"),
    [
        (b"\4\1\0\0\4\2\0\0\4\3\0\1", 8, [[3] * 4, [2] * 4, [1] * 4]),
        (b"\0\4\1\2\3\4\0\0\2\5\0\0\0\3\6\7\x08\0\0\1", 8, [[6, 7, 8, 0], [5, 5, 0, 0], [1, 2, 3, 4]]),
        (b"\0\2\1\1\3\7\0\0\4\1\0\1", 8, [[1] * 4, [0, 7, 7, 7], [0] * 4]),  # a step to the right and up
        (b"\4\x12\0\0\0\3\x34\x50\0\0\3\x67\0\1", 4, [[6, 7, 6, 0], [3, 4, 5, 0], [1, 2, 1, 2]]),
    ],
)
def test_run_length_bmps_are_read_as_written(data: bytes, bits: int, rows: list[list[int]]) -> None:
    np.testing.assert_array_equal(decoded(run_length_bmp(data, bits=bits))[..., 0], 16 * np.array(rows))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\4\1\0\0",
        b"\4\1\0\0\4\2\0\1",
        b"\4\1\4\2\4\3",
        b"\4\1\0\0\4\2\0\0\0",
        b"\4\1\0\0\4\2\0\0\0\4\1",
    ],
)
def test_a_run_length_bmp_of_too_few_rows_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="last rows are missing"):
        decoded(run_length_bmp(data))


def test_a_tiff_without_the_end_of_its_directory_is_refused() -> None:
    """Its last tag says that the second sample is alpha."""
    data = encoded(PICTURE.convert("LA"), "TIFF", compression="packbits")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    end = at + 2 + 12 * count
    without_the_address_of_the_next_picture = data[:end]
    np.testing.assert_array_equal(decoded(without_the_address_of_the_next_picture), decoded(data))
    for cut in (3, 4, 5, 8, 11, 12, 13, 40):
        with pytest.raises(InvalidImage, match="cut off"):
            decoded(data[: end - cut])


@pytest.mark.parametrize("photometric", ["L", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_jpeg_in_tiff_is_whole_or_refused(photometric: str) -> None:
    data = encoded(PICTURE.convert(photometric), "TIFF", compression="jpeg", quality=95)
    whole = decoded(data)
    assert np.abs(whole.astype(int) - np.asarray(PICTURE.convert(photometric).convert("RGB"))).mean() < 40
    directory = Directory(data)
    *lengths, last = directory.all(Tag.STRIP_BYTES)
    for file in (data[: len(data) // 2], directory.with_tags({Tag.STRIP_BYTES: (*lengths, last // 2)})):
        with pytest.raises(InvalidImage):
            decoded(file)
