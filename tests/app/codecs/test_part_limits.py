"""Files with millions of parts are rejected before a decoder sees them; those of encoders are accepted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from app.codecs.images import claimed_pixels, decode_image
from app.codecs.part_limits import (
    MAX_AVIF_BOXES,
    MAX_GIF_BLOCKS,
    MAX_JPEG_SEGMENTS,
    MAX_PNG_CHUNKS,
    MAX_TIFF_PARTS,
    MAX_WEBP_CHUNKS,
)
from app.errors import InvalidImage

MEGAPIXELS = 100_000_000


def tiff(*tags: tuple[int, int, int, int], order: str = "<", data: bytes = b"") -> bytes:
    """Return a TIFF with one directory of tags (tag, type, count, value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    entries = b"".join(struct.pack(order + "HHII", *tag) for tag in tags)
    return head + entries + bytes(4) + data


def grey(side: int, *rest: tuple[int, int, int, int], order: str = "<") -> bytes:
    base = [(256, 4, 1, side), (257, 4, 1, side), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff(*sorted([*base, *rest]), order=order, data=bytes(side * side))


def encoded(format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    shades = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    Image.fromarray(shades).save(file, format_, **options)
    return file.getvalue()


def png_of_chunks(number: int) -> bytes:
    whole = encoded("PNG")
    empty = struct.pack(">I", 0) + b"teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    return whole[:33] + empty * number + whole[33:]


@pytest.mark.parametrize(
    "data",
    [
        grey(1500, (322, 4, 1, 1), (323, 4, 1, 1), (324, 1, 1500 * 1500, 200)),
        grey(1500, (322, 4, 1, 8), (323, 4, 1, 8), (324, 4, 4, 200)),
        grey(64, (273, 4, 10_000_000, 200), (278, 4, 1, 1)),
        grey(1500, (278, 4, 1, 1500), (324, 4, 10_000_000, 200)),
    ],
    ids=["tiles of a pixel", "tiles that are not listed", "listed strips", "listed tiles"],
)
def test_a_tiff_of_many_parts_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match=f"the limit is {MAX_TIFF_PARTS}"):
        decode_image(data, max_pixels=MEGAPIXELS)


@pytest.mark.parametrize("side", [64, 300])
def test_a_tiff_of_a_strip_for_each_row_is_read(side: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "TIFF", tiffinfo={278: 1})
    assert decode_image(file.getvalue(), max_pixels=MEGAPIXELS).shape == (side, side, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS + 1) + encoded("JPEG")[2:],
        b"\xff\xd8" + b"\xff\xff\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS + 1) + encoded("JPEG")[2:],
        b"\xff\xd8" + b"\xff\xff\xe1\0\3a" * (MAX_JPEG_SEGMENTS + 1) + encoded("JPEG")[2:],
    ],
    ids=["comments", "comments behind fill bytes", "application data"],
)
def test_a_jpeg_of_many_segments_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="more than 4096 segments"):
        decode_image(data, max_pixels=MEGAPIXELS)


def test_fill_bytes_before_a_marker_are_skipped() -> None:
    whole = encoded("JPEG")
    filled = b"\xff\xd8" + b"\xff" * 1_000_000 + whole[2:]
    assert np.array_equal(
        decode_image(filled, max_pixels=MEGAPIXELS), decode_image(whole, max_pixels=MEGAPIXELS)
    )


def test_a_png_of_many_chunks_is_refused() -> None:
    with pytest.raises(InvalidImage, match="chunks"):
        decode_image(png_of_chunks(MAX_PNG_CHUNKS), max_pixels=MEGAPIXELS)
    assert decode_image(png_of_chunks(100), max_pixels=MEGAPIXELS).shape == (64, 64, 3)


def test_what_follows_the_end_of_a_png_costs_nothing() -> None:
    assert decode_image(encoded("PNG") + bytes(12 * MAX_PNG_CHUNKS), max_pixels=MEGAPIXELS).shape == (
        64,
        64,
        3,
    )


def test_a_gif_of_many_blocks_is_refused() -> None:
    whole = encoded("GIF")
    at = 13 + (3 << (whole[10] & 7) + 1)
    comment = b"\x21\xfe" + b"\1a" * (MAX_GIF_BLOCKS + 1) + b"\0"
    with pytest.raises(InvalidImage, match="blocks before its first frame"):
        decode_image(whole[:at] + comment + whole[at:], max_pixels=MEGAPIXELS)
    short = b"\x21\xfe" + b"\1a" * 100 + b"\0"
    assert decode_image(whole[:at] + short + whole[at:], max_pixels=MEGAPIXELS).shape == (64, 64, 3)


