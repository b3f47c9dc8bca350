"""Reads JPEG: its segments, and the pixels by libjpeg-turbo, which says when data are missing.

Pillow uses the same library and does not pass on what it says: what is cut off becomes grey. Does not know about
other formats.
"""

import io
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from PIL import Image

from app.codecs.part_limits import MAX_JPEG_SEGMENTS, check_size, counted
from app.codecs.upright import Pixels, exif_orientation, over_white, rows_of, upright
from app.errors import InvalidImage

SIGNATURE = b"\xff\xd8\xff"

_MAX_SCANS = 100  # encoders write about ten; without a limit, 64 MiB can hold hours of work
_MAX_SCANNED_PIXELS = (
    2_000_000_000  # 20 scans of 100 megapixels: each scan passes over all, however few its bytes
)
_HEAD_BYTES = 256 * 1024  # where claimed_pixels looks, so that it takes the event loop no noticeable time
_BEHIND = bytes(range(85, 213))  # neither a marker nor zeros, as which libjpeg takes what is missing
_ZEROS = bytes(16)  # at the end of a scan, these raise the question whether they are data

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE, _ARITHMETIC = {0xC2, 0xC6, 0xCA, 0xCE}, {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_SCAN, _END, _DNL = 0xDA, 0xD9, 0xDC
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length; restart markers belong to a scan

_NOT_FILL = re.compile(rb"[^\xff]")
_SEARCHED_AT_ONCE = 2**18
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the marker that ends the data of a scan

# What libjpeg says of data that are not there or not readable; it says other things of files that are whole.
_DAMAGE = re.compile(r"premature end|bad Huffman code|found marker", re.IGNORECASE)


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Return the picture upright. Raises InvalidImage unless the data of all its pixels are there."""
    parts = _Parts(data)
    for size in parts.sizes:
        check_size(size, max_pixels)
    scanned = parts.scans * max((width * height for width, height in parts.sizes), default=0)
    if parts.scans > _MAX_SCANS or scanned > max(_MAX_SCANNED_PIXELS, 2 * max_pixels):
        raise InvalidImage(
            f"The JPEG has {parts.scans} scans, which is too many for its size. Save it as a baseline JPEG."
        )
    return _read(_without_filling(parts), parts)


def _read(bare: bytes, parts: "_Parts") -> Pixels:
    """Return the pixels of `bare`, made of these parts, upright. Raises ValueError if data are missing."""
    is_cmyk, orientation = parts.components == 4, exif_orientation(parts.exif)
    try:
        stored = decode_stream(bare, "CMYK" if is_cmyk else "RGB")
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        return _by_pillow(bare, orientation, is_arithmetic=parts.is_arithmetic)
    if orientation == 1 and not is_cmyk:
        return stored

    def rows(top: int, bottom: int) -> Pixels:
        block = stored[top:bottom]
        # as Adobe does, everybody stores these inverted
        return over_white(Image.fromarray(255 - block, "CMYK")) if is_cmyk else block

    return upright(rows, size=(stored.shape[1], stored.shape[0]), orientation=orientation)


def _without_filling(parts: "_Parts") -> bytes:
    """Return the JPEG without the zeros that fill its last scan, as in files that were not written to the end.

    Zeros can be data, in a large area of one colour. Those need every byte; a filling has at least one to spare.
    """
    *head, last_scan = parts.kept
    if last_scan.endswith(_ZEROS):
        try:
            _read(b"".join([*head, last_scan[:-1], b"\xff\xd9"]), parts)
        except ValueError:
            pass
        else:
            last_scan = last_scan.rstrip(b"\0")
    return b"".join([*head, last_scan, b"\xff\xd9"])


def decode_stream(bare: bytes, colours: str) -> Pixels:
    """Return the pixels of a JPEG without orientation. Raises ValueError if data are missing."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(bare, colours, strict=True)
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise
        pixels = simplejpeg.decode_jpeg(bare, colours, strict=False)
    return pixels


def check_stream(bare: bytes, *, most: tuple[int, int]) -> None:
    """Raise InvalidImage if the JPEG has several scans, or is wider or higher than `most`."""
    scans = 0
    for marker, start, _ in jpeg_segments(bare):
        scans += marker == _SCAN
        height, width = struct.unpack(">HH", bare[start + 5 : start + 9]) if marker in _FRAMES else (0, 0)
        if width > most[0] or height > most[1] or scans > 4:
            raise InvalidImage(
                f"A part of {most[0]} x {most[1]} has a JPEG of {width} x {height}, {scans} scans."
            )


def _by_pillow(bare: bytes, orientation: int, *, is_arithmetic: bool) -> Pixels:
    """Read what TurboJPEG's interface has no name for: components at unusual resolutions, as in CMYK by Pillow.

    Raises ValueError if data are missing. Pillow does not say so, but then what stands behind the data changes
    pixels. Not with arithmetic coding, which looks ahead; such a file needs its end marker anyway.
    """

    def pixels(stream: bytes) -> Pixels:
        with Image.open(io.BytesIO(stream), formats=["JPEG"]) as image:
            return upright(rows_of(image), size=image.size, orientation=orientation)

    found = pixels(bare)
    if not is_arithmetic and not np.array_equal(pixels(bare[:-2] + _BEHIND + bare[-2:]), found):
        raise ValueError("premature end of JPEG data")
    return found


@dataclass(slots=True)
class _Coverage:
    """How precisely each coefficient is known: (component, coefficient) -> bits that are still missing."""

    components: frozenset[int] = frozenset()
    missing: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(lambda: 99))

    def add(self, scan: bytes, *, is_progressive: bool) -> None:
        count = scan[4]
        first, last, precision = scan[5 + 2 * count], scan[6 + 2 * count], scan[7 + 2 * count] & 15
        if not is_progressive:
            first, last, precision = 0, 63, 0
        for component in scan[5 : 5 + 2 * count : 2]:
            for coefficient in range(first, min(last, 63) + 1):
                self.missing[component, coefficient] = precision

    @property
    def is_whole(self) -> bool:
        return not any(
            self.missing[component, number] for component in self.components for number in range(64)
        )


