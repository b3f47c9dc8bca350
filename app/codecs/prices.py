"""Counts the parts of a picture file, and rejects files with too many, before any decoder sees them.

A few megabytes can hold millions of tiles, chunks or segments, each of which costs a decoder an object or a
system call. The limits are several times what encoders write. Does not know about pixels.
"""

import re
import struct
from collections.abc import Iterator

from app.errors import InvalidImage

MAX_JPEG_SEGMENTS = 4096
"""Segments before the pixels; profiles and metadata of cameras take up to a few hundred."""
MAX_PNG_CHUNKS = 65_536
"""64 MiB in chunks of 1 KiB; encoders write chunks of 8 KiB and more."""
MAX_GIF_BLOCKS = 65_536
"""Blocks before the first frame: comments and profiles, 255 bytes a block."""
MAX_TIFF_PARTS = 32_768
"""Strips or tiles: 100 megapixels in tiles of 64 x 64 have 24,414."""

_HEAD_BYTES = 256 * 1024
"""Where claimed_pixels looks for a JPEG's size, so that it takes the event loop no noticeable time."""
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}

_FILL = re.compile(rb"\xff+")
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8
_WIDTH, _HEIGHT, _STRIPS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 256, 257, 273, 278, 322, 323, 324


def check_price(data: bytes) -> None:
    """Raise InvalidImage if a PNG, TIFF or GIF has more parts than its limit. jpeg_segments checks JPEG."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_count(_png_chunks(data), most=MAX_PNG_CHUNKS, of="PNG", parts="chunks")
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        if (parts := _tiff_parts(data)) > MAX_TIFF_PARTS:
            raise InvalidImage(
                f"The TIFF has {parts} strips or tiles; the limit is {MAX_TIFF_PARTS}. Save it with larger ones."
            )
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        _check_count(_gif_blocks(data), most=MAX_GIF_BLOCKS, of="GIF", parts="blocks before its first frame")


def claimed_pixels(data: bytes) -> int | None:
    """Return width times height as the head of a PNG or JPEG claims them; None if it does not, and for others."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    head = data[:_HEAD_BYTES]
    try:
        frames = [
            head[start : start + 9] for marker, start, _ in jpeg_segments(head) if marker in _JPEG_FRAMES
        ]
    except InvalidImage:
        return None
    sizes = [int.from_bytes(x[5:7], "big") * int.from_bytes(x[7:9], "big") for x in frames if len(x) == 9]
    return max(sizes, default=None)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the first scan.

    Bytes of 0xff before a marker are fill (ITU T.81, B.1.1.2) and belong to no segment. Raises InvalidImage beyond
    MAX_JPEG_SEGMENTS.
    """
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        if (fill := _FILL.match(data, at)) is None:
            return
        start = fill.end() - 1
        marker = data[start + 1 : start + 2]
        if marker in (b"", b"\xda"):
            return
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker[0], start, end
        at = max(end, start + 2)
    raise InvalidImage(
        f"The JPEG has more than {MAX_JPEG_SEGMENTS} segments before its pixels. Save it again without metadata."
    )


def _check_count(found: Iterator[None], *, most: int, of: str, parts: str) -> None:
    for count, _ in enumerate(found, start=1):
        if count > most:
            raise InvalidImage(f"The {of} has more than {most} {parts}. Save it again.")


def _png_chunks(data: bytes) -> Iterator[None]:
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":  # nothing after IEND is read
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        yield


def _gif_blocks(data: bytes) -> Iterator[None]:
    """Yield once for each extension before the first frame, and once for each block of data in it."""
    if len(data) < 13:
        return
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at : at + 1] not in (b"", b"\x2c", b"\x3b"):
        if data[at] == 0x21:
            at += 2
            while data[at : at + 1] not in (b"", b"\0"):
                at += 1 + data[at]
                yield
        at += 1
        yield


def _tiff_parts(data: bytes) -> int:
    """Return the number of strips or tiles of the first picture; 0 if the file is broken.

    This is the larger of two counts: what the file lists, and what its sizes imply.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    try:
        (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
        first, size = at + (8 if is_big else 2), 20 if is_big else 12
        values, lengths = {}, {}
        for entry in range(first, first + size * min(count, 4096), size):
            tag, kind, length = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), data, entry)
            lengths[tag] = length
            if length == 1 and kind in _TIFF_TYPES:
                (values[tag],) = struct.unpack_from(
                    order + _TIFF_TYPES[kind], data, entry + (12 if is_big else 8)
                )
    except struct.error:
        return 0  # the decoder rejects it
    listed = max(lengths.get(_STRIPS, 0), lengths.get(_TILES, 0))
    width, height = values.get(_WIDTH, 0), values.get(_HEIGHT, 0)
    across = down = 1
    if _TILE_WIDTH in values and _TILE_HEIGHT in values:
        across = -(-width // max(1, values[_TILE_WIDTH]))
        down = -(-height // max(1, values[_TILE_HEIGHT]))
    elif _ROWS in values:
        down = -(-height // max(1, values[_ROWS]))
    return int(max(listed, across * down))
