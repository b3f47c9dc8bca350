"""Reads WebP, AVIF, HEIF and GIF: a look at the container, and the pixels by Pillow.

Does not know about other formats.
"""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from app.codecs.part_limits import MAX_AVIF_BOXES, MAX_GIF_BLOCKS, MAX_WEBP_CHUNKS, check_size, counted
from app.codecs.upright import Pixels, exif_orientation, rows_of, upright
from app.errors import InvalidImage

_MAX_TABLE_BYTES = (
    128 * 1024
)  # libavif looks each item up among all; 4096 items take about 64 KiB in each table
_TABLES = {b"iinf", b"iloc", b"iref", b"ipma", b"grpl", b"stsz", b"stco", b"co64", b"stts", b"stsc", b"stss"}
_HOLDERS = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8}


def decode_webp(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the picture upright. libwebp rejects what is cut off."""
    for _ in counted(_webp_chunks(data), most=MAX_WEBP_CHUNKS, of="WebP", parts="chunks"):
        pass
    _check_not_filled(data[: 8 + int.from_bytes(data[4:8], "little")], of="WebP")
    # libwebp allocates the canvas when the file is opened
    check_size(_webp_size(data), max_pixels)
    # as it is stored: browsers do not turn WebP, whatever its EXIF says
    return _decoded(data, "WEBP", max_pixels, is_turned=False)


def decode_avif(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the picture upright. libavif rejects what is cut off."""
    return _decode_boxes(data, "AVIF", max_pixels)


def decode_heif(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the picture upright, if a plugin of Pillow reads HEIF."""
    return _decode_boxes(data, "HEIF", max_pixels)


def _decode_boxes(data: bytes, file_format: str, max_pixels: int) -> Pixels:
    for _ in counted(_boxes(data, 0, len(data)), most=MAX_AVIF_BOXES, of=file_format, parts="boxes"):
        pass
    _check_not_filled(data, of=file_format)
    # libavif has its own limit; the size of each picture and tile is in its own box
    for extent in re.findall(rb"ispe\0{4}(.{8})", data, re.DOTALL):
        check_size(struct.unpack(">II", extent), max_pixels)
    # a broken EXIF item makes Pillow reject the picture; the container's orientation is the one that counts
    data = re.sub(rb"(infe\x02.{7})Exif", rb"\1skip", data, flags=re.DOTALL)
    return _decoded(data, file_format, max_pixels)


def _decoded(data: bytes, file_format: str, max_pixels: int, *, is_turned: bool = True) -> Pixels:
    with Image.open(io.BytesIO(data), formats=[file_format]) as image:
        check_size(image.size, max_pixels)
        image.load()
        # Pillow writes what the container says into a block of its own
        exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0") if is_turned else b""
        orientation = exif_orientation(exif)
        return upright(rows_of(image), size=image.size, orientation=orientation)


def _check_not_filled(data: bytes, *, of: str) -> None:
    """Raise InvalidImage if zeros are a quarter of the file, as in one that was not written to its end.

    Its decoder takes them for data. Compressed data end with few zeros, at most a twentieth in a black lossy WebP.
    """
    filling = len(data) - len(data.rstrip(b"\0"))
    if filling >= max(64, len(data) // 4):
        raise InvalidImage(f"The {of} is cut off: its last {filling} bytes are zeros. Send the whole file.")


def _webp_chunks(data: bytes) -> Iterator[None]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
        yield


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk, which is one of three kinds; (0, 0) for any other."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _boxes(data: bytes, at: int, end: int) -> Iterator[None]:
    """Yield once for each box, those within others included. Raises InvalidImage for a table that is too long."""
    while at + 8 <= end:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 0
        if size == 1:  # the size is in 64 bits
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 8
        stop = min(end, at + size if size else end)
        if name in _TABLES and stop - at > _MAX_TABLE_BYTES:
            raise InvalidImage(f"The picture has more than {MAX_AVIF_BOXES} items. Save it again.")
        yield
        if name in _HOLDERS:
            yield from _boxes(data, at + head + _HOLDERS[name], stop)
        at = max(stop, at + 8)


def decode_gif(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the first frame, white where it leaves the screen free, as browsers show it.

    Raises InvalidImage unless the data of all its rows are there.
    """
    for _ in counted(_gif_blocks(data), most=MAX_GIF_BLOCKS, of="GIF", parts="blocks before its first frame"):
        pass
    image, last_row, (left, top, right, bottom) = _gif_frame(data, None, max_pixels)
    # Pillow leaves the rows that are missing at the transparent colour, 0 without one
    filler = image.info.get("transparency", 0)
    if (last_row == filler).all():
        _, last_row, _ = _gif_frame(data, filler ^ 1, max_pixels)
        if (last_row == filler ^ 1).all():
            raise InvalidImage(
                "The GIF is cut off: the data of its last rows are missing. Send the whole file."
            )
    pixels = upright(rows_of(image), size=image.size, orientation=1)
    for free in (pixels[:top], pixels[bottom:], pixels[:, :left], pixels[:, right:]):
        free[:] = 255  # Pillow takes the palette's first colour
    return pixels


def _gif_frame(
    data: bytes, transparent: int | None, max_pixels: int
) -> tuple[Image.Image, Pixels, tuple[int, int, int, int]]:
    """Return the first frame, the last row of its data, and its place: left, top, right, bottom.

    `transparent` replaces its transparent colour.
    """
    bare, descriptor = _bare_gif(data, transparent)
    left, top, width, height, flags = struct.unpack_from("<HHHHB", bare, descriptor + 1)
    is_interlaced = flags & 0x40 and height > 1
    last = top + height - 1 - (height % 2 if is_interlaced else 0)  # the last pass has every second row
    with Image.open(io.BytesIO(bare), formats=["GIF"]) as image:
        check_size(image.size, max_pixels)
        image.load()
        place = left, top, left + width, top + height
        return image, np.asarray(image.crop((left, last, left + width, last + 1))), place


def _bare_gif(data: bytes, transparent: int | None) -> tuple[bytes, int]:
    """Return the file from its first frame on, and where the frame's descriptor begins.

    Without the frame's disposal, for which Pillow would allocate.
    """
    at = _after_palette(data)
    header = data[:at]
    control = b"" if transparent is None else bytes((transparent,))
    while data[at] != 0x2C:  # image descriptor
        if data[at] == 0x3B:
            raise InvalidImage("The GIF has no frames. Save it again.")
        if data[at] == 0x21:  # extension: a label, then blocks until an empty one
            if transparent is None and data[at + 1 : at + 3] == b"\xf9\x04" and data[at + 3] & 1:
                control = data[at + 6 : at + 7]  # its transparent colour
            at += 2
            while data[at]:
                at += 1 + data[at]
        at += 1
    if control:
        control = b"\x21\xf9\x04\x01\0\0" + control + b"\0"
    return header + control + data[at:], len(header) + len(control)


def _after_palette(data: bytes) -> int:
    return 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)


def _gif_blocks(data: bytes) -> Iterator[None]:
    """Yield once for each extension before the first frame, and once for each block of data in it."""
    if len(data) < 13:
        return
    at = _after_palette(data)
    while data[at : at + 1] not in (b"", b"\x2c", b"\x3b"):
        if data[at] == 0x21:
            at += 2
            while data[at : at + 1] not in (b"", b"\0"):
                at += 1 + data[at]
                yield
        at += 1
        yield
