"""The metadata of picture files: how a picture is to be turned, and the file without them.

The rule of browsers and of the service: JPEG files say in EXIF how they are turned, PNG files in an eXIf chunk
before their pixels. WebP files are shown as they are stored. Does not decode pixels.
"""

import struct
import zlib
from collections.abc import Iterator

_ORIENTATION, _SHORT = 0x0112, 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_PNG = b"\x89PNG\r\n\x1a\n"
_NEEDED_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JFIF, _ADOBE, _COMMENT = 0xE0, 0xEE, 0xFE  # the first two say how the colours are stored
_ALONE = {0, 1, *range(0xD0, 0xD9)}  # markers without a length, and 0, which is none

Part = tuple[bytes, int, int]
"""Kind, start and end of a part of a file."""


def stored_orientation(data: bytes) -> int | None:
    """Return EXIF's orientation, 1 to 8, of a JPEG, PNG or WebP file; None for other formats.

    It is 1 if the file has none, or in a way that browsers ignore: XMP, a tag of another type, EXIF behind the
    pixels of a PNG.
    """
    if data.startswith(b"\xff\xd8"):
        segments = (data[start + 4 : end] for kind, start, end in _jpeg_segments(data) if kind == b"\xe1")
        return _of_exif(next((segment[6:] for segment in segments if segment[:5] == b"Exif\0"), b""))
    if data.startswith(_PNG):
        return _of_exif(next(_png_exif(data), b""))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return 1
    return None


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG or PNG file without metadata, whose faults may make Pillow reject it; other files unchanged."""
    if data.startswith(b"\xff\xd8"):
        parts, kept = [*_jpeg_segments(data)], [data[:2]]
        kept += [data[start:end] for kind, start, end in parts if not _is_metadata(kind[0])]
    elif data.startswith(_PNG):
        parts, kept = [*_png_chunks(data)], [_PNG]
        kept += [
            data[start:end]
            for kind, start, end in parts
            if kind in _NEEDED_CHUNKS and (kind != b"tRNS" or _is_whole(data, start, end))
        ]
    else:
        return data
    return b"".join([*kept, data[parts[-1][2] :]]) if parts else data


def _is_metadata(marker: int) -> bool:
    return marker == _COMMENT or (0xE0 <= marker <= 0xEF and marker not in (_JFIF, _ADOBE))


def _of_exif(block: bytes) -> int:
    """Return the orientation in a block of EXIF, which has the structure of a TIFF file."""
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", block, at)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # it ends before its last entry
    return 1


def _jpeg_segments(data: bytes) -> Iterator[Part]:
    """Yield the segments before the pixels. What lies between them is left out, as by libjpeg and browsers."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:
        marker = data[at + 1 : at + 2]
        if marker == b"\xff":  # fill
            at += 1
            continue
        if marker in (b"\xda", b"\xd9"):  # the pixels, or the end
            return
        if marker[0] in _ALONE:
            at += 2
            continue
        end = max(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"), at + 2)
        yield marker, at, end
        at = end


def _png_chunks(data: bytes) -> Iterator[Part]:
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


def _png_exif(data: bytes) -> Iterator[bytes]:
    """Yield the blocks of EXIF before the pixels."""
    for kind, start, end in _png_chunks(data):
        if kind == b"IDAT":
            return
        if kind == b"eXIf" and _is_whole(data, start, end):
            yield data[start + 8 : end - 4]


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """Whether the checksum of a chunk is right. Browsers ignore EXIF and tRNS with a wrong one."""
    return data[end - 4 : end] == zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big")
