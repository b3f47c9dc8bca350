"""Files that are no picture, broken or too large get the right error, in little memory. None is accepted."""

import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.codecs.images import decode_image
from app.codecs.tiff_tags import Directory, Tag
from app.errors import ImageTooLarge, InvalidImage, ServiceError
from tests.app.codecs.small_pictures import encoded, exif, filled, gradient, with_tag

MEGAPIXEL = 1_000_000
HUGE = 100_000


def whole_files() -> dict[str, bytes]:
    """Return one file of every supported kind."""
    picture = Image.fromarray(gradient())
    return {
        "JPEG": encoded(picture, "JPEG", exif=exif(6)),
        "progressive JPEG": encoded(picture, "JPEG", progressive=True),
        "CMYK JPEG": encoded(picture.convert("CMYK"), "JPEG"),
        "MPO": encoded(picture, "MPO", save_all=True, append_images=[picture]),
        "PNG": encoded(picture, "PNG", exif=exif(6)),
        "palette PNG": encoded(picture.quantize(16), "PNG", transparency=1),
        "grey PNG of 16 bits": encoded(picture.convert("L").convert("I;16"), "PNG"),
        "animated PNG": encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(180)]),
        "GIF": encoded(picture, "GIF"),
        "animated GIF": encoded(
            picture, "GIF", save_all=True, append_images=[picture.rotate(180)], disposal=2
        ),
        "WebP": encoded(picture, "WEBP", exif=exif(6)),
        "lossless WebP": encoded(picture.convert("RGBA"), "WEBP", lossless=True),
        "AVIF": encoded(picture, "AVIF", exif=exif(6)),
        "BMP": encoded(picture, "BMP"),
        "palette BMP": encoded(picture.quantize(16), "BMP"),
        "TIFF": encoded(picture, "TIFF", tiffinfo={0x0112: 6}),
        "deflated TIFF": encoded(picture, "TIFF", compression="tiff_adobe_deflate", tiffinfo={0x0112: 6}),
        "JPEG in TIFF": encoded(picture, "TIFF", compression="jpeg"),
        "float TIFF": encoded(picture.convert("F"), "TIFF"),
    }


