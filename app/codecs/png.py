"""Reads PNG: its chunks, and the pixels of up to 16 bits by Pillow's decoder.

Pillow has modes of 8 bits only for colour. So its decoder runs twice over colour of 16 bits, once for the high
bytes and once for the low ones. Does not know about other formats.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFile

from app.codecs.deep import Deep, Opacity, Samples, Stretch, eight_bits
from app.codecs.part_limits import MAX_PNG_CHUNKS, check_bytes, check_size, counted
from app.codecs.upright import Pixels, exif_orientation, rows_of, upright
from app.errors import InvalidImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED_AT_ONCE = 2**20
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def decode(data: bytes, *, max_pixels: int, stretch: Stretch) -> Pixels:
    """Return the picture upright. Raises InvalidImage unless the data of all its rows are there."""
    parts = _Parts(data)
    check_size(parts.size, max_pixels)
    check_bytes(parts.size[0] * parts.size[1] * parts.pixel_bits // 8, max_pixels)
    bare = b"".join([SIGNATURE, *parts.kept, _END])
    with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
        # Pillow takes the last of several headers, whose size nobody has checked.
        if image.size != parts.size:
            raise InvalidImage("The PNG has two headers of different sizes. Save it again.")
        if parts.depth < 16:
            image.load()
            parts.check_whole(image)
            parts.set_transparent(image)
            rows = rows_of(image)
        else:
            rows = eight_bits(_deep(image, bare, parts), stretch)
        return upright(rows, size=parts.size, orientation=exif_orientation(parts.exif))


class _Parts:
    """A PNG without its metadata, and what its header says."""

    def __init__(self, data: bytes) -> None:
        self.kept: list[bytes | memoryview] = []
        """The chunks that make the pixels. The others have parsers that can reject a picture that is whole."""
        self.exif = b""
        self._transparent = b""
        self._pixels: list[memoryview] = []
        view = memoryview(data)  # pixels are copied once, into the file for Pillow
        for name, start, end in counted(_chunks(data), most=MAX_PNG_CHUNKS, of="PNG", parts="chunks"):
            if name == b"tRNS" and not self._transparent and _is_whole(data, start, end):
                self._transparent = data[start + 8 : end - 4]
            elif name == b"eXIf" and not self.exif and not self._pixels and _is_whole(data, start, end):
                self.exif = data[start + 8 : end - 4]
            elif name in (b"IHDR", b"PLTE") and not self._pixels:
                self.kept.append(data[start:end])
            elif name == b"IDAT":
                self._pixels.append(view[start + 8 : end - 4])
        if not self.kept or bytes(self.kept[0][4:8]) != b"IHDR" or len(self.kept[0]) != 25:
            raise InvalidImage("The header of this PNG picture is broken. Save it again.")
        head: tuple[int, ...] = struct.unpack_from(">IIBBBBB", self.kept[0], 8)
        width, height, self.depth, self.kind, *_, self.interlaced = head
        self.size: tuple[int, int] = (width, height)
        if not width or not height or self.kind not in _SAMPLES:
            raise InvalidImage("The header of this PNG picture is broken or empty. Save it again.")
        # a palette is a chunk of 12 bytes and 3 for each colour
        if self.kind == _PALETTE and all(len(kept) < 15 or kept[4:8] != b"PLTE" for kept in self.kept):
            raise InvalidImage("The PNG has no palette before its pixels, which need one. Save it again.")
        if self.kind == _PALETTE and self._transparent:
            self.kept.append(_chunk(b"tRNS", self._transparent[:256]))
        # one chunk, because each costs Pillow a few calls; it does not check the sums of these
        total = sum(map(len, self._pixels))
        self.kept += [struct.pack(">I", total), b"IDAT", *self._pixels, bytes(4)]

    @property
    def transparent(self) -> tuple[int, ...] | None:
        """The value of grey (1) or colour (3) that is transparent, as a sample has it; None without, or broken."""
        count = {_GREY: 1, _COLOUR: 3}.get(self.kind)
        if count is None or len(self._transparent) < 2 * count:
            return None
        most = (1 << self.depth) - 1
        return tuple(value & most for value in struct.unpack_from(f">{count}H", self._transparent))

    def set_transparent(self, image: Image.Image) -> None:
        """Tell Pillow which value is transparent, in the 8 bits to which it has scaled the samples."""
        if self.transparent:
            scaled = tuple(value * 255 // ((1 << self.depth) - 1) for value in self.transparent)
            image.info["transparency"] = scaled if self.kind == _COLOUR else scaled[0]

    @property
    def pixel_bits(self) -> int:
        """Bits of a pixel in the file."""
        return self.depth * _SAMPLES[self.kind]

    def check_whole(self, image: Image.Image) -> None:
        """Raise InvalidImage if the last rows are missing.

        Pillow leaves those at 0, and only if the last that the file holds is all 0 the data are counted.
        """
        width, height = self.size
        last = (
            height - 1 - (height % 2 if self.interlaced else 0)
        )  # the last pass of Adam7 has every second row
        if last >= 0 and np.asarray(image.crop((0, last, width, last + 1))).any():
            return
        if _inflated_bytes(self._pixels, most=self.expected_bytes) < self.expected_bytes:
            raise InvalidImage(
                "The PNG is cut off: the data of its last rows are missing. Send the whole file."
            )

    @property
    def expected_bytes(self) -> int:
        """How many bytes all rows take, each with the byte that names its filter."""
        width, height = self.size
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        columns_rows = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
        return sum(
            (1 + -(-columns * self.pixel_bits // 8)) * rows
            for columns, rows in columns_rows
            if min(columns, rows) > 0
        )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk, up to the end chunk or to what is none; the last may be cut off."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name == b"IEND" or not name.isalpha():
            return
        yield name, at, end
        at = end


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """Whether the checksum of a chunk is right. Browsers ignore EXIF and tRNS with a wrong one."""
    return data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _inflated_bytes(pieces: list[memoryview], *, most: int) -> int:
    """Return how many bytes the pieces of one zlib stream hold, at least if these are fewer than `most`."""
    inflate = zlib.decompressobj()
    count = 0
    for piece in map(bytes, pieces):
        while piece and count < most and not inflate.eof:
            count += len(inflate.decompress(piece, _INFLATED_AT_ONCE))
            piece = inflate.unconsumed_tail
    return count


def _deep(image: ImageFile.ImageFile, bare: bytes, parts: _Parts) -> Deep:
    samples = _sixteen_bits(image, bare, parts)
    transparent = parts.transparent

    def rows(top: int, bottom: int) -> tuple[Samples, Opacity | None]:
        block = samples(top, bottom)
        if parts.kind in (_GREY_ALPHA, _COLOUR_ALPHA):
            return block[:, :, :-1], block[:, :, -1:].astype(np.float32) / np.float32(65535)
        if transparent:
            return block, np.any(block != transparent, axis=2, keepdims=True).astype(np.float32)
        return block, None

    return Deep(parts.size, rows)


def _sixteen_bits(image: ImageFile.ImageFile, bare: bytes, parts: _Parts) -> Callable[[int, int], Samples]:
    """Return a function of top and bottom that returns those rows: (bottom - top, width, samples of a pixel)."""
    width, _ = parts.size
    if parts.kind == _GREY_ALPHA:
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]  # both bytes of grey, both of alpha
    image.load()
    parts.check_whole(image)

    def values(of: Image.Image, top: int, bottom: int) -> Samples:
        return np.asarray(of.crop((0, top, width, bottom)))

    if parts.kind == _GREY:
        return lambda top, bottom: values(image, top, bottom)[:, :, None]
    if parts.kind == _GREY_ALPHA:
        return lambda top, bottom: values(image, top, bottom).view(">u2").astype(np.uint16)
    low_bytes = Image.open(io.BytesIO(bare), formats=["PNG"])
    # read as little-endian, of which Pillow too keeps the second byte
    low_bytes.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low_bytes.tile]
    low_bytes.load()
    return lambda top, bottom: (
        values(image, top, bottom).astype(np.uint16) << 8 | values(low_bytes, top, bottom)
    )
