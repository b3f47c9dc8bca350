"""Picture files that say in many ways, right and wrong, how they are to be turned.

All show four quarters: red and green above, blue and white below. `browser` is what Chromium 142 does with each.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image

WIDTH, HEIGHT = 160, 120
_QUARTERS = {(0, 0): (255, 0, 0), (80, 0): (0, 255, 0), (0, 60): (0, 0, 255), (80, 60): (255, 255, 255)}
_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
_EXIF = b"Exif\0\0"
_TYPES = {1: "Bxxx", 3: "Hxx", 4: "I"}


@dataclass(frozen=True, slots=True)
class OrientedFile:
    """A file, its media type, and the orientation by which browsers turn it."""

    media_type: str
    data: bytes
    browser: int


def upright(orientation: int) -> list[int]:
    """Return width, height and the quarters (1 red, 2 green, 3 blue, 4 white) in reading order, once turned."""
    quarters = {
        1: [1, 2, 3, 4],
        2: [2, 1, 4, 3],
        3: [4, 3, 2, 1],
        4: [3, 4, 1, 2],
        5: [1, 3, 2, 4],
        6: [3, 1, 4, 2],
        7: [4, 2, 3, 1],
        8: [2, 4, 1, 3],
    }[orientation]
    return [*((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)), *quarters]


def exif(
    *entries: tuple[int, int], order: Literal["<", ">"] = "<", kind: int = 3, count: int = 1, at: int = 8
) -> bytes:
    """Return a block of EXIF with pairs of tag and value; without the header that JPEG wants."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at) + bytes(at - 8)
    rows = (
        struct.pack(order + "HHI" + _TYPES[kind], tag, kind, count, value).ljust(12, b"\0")
        for tag, value in entries
    )
    return head + struct.pack(order + "H", len(entries)) + b"".join(rows) + bytes(4)


def turn(orientation: int) -> bytes:
    """Return a plain block of EXIF with this orientation."""
    return exif((0x0112, orientation))


def _saved(file_format: str, **options: object) -> bytes:
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for place, colour in _QUARTERS.items():
        image.paste(colour, (*place, place[0] + 80, place[1] + 60))
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _jpeg(*segments: tuple[int, bytes], before: bytes = b"\xff\xdb") -> bytes:
    """A JPEG with these segments before its first segment of a kind."""
    plain = _saved("JPEG", quality=90)
    at = plain.index(before)
    added = (bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return plain[:at] + b"".join(added) + plain[at:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes, late: bool = False) -> bytes:
    plain = _saved("PNG")
    at = len(plain) - 12 if late else 8 + 25
    return plain[:at] + b"".join(chunks) + plain[at:]


def oriented_files() -> dict[str, OrientedFile]:
    """Return all files by a name that says what is in them."""
    jpegs: dict[str, tuple[bytes, int]] = {
        f"JPEG {number}": (_jpeg((0xE1, _EXIF + turn(number))), number) for number in range(1, 9)
    }
    jpegs |= {f"JPEG {number}": (_jpeg((0xE1, _EXIF + turn(number))), 1) for number in (0, 9, 300)}
    jpegs |= {
        "JPEG, big-endian": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), order=">"))), 6),
        "JPEG, as LONG": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), kind=4))), 1),
        "JPEG, as BYTE": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), kind=1))), 1),
        "JPEG, two values": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), count=2))), 1),
        "JPEG, directory far behind": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), at=200))), 6),
        "JPEG, XMP only": (_jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP)), 1),
        "JPEG, XMP, then EXIF": (
            _jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP), (0xE1, _EXIF + turn(3))),
            3,
        ),
        "JPEG, twice": (_jpeg((0xE1, _EXIF + turn(6)), (0xE1, _EXIF + turn(3))), 6),
        "JPEG, without, then with": (_jpeg((0xE1, _EXIF + exif((256, 6))), (0xE1, _EXIF + turn(3))), 1),
        "JPEG, broken, then whole": (_jpeg((0xE1, _EXIF + b"garbage"), (0xE1, _EXIF + turn(3))), 1),
        "JPEG, behind the frame header": (_jpeg((0xE1, _EXIF + turn(6)), before=b"\xff\xda"), 6),
        "JPEG, other padding": (_jpeg((0xE1, b"Exif\0\xff" + turn(6))), 6),
        "JPEG, without the end": (_jpeg((0xE1, _EXIF + turn(6)[:-4])), 6),
        "JPEG, cut off": (_jpeg((0xE1, _EXIF + turn(6)[:-8])), 1),
        "JPEG, two tags": (_jpeg((0xE1, _EXIF + exif((0x0112, 6), (0x0112, 3)))), 6),
        "JPEG, not in order": (_jpeg((0xE1, _EXIF + exif((0x0200, 1), (0x0112, 6)))), 6),
        "JPEG, in APP13": (_jpeg((0xED, _EXIF + turn(6))), 1),
        "JPEG, other magic": (_jpeg((0xE1, _EXIF + turn(6).replace(b"II*\0", b"II+\0"))), 1),
    }
    pngs: dict[str, tuple[bytes, int]] = {
        f"PNG {number}": (_png(_chunk(b"eXIf", turn(number))), number) for number in range(1, 9)
    }
    text = (_EXIF + turn(6)).hex()
    profile = zlib.compress(f"\nexif\n{len(text) // 2:8}\n{text}\n".encode())
    pngs |= {
        "PNG, behind the pixels": (_png(_chunk(b"eXIf", turn(6)), late=True), 1),
        "PNG, with JPEG's header": (_png(_chunk(b"eXIf", _EXIF + turn(6))), 1),
        "PNG, as LONG": (_png(_chunk(b"eXIf", exif((0x0112, 6), kind=4))), 1),
        "PNG, twice": (_png(_chunk(b"eXIf", turn(6)), _chunk(b"eXIf", turn(3))), 6),
        "PNG, wrong checksum": (_png(_chunk(b"eXIf", turn(6))[:-4] + b"abcd"), 1),
        "PNG, raw profile": (_png(_chunk(b"zTXt", b"Raw profile type exif\0\0" + profile)), 1),
        "PNG, XMP": (_png(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP)), 1),
    }
    webps = {f"WebP {number}": (_saved("WEBP", lossless=True, exif=turn(number)), 1) for number in (3, 6, 8)}
    webps |= {
        "WebP, lossy": (_saved("WEBP", quality=90, exif=turn(6)), 1),
        "WebP, with JPEG's header": (_saved("WEBP", lossless=True, exif=_EXIF + turn(6)), 1),
        "WebP, XMP": (_saved("WEBP", lossless=True, xmp=_XMP), 1),
    }
    avifs = {f"AVIF {number}": (_saved("AVIF", exif=turn(number)), number) for number in range(1, 9)}
    files = {"image/jpeg": jpegs, "image/png": pngs, "image/webp": webps, "image/avif": avifs}
    return {
        name: OrientedFile(media_type, data, browser)
        for media_type, named in files.items()
        for name, (data, browser) in named.items()
    }
