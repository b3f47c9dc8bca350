"""Reads the first directory of a TIFF or BigTIFF, and writes another one for the same data.

Does not know what the tags mean to a decoder.
"""

import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from app.errors import InvalidImage

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_FRACTIONS = {5: "II", 10: "ii"}
_MAX_VALUES = 200_000  # a palette of 16 bits has 196,608


class Tag(IntEnum):
    """The tags that make the pixels (TIFF 6.0, and the technical notes by Adobe)."""

    SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    FAX3_OPTIONS = 292
    FAX4_OPTIONS = 293
    PREDICTOR = 317
    PALETTE = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    YCBCR_POSITIONING = 531
    BLACK_WHITE = 532
    NO_DATA = 42113  # GDAL's, as text


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a tag, as they are written: their type, their number, and where they begin in the file."""

    kind: int
    count: int
    at: int


class Directory:
    """The tags of the first picture that Tag lists. Values are read when asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = data[2:4] in (b"+\0", b"\0+")
        self.tags: dict[int, Values] = {}
        known = set(Tag)
        try:
            (start,) = self._unpack("Q" if self.is_big else "I", 8 if self.is_big else 4)
            (count,) = self._unpack("Q" if self.is_big else "H", start)
            first, size, inline = (start + 8, 20, 8) if self.is_big else (start + 2, 12, 4)
            if count > 65_535:
                raise InvalidImage(f"The TIFF has {count} tags. Save it again.")
            for entry in range(first, first + size * count, size):
                number, kind, length = self._unpack("HHQ" if self.is_big else "HHI", entry)
                if (
                    number not in known
                    or number in self.tags
                    or (kind not in _TYPES and kind not in _FRACTIONS)
                ):
                    continue
                at = entry + size - inline
                if length * struct.calcsize("=" + _TYPES.get(kind, "II")) > inline:
                    (at,) = self._unpack("Q" if self.is_big else "I", at)
                self.tags[number] = Values(kind, length, at)
        except struct.error as error:
            raise InvalidImage(
                "The TIFF is cut off: tags of its directory are missing. Send the whole file."
            ) from error
        self.next = 0
        with suppress(struct.error):  # nothing else is missing
            (self.next,) = self._unpack("Q" if self.is_big else "I", first + size * count)

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, self.data, at)

    def count(self, tag: Tag) -> int:
        """Return the number of values of `tag`; 0 without it."""
        return self.tags[tag].count if tag in self.tags else 0

    def all(self, tag: Tag) -> tuple[int, ...]:
        """Return the values of `tag`, which has integers; empty without it."""
        if tag not in self.tags:
            return ()
        values = self.tags[tag]
        if values.kind not in _TYPES or values.count > _MAX_VALUES:
            raise InvalidImage(f"The TIFF's tag {tag.value} ({tag.name}) is broken. Save it again.")
        try:
            return self._unpack(f"{values.count}{_TYPES[values.kind]}", values.at)
        except struct.error as error:
            raise InvalidImage(
                f"The TIFF is cut off: its tag {tag.name} is missing. Send the whole file."
            ) from error

    def one(self, tag: Tag, default: int) -> int:
        """Return the first value of `tag`."""
        return next(iter(self.all(tag)), default)

    def number(self, tag: Tag) -> float | None:
        """Return a number that is written as text; None without it, or if it is none."""
        try:
            return float(self.bytes_of(tag).split(b"\0")[0])
        except ValueError:
            return None

    def bytes_of(self, tag: Tag) -> bytes:
        """Return the values of `tag` as they are written; empty without it."""
        if tag not in self.tags:
            return b""
        values = self.tags[tag]
        end = values.at + values.count * struct.calcsize(
            "=" + (_TYPES.get(values.kind) or _FRACTIONS[values.kind])
        )
        if values.count > _MAX_VALUES or end > len(self.data):
            raise InvalidImage(f"The TIFF's tag {tag.name} is broken or cut off. Send the whole file.")
        return self.data[values.at : end]

    def with_tags(self, changed: Mapping[Tag, tuple[int, ...] | None]) -> bytes:
        """Return the file with a new directory, in which only the tags of Tag are, with these changes.

        It is no BigTIFF, of which Pillow warns; no file here has 4 GiB.
        """
        order = self.order
        entries: list[bytes] = []
        tail = bytearray()
        end = len(self.data) + len(self.data) % 2
        for tag in map(Tag, sorted({*self.tags, *changed})):
            values = changed.get(tag, self.all(tag) if self._is_long(tag) else ())
            if values is None:
                continue
            if values:
                kind, count, content = 4, len(values), struct.pack(f"{order}{len(values)}I", *values)
            elif tag in self.tags:
                kind, count, content = self.tags[tag].kind, self.tags[tag].count, self.bytes_of(tag)
            else:
                continue
            if len(content) > 4:
                at = end + len(tail)
                tail += content + bytes(len(content) % 2)
                content = struct.pack(order + "I", at)
            entries.append(struct.pack(order + "HHI", tag, kind, count) + content.ljust(4, b"\0"))
        directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", end + len(tail))
        return b"".join([head, memoryview(self.data)[8:], bytes(len(self.data) % 2), tail, directory])

    def _is_long(self, tag: Tag) -> bool:
        """Whether the values of `tag` have 64 bits, which only a BigTIFF may have."""
        return tag in self.tags and self.tags[tag].kind in (16, 17, 18)
