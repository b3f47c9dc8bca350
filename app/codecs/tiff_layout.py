"""How the samples of a TIFF lie in its file, and which layouts are refused because nobody here reads them right.

Does not decode anything.
"""

from dataclasses import dataclass

from app.codecs.part_limits import MAX_TIFF_PARTS, check_bytes, check_size
from app.codecs.tiff_tags import Directory, Tag
from app.errors import InvalidImage

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
PREMULTIPLIED, STRAIGHT = 1, 2
"""Values of ExtraSamples: alpha by which the colours are multiplied, and alpha by which they are not."""

CODECS = {
    1: "no compression",
    2: "fax",
    3: "fax",
    4: "fax",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
}
JPEG = 7
BYTE_CODECS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""These know bytes only, not what they mean."""

_MAX_SHARING = 8  # empty tiles may be one; libtiff copies the data of each

_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
_OTHER_COLOURS = {
    4: "a mask",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "raw data of a camera",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw data of a camera",
}
_NUMBERS = {
    UNSIGNED: "integers",
    SIGNED: "signed integers",
    FLOAT: "floats",
    5: "complex integers",
    6: "complex floats",
}
_WIDTHS = {UNSIGNED: {*range(1, 17), 32, 64}, SIGNED: {8, 16, 32, 64}, FLOAT: {16, 32, 64}}
_PREDICTABLE = {1: None, 2: {8, 16, 32, 64}, 3: {16, 32, 64}}


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tags say. `colours` samples of a pixel are the picture; of the others, one may be alpha."""

    size: tuple[int, int]
    part_size: tuple[int, int]
    """Width and height of a tile or strip."""
    is_tiled: bool
    is_planar: bool
    samples: int
    colours: int
    alpha: int
    """PREMULTIPLIED or STRAIGHT if the sample after the colours is alpha; 0 otherwise."""
    bits: int
    number_format: int
    photometric: int
    compression: int
    predictor: int

    @property
    def parts_of_plane(self) -> int:
        """Tiles or strips in one plane; there is one plane for each sample if the file is planar, or one."""
        (width, height), (part_width, part_height) = self.size, self.part_size
        return -(-width // part_width) * -(-height // part_height)

    @property
    def planes(self) -> int:
        """Planes in the file."""
        return self.samples if self.is_planar else 1

    @property
    def part_row_bytes(self) -> int:
        """Bytes of a row of a tile or strip in one plane."""
        return -(-self.part_size[0] * self.bits * (self.samples // self.planes) // 8)

    def bytes_of_part(self, number: int) -> int:
        """Bytes of one tile or strip, uncompressed. The last strip of a plane can have fewer rows."""
        rows = self.part_size[1]
        if not self.is_tiled:
            rows = min(rows, self.size[1] - number % self.parts_of_plane * rows)
        return rows * self.part_row_bytes


def layout_of(directory: Directory, *, max_pixels: int) -> Layout:
    """Return the layout. Raises InvalidImage if it is not read, or parts are missing; ImageTooLarge."""
    width, height = size = directory.one(Tag.WIDTH, 0), directory.one(Tag.HEIGHT, 0)
    if width < 1 or height < 1:
        raise InvalidImage("The TIFF has no size. Save it again.")
    check_size(size, max_pixels)
    if directory.one(Tag.SUBFILE_TYPE, 0) & 1 and (directory.next or Tag.SUB_DIRECTORIES in directory.tags):
        raise _refusal("a preview as its first picture, as raw files of cameras have")
    samples = directory.one(Tag.SAMPLES, 1)
    photometric = directory.one(Tag.PHOTOMETRIC, RGB if samples in (3, 4) else BLACK_IS_ZERO)
    if photometric not in _COLOURS:
        raise _refusal(f"colours as {_OTHER_COLOURS.get(photometric, f'number {photometric}')}")
    colours = _COLOURS[photometric]
    is_tiled = Tag.TILE_WIDTH in directory.tags
    rows = directory.one(Tag.ROWS_PER_STRIP, height)
    part = (
        (directory.one(Tag.TILE_WIDTH, 0), directory.one(Tag.TILE_HEIGHT, 0))
        if is_tiled
        else (width, min(rows, height))
    )
    if min(part) < 1:
        raise _refusal(f"tiles or strips of {part[0]} x {part[1]}")
    check_size(part, max_pixels, what="tile of this TIFF")
    found = Layout(
        size=size,
        part_size=part,
        is_tiled=is_tiled,
        is_planar=directory.one(Tag.PLANAR, 1) == 2 and samples > 1,
        samples=samples,
        colours=colours,
        alpha=_alpha(directory, samples, colours, photometric),
        bits=_same(directory, Tag.BITS, 1, "bits", samples),
        number_format=_same(directory, Tag.SAMPLE_FORMAT, UNSIGNED, "number formats", samples),
        photometric=photometric,
        compression=directory.one(Tag.COMPRESSION, 1),
        predictor=directory.one(Tag.PREDICTOR, 1),
    )
    _check_read(directory, found)
    across, down = (-(-whole // one) for whole, one in zip(size, part, strict=True))
    # tiles can be larger than the picture, up to twice its bytes
    check_bytes(across * part[0] * down * part[1] * found.bits // 16, max_pixels)
    _check_parts(directory, found)
    return found


def _refusal(what: str) -> InvalidImage:
    return InvalidImage(
        f"The TIFF has {what}, which is not supported. Save it as 8-bit or 16-bit RGB or grey."
    )


def _same(directory: Directory, tag: Tag, default: int, what: str, samples: int) -> int:
    values = set(directory.all(tag)[:samples]) or {default}
    if len(values) > 1:
        raise _refusal(f"samples of different {what}")
    (value,) = values
    return (
        UNSIGNED if tag == Tag.SAMPLE_FORMAT and value == 4 else value
    )  # 4 is "undefined", written by old programs


def _alpha(directory: Directory, samples: int, colours: int, photometric: int) -> int:
    if not colours <= samples <= 64:
        raise _refusal(f"{samples} samples a pixel")
    extra = directory.all(Tag.EXTRA_SAMPLES)
    if not extra and photometric == RGB and samples == 4:
        return STRAIGHT  # written by old programs
    return extra[0] if samples > colours and extra and extra[0] in (PREMULTIPLIED, STRAIGHT) else 0


def _check_parts(directory: Directory, layout: Layout) -> None:
    offsets = Tag.TILE_OFFSETS if layout.is_tiled else Tag.STRIP_OFFSETS
    listed = max(directory.count(Tag.TILE_OFFSETS), directory.count(Tag.STRIP_OFFSETS))
    needed = layout.parts_of_plane * layout.planes
    if max(listed, needed) > MAX_TIFF_PARTS:
        raise InvalidImage(
            f"The TIFF has {max(listed, needed)} strips or tiles; the limit is {MAX_TIFF_PARTS}. "
            "Save it with larger ones."
        )
    if directory.count(offsets) < needed:
        raise InvalidImage(
            f"The TIFF is cut off: it lists {directory.count(offsets)} of {needed} strips or tiles. "
            "Send the whole file."
        )
    lengths = directory.all(Tag.TILE_BYTES if layout.is_tiled else Tag.STRIP_BYTES)
    if len(lengths) < needed:
        raise InvalidImage("The TIFF does not say how long its strips or tiles are. Save it again.")
    if sum(lengths) > _MAX_SHARING * len(directory.data):
        raise InvalidImage("The TIFF has strips or tiles that share their data. Save it again.")
    for number, (at, length) in enumerate(zip(directory.all(offsets)[:needed], lengths, strict=False)):
        if not at or not length:
            raise InvalidImage("The TIFF has strips or tiles without data. Save it with all of them.")
        short = layout.compression == 1 and length < layout.bytes_of_part(number)
        if short or at + length > len(directory.data):
            raise InvalidImage(
                "The TIFF is cut off: data of its strips or tiles are missing. Send the whole file."
            )


def _check_read(directory: Directory, layout: Layout) -> None:
    """Raise InvalidImage for what nobody here reads right."""
    bits, kind, codec = layout.bits, layout.number_format, layout.compression
    if codec not in CODECS:
        raise _refusal(f"the compression number {codec}")
    if bits not in _WIDTHS.get(kind, ()):
        raise _refusal(f"samples of {bits}-bit {_NUMBERS.get(kind, f'numbers of format {kind}')}")
    if codec in BYTE_CODECS and layout.photometric not in (YCBCR, LAB):
        if layout.photometric == PALETTE and (bits > 8 or kind != UNSIGNED):
            raise _refusal(f"a palette of {bits} bits")
        if layout.predictor not in _PREDICTABLE or bits not in (_PREDICTABLE[layout.predictor] or {bits}):
            raise _refusal(f"predictor {layout.predictor} for {bits} bits")
        if layout.predictor == 3 and kind != FLOAT:
            raise _refusal("predictor 3 for integers")
        return
    # the rest is Pillow's
    named = f"{CODECS[codec]} of {bits} bits"
    if codec == JPEG and layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, YCBCR):
        raise _refusal("JPEG of unusual colours")
    if codec in (2, 3, 4):
        if (bits, layout.samples) != (1, 1):
            raise _refusal(named)
    elif (bits, kind, layout.is_planar) != (8, UNSIGNED, False) or layout.samples not in (
        {layout.colours} if layout.photometric != RGB else {3, 4}
    ):
        raise _refusal(f"{named}, {layout.samples} samples a pixel{' in planes' if layout.is_planar else ''}")
    subsampling = directory.all(Tag.YCBCR_SUBSAMPLING) or (2, 2)
    if layout.photometric == YCBCR and codec in BYTE_CODECS and subsampling != (1, 1):
        raise _refusal("YCbCr at a lower resolution without JPEG")