PROGRESSIVE = encoded("JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE.rindex(b"\xff\xda")


@pytest.mark.parametrize(
    "what", [b"\xff\xfe\0\2", b"\xff\xe1\0\2", b"\xff\xc4\0\2", b"\xff\x01", b"\xff\xd0\xff\x02\0\2"]
)
@pytest.mark.parametrize("at", [2, LAST_SCAN], ids=["before the first scan", "between scans"])
def test_segments_are_counted_wherever_they_are(at: int, what: bytes) -> None:
    if at > 2 and what == b"\xff\xd0\xff\x02\0\2":
        what = what[2:]  # a restart marker belongs to the data of a scan
    with pytest.raises(InvalidImage, match="segments"):
        decode_image(
            PROGRESSIVE[:at] + what * (MAX_JPEG_SEGMENTS + 1) + PROGRESSIVE[at:], max_pixels=MEGAPIXELS
        )


def test_scans_are_counted_with_the_pixels_that_each_passes_over() -> None:
    file = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans, which is too many for its size"):
        decode_image(data[:-2] + scan * 30 + data[-2:], max_pixels=MEGAPIXELS)
    few = PROGRESSIVE[:-2] + PROGRESSIVE[LAST_SCAN:-2] * 30 + PROGRESSIVE[-2:]
    assert decode_image(few, max_pixels=MEGAPIXELS).shape == (64, 64, 3)


def test_a_webp_of_many_chunks_is_refused() -> None:
    whole = encoded("WEBP", exif=b"II*\0\x08\0\0\0\0\0")
    body = whole[12:] + b"what\0\0\0\0" * MAX_WEBP_CHUNKS
    with pytest.raises(InvalidImage, match="chunks"):
        decode_image(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, max_pixels=MEGAPIXELS)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


@pytest.mark.parametrize(
    "more",
    [
        box(b"free", b"") * (MAX_AVIF_BOXES + 1),
        box(b"meta", bytes(4) + box(b"iinf", bytes(6) + box(b"infe", bytes(13)) * (2 * MAX_AVIF_BOXES))),
        box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", box(b"free", b"") * (MAX_AVIF_BOXES + 1)))),
        struct.pack(">I4sQ", 1, b"meta", 16 + 4 + 20 * 20_000) + bytes(4) + box(b"iloc", bytes(399_980)),
    ],
    ids=["boxes", "items", "properties", "places"],
)
def test_an_avif_of_many_parts_is_refused(more: bytes) -> None:
    whole = encoded("AVIF")
    at = whole.index(b"meta") - 4
    with pytest.raises(InvalidImage, match=f"more than {MAX_AVIF_BOXES}"):
        decode_image(whole[:at] + more + whole[at:], max_pixels=MEGAPIXELS)


def test_strips_that_share_their_data_are_refused() -> None:
    end = 8 + 2 + 12 * 8 + 4
    tables = struct.pack("<300I", *[end + 2400] * 300) + struct.pack("<300I", *[50_000] * 300)
    tags = [(256, 4, 1, 300), (257, 4, 1, 300), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    tags += [(273, 4, 300, end), (278, 4, 1, 1), (279, 4, 300, end + 1200)]
    with pytest.raises(InvalidImage, match="share their data"):
        decode_image(tiff(*tags, data=tables + bytes(50_000)), max_pixels=MEGAPIXELS)


def test_a_jpeg_in_a_tiff_may_not_be_larger_than_its_strip() -> None:
    data = encoded("TIFF", compression="jpeg")
    at = data.index(b"\xff\xc0") + 5
    larger = data[:at] + struct.pack(">HH", 65_000, 65_000) + data[at + 4 :]
    with pytest.raises(InvalidImage, match="JPEG of 65000 x 65000"):
        decode_image(larger, max_pixels=MEGAPIXELS)


@pytest.mark.parametrize("run", [b"\0\2\0\0", b"\xff\1"], ids=["steps of nothing", "runs beyond the row"])
def test_a_bmp_of_endless_runs_is_refused(run: bytes) -> None:
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, 0, 0, 0, 256, 0)
    file = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + run * 1_100_000
    with pytest.raises(InvalidImage, match="runs"):
        decode_image(file, max_pixels=MEGAPIXELS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"x" * 5000}])
def test_the_size_of_a_picture_is_read_from_its_head(options: dict[str, object]) -> None:
    assert claimed_pixels(encoded("JPEG", **options)) == claimed_pixels(encoded("PNG")) == 64 * 64


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff" * 10**6, b"\xff\xd8" + b"\xff\xe1\0\2" * 10**5, b"GIF89a"],
)
def test_a_head_that_claims_no_size_is_no_error(data: bytes) -> None:
    assert claimed_pixels(data) is None


def test_of_two_sizes_in_a_jpeg_the_larger_counts() -> None:
    frame = b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", 3, 5) + b"\1\1\x11\0"
    larger = frame.replace(struct.pack(">HH", 3, 5), struct.pack(">HH", 9000, 7000))
    for frames in (frame + larger, larger + frame):
        assert claimed_pixels(b"\xff\xd8" + frames + b"\xff\xda") == 63_000_000