WHOLE = whole_files()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"hello", "not a picture"),
        (bytes(1000), "not a picture"),
        (b"\n<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"\xef\xbb\xbf<html><svg></svg></html>", "an HTML page"),
        (
            b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
            "an SVG drawing",
        ),
        (b'<svg width="9">', "an SVG drawing"),
        (b'<?xml version="1.0"?><feed/>', "an XML document"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b'{"image": "..."}', "JSON"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data URL"),
        (b"/9j/4AAQSkZJRgABAQ", "in base64"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video: POST it to /videos"),
        (b"\x1aE\xdf\xa3", "a video: POST it to /videos"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(body: bytes, words: str) -> None:
    with pytest.raises(InvalidImage, match=words) as refusal:
        decode_image(body, max_pixels=MEGAPIXEL)
    assert "JPEG" in refusal.value.message
    assert "0x" not in refusal.value.message  # not the address of a Python object


@pytest.mark.parametrize("file_format", ["EPS", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "PDF"])
def test_formats_that_are_not_listed_are_refused(file_format: str) -> None:
    with pytest.raises(InvalidImage):
        decode_image(encoded(filled("RGB", "red"), file_format), max_pixels=MEGAPIXEL)


@pytest.mark.parametrize(("at", "value"), [(4, b"\x0c"), (1, b"\xc3")], ids=["12 bits", "lossless"])
def test_whole_pictures_of_another_kind_are_not_called_cut_off(at: int, value: bytes) -> None:
    """Seen: The picture is broken or cut off (Unsupported JPEG data precision 12). Send the whole file."""
    frame = WHOLE["JPEG"].index(b"\xff\xc0")
    with pytest.raises(InvalidImage, match=r"of an unusual kind .*Save it again"):
        decode_image(patched(WHOLE["JPEG"], frame + at, value), max_pixels=MEGAPIXEL)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cut_file_is_refused_and_never_half_a_picture(kind: str) -> None:
    data = WHOLE[kind]
    whole = decode_image(data, max_pixels=MEGAPIXEL)
    refused = 0
    for length in range(1, len(data)):
        try:
            result = decode_image(data[:length], max_pixels=MEGAPIXEL)
        except InvalidImage:
            refused += 1
        else:  # only bytes after the pixels are missing
            np.testing.assert_array_equal(result, whole)
    assert refused > len(data) / 3  # a second frame or picture takes up to half of its file


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + rest


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def gif(screen: int, frame: int, *, extension: bytes = b"") -> bytes:
    """Return a GIF whose frame asks to be replaced by the background afterwards (its disposal)."""
    wipe = b"\x21\xf9\x04\x08\0\0\0\0"
    return (
        struct.pack("<6sHHBBB", b"GIF89a", screen, screen, 0, 0, 0)
        + extension
        + wipe
        + (struct.pack("<BHHHHB", 0x2C, 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\0;")
    )


def tiled_tiff(side: int, tile_side: int, data: bytes) -> bytes:
    """Return a TIFF of 8-bit grey, deflated, in one tile."""
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile_side, 323: tile_side}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def run_length_bmp(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 0, 0, 0, 54 + 1024)
        + header
        + bytes(range(256)) * 4
        + b"\1\5\0\0" * side
        + b"\0\1"
    )


def bombs() -> dict[str, bytes]:
    """Return small files whose headers claim 100 megapixels and more."""
    small = filled("RGB", "red")
    jpeg, webp, avif = encoded(small, "JPEG"), encoded(small, "WEBP"), encoded(small, "AVIF")
    lossless, extended = encoded(small, "WEBP", lossless=True), encoded(small, "WEBP", exif=exif(1))
    tiff = encoded(small, "TIFF", compression="tiff_adobe_deflate")
    return {
        "PNG": png(HUGE, HUGE, pixels=bytes(4_000_000)),
        "PNG, the largest": png(2**31 - 1, 2**31 - 1),
        "JPEG": patched(jpeg, jpeg.index(b"\xff\xc0") + 5, b"\xff" * 4),
        "GIF": gif(65535, 9),
        "GIF, frame beyond the screen": gif(9, 65535),
        "GIF, empty extension first": gif(9, 65535, extension=b"\x21\xff\0"),
        "WebP": patched(webp, 26, b"\xff\x3f\xff\x3f"),
        "lossless WebP": patched(lossless, 21, b"\xff\xff\xff\x0f"),
        "extended WebP": patched(extended, 24, b"\xff" * 6),
        "AVIF": patched(avif, avif.index(b"ispe") + 8, struct.pack(">II", HUGE, HUGE)),
        "BMP": patched(encoded(small, "BMP"), 18, struct.pack("<ii", HUGE, HUGE)),
        "BMP, run-length coded": run_length_bmp(9_000),
        "TIFF": with_tag(with_tag(tiff, 256, HUGE), 257, HUGE),
        "TIFF, tile beyond the picture": tiled_tiff(16, 20_000, zlib.compress(bytes(10_000_000), 9)),
    }


@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_is_refused_by_its_size(kind: str) -> None:
    with pytest.raises(ImageTooLarge, match=r"\d+ x \d+.* limit .*\d megapixels|SAM2_MAX_IMAGE_MEGAPIXELS"):
        decode_image(bombs()[kind], max_pixels=81 * MEGAPIXEL)


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(ImageTooLarge) as refusal:
        decode_image(bombs()["PNG"], max_pixels=100 * MEGAPIXEL)
    assert refusal.value.message == (
        "The picture is 100000 x 100000 = 10000 megapixels; the limit is 100 (SAM2_MAX_IMAGE_MEGAPIXELS). "
        "Send a smaller picture."
    )


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(filled("RGB", "red"), "PNG")
    assert decode_image(data, max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(ImageTooLarge):
        decode_image(data, max_pixels=53)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for number, data in enumerate(bombs().values()):
        (tmp_path / str(number)).write_bytes(data)
    program = """
import pathlib, resource, sys
from app.errors import ImageTooLarge
from app.codecs.images import decode_image
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        decode_image(path.read_bytes(), max_pixels=80_000_000)
    except ImageTooLarge:
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused"] * len(bombs())


def test_small_run_length_bmps_are_read() -> None:
    assert decode_image(run_length_bmp(40), max_pixels=MEGAPIXEL).shape == (40, 40, 3)


def test_what_strangers_send_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidImage):
        decode_image(with_tag(WHOLE["TIFF"], 277, 5_000), max_pixels=MEGAPIXEL)
    assert not caplog.records


def test_libtiff_writes_nothing_of_what_strangers_send(capfd: pytest.CaptureFixture[str]) -> None:
    """It would write a line for each row of a fax that it cannot read, and one for most other damage."""
    random = np.random.default_rng(0)
    for compression in ("group3", "group4", "tiff_lzw", "tiff_adobe_deflate"):
        noise = Image.fromarray(random.integers(0, 2, (40, 64)).astype(bool))
        if compression.startswith("tiff"):
            noise = noise.convert("L")
        data = encoded(noise, "TIFF", compression=compression)
        directory = Directory(data)
        at, length = directory.one(Tag.STRIP_OFFSETS, 0), directory.one(Tag.STRIP_BYTES, 0)
        with suppress(InvalidImage):
            decode_image(patched(data, at, random.bytes(length)), max_pixels=MEGAPIXEL)
    assert capfd.readouterr().err == ""


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(filled("L", 90), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans"):
        decode_image(data[:-2] + last_scan * 200 + data[-2:], max_pixels=MEGAPIXEL)


def test_a_jpeg_of_endless_segments_is_refused() -> None:
    data = WHOLE["JPEG"]
    with pytest.raises(InvalidImage, match="segments"):
        decode_image(data[:2] + b"\xff\xc4\0\2" * 5_000 + data[2:], max_pixels=MEGAPIXEL)


@pytest.mark.parametrize(
    "data",
    [
        png(0, 5),
        png(5, 0),
        patched(WHOLE["JPEG"], WHOLE["JPEG"].index(b"\xff\xc0") + 5, bytes(4)),
        patched(WHOLE["BMP"], 18, bytes(8)),
        gif(0, 0),
        b"GIF89a\1\0\1\0\0\0\0;",
    ],
)
def test_a_picture_of_no_size_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_image(data, max_pixels=MEGAPIXEL)


edit = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 4),
    st.sampled_from(
        [b"", b"\0", b"\xff", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1"]
    ),
)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(kind=st.sampled_from(sorted(WHOLE)), edits=st.lists(edit, min_size=1, max_size=5))
def test_damage_gives_a_picture_or_our_own_error(kind: str, edits: list[tuple[float, int, bytes]]) -> None:
    data = WHOLE[kind]
    for where, removed, added in edits:
        at = int(where**2 * len(data))  # most edits hit the head of the file, which matters more
        data = data[:at] + added + data[at + removed :]
    try:
        result = decode_image(data, max_pixels=MEGAPIXEL)
    except ServiceError:
        return
    height, width, channels = result.shape
    assert (result.dtype, channels) == (np.uint8, 3)
    assert 0 < height * width <= MEGAPIXEL


@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_a_side_without_end_is_refused_however_few_its_pixels(
    size: tuple[int, int], file_format: str
) -> None:
    data = encoded(Image.new("L", size), file_format)
    with pytest.raises(ImageTooLarge, match="limit for a side is 65535"):
        decode_image(data, max_pixels=MEGAPIXEL)
    width, height = (min(side, 65_535) for side in size)
    whole = decode_image(encoded(Image.new("L", (width, height)), file_format), max_pixels=MEGAPIXEL)
    assert whole.shape == (height, width, 3)