class _Parts:
    """A JPEG without its metadata, and what its headers say."""

    def __init__(self, data: bytes) -> None:
        self.kept = [data[:2]]
        """What libjpeg needs, without an end marker. Metadata are EXIF, profiles, comments, other pictures."""
        self.exif = b""
        self.sizes: list[tuple[int, int]] = []
        self.components = self.scans = 0
        self._coverage = _Coverage()
        kind, at, has_end = 0, 2, False
        for marker, start, end in jpeg_segments(data):
            segment = data[start:end]
            at = end
            if marker == _END:
                has_end = True
                break
            if not self.exif and marker == 0xE1 and segment[4:9] == b"Exif\0":
                self.exif = segment[10:]
            if marker in _FRAMES:
                kind = marker
                self._add_frame(segment)
            if marker == _SCAN:
                at = self._add_scan(data, start, end, is_progressive=kind in _PROGRESSIVE)
            # without application segments and comments, except the two that define the colours: JFIF's and Adobe's
            elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                self.kept.append(segment)
        self.kept = [_undisputed(part, self.components) for part in self.kept]
        self.is_arithmetic = kind in _ARITHMETIC
        if not has_end and (self.is_arithmetic or not self._coverage.is_whole or at < len(data)):
            raise InvalidImage("The JPEG is cut off: it ends before its last scan does. Send the whole file.")

    def _add_frame(self, segment: bytes) -> None:
        if len(segment) < 10:
            raise InvalidImage("The JPEG is cut off in its header. Send the whole file.")
        self.sizes.append((int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")))
        self.components = segment[9]
        self._coverage.components = frozenset(segment[10 : 10 + 3 * segment[9] : 3])

    def _add_scan(self, data: bytes, start: int, end: int, *, is_progressive: bool) -> int:
        header = data[start:end]
        if len(header) < 8 or len(header) < 8 + 2 * header[4]:
            raise InvalidImage("The JPEG is cut off in its header. Send the whole file.")
        if not is_progressive:
            # some cameras write other numbers here, which have no meaning, and of which libjpeg complains
            header = header[: 5 + 2 * header[4]] + b"\0\x3f\0"
        self._coverage.add(header, is_progressive=is_progressive)
        self.scans += 1
        stop = _first(_NEXT, data, end)
        self.kept += [header, data[end:stop].rstrip(b"\xff")]  # fill, or half of what is cut off
        return stop


def _undisputed(part: bytes, components: int) -> bytes:
    """Return JFIF's and Adobe's segments with numbers that libjpeg knows, and any other part of a JPEG as it is.

    Of an unknown revision or transform, libjpeg warns and takes these. TurboJPEG makes an error of a warning there.
    """
    if part[:2] == b"\xff\xe0" and part[4:9] == b"JFIF\0" and len(part) > 10:
        return part[:9] + b"\1\1" + part[11:]
    usual = {3: 1, 4: 2}.get(components)
    if (
        part[:2] == b"\xff\xee"
        and part[4:9] == b"Adobe"
        and len(part) > 15
        and usual
        and part[15] not in (0, usual)
    ):
        return part[:15] + bytes((usual,)) + part[16:]
    return part


def claimed_pixels(data: bytes) -> int | None:
    """Return width times height as the head of a JPEG claims them; None if it does not."""
    head = data[:_HEAD_BYTES]
    try:
        frames = [head[start : start + 9] for marker, start, _ in jpeg_segments(head) if marker in _FRAMES]
    except InvalidImage:
        return None
    sizes = [int.from_bytes(x[5:7], "big") * int.from_bytes(x[7:9], "big") for x in frames if len(x) == 9]
    return max(sizes, default=None)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the end marker, without the data of scans.

    Bytes of 0xff before a marker are fill (ITU T.81, B.1.1.2) and belong to no segment. Raises InvalidImage beyond
    MAX_JPEG_SEGMENTS.
    """
    return counted(_segments(data), most=MAX_JPEG_SEGMENTS, of="JPEG", parts="segments")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        start = _first(_NOT_FILL, data, at) - 1
        if start + 2 > len(data):
            return
        marker = data[start + 1]
        if marker == 0 or marker in _ALONE:
            yield marker, start, start  # counted, and left out
            at = start + 2
            continue
        end = start + 2 if marker == _END else start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, end
        if marker == _END:
            return
        at = max(end, start + 4)
        if marker == _SCAN:
            at = _first(_NEXT, data, at)


def _first(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Return where `pattern`, of one or two bytes, is found from `at` on; the end of `data` if it is not.

    A search holds up all other threads, and so goes over a little at a time.
    """
    while at < len(data):
        if found := pattern.search(data, at, at + _SEARCHED_AT_ONCE):
            return found.start()
        at += _SEARCHED_AT_ONCE - 1
    return len(data)
