"""Reads the samples of a TIFF: integers and floats of any size, in strips or tiles, in pixels or planes.

libtiff reads compressed bytes right, and Pillow has no modes for most samples. So Pillow is told that the file is
8-bit grey with as many columns as a row has bytes, and numpy reads the bytes: predictor, bits, byte order, colours.
Needs the bytes of the samples once in memory.

tifffile with imagecodecs reads the same and takes 84 MB, mostly codecs of other formats; the tests compare with
tifffile.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.codecs.deep import Deep, Opacity, Samples, Stretch, eight_bits
from app.codecs.part_limits import check_bytes
from app.codecs.tiff_layout import (
    CMYK,
    FLOAT,
    PALETTE,
    PREMULTIPLIED,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    Layout,
)
from app.codecs.tiff_tags import Directory, Tag
from app.codecs.upright import Pixels, Rows, over_white

Bytes = npt.NDArray[np.uint8]


def read(directory: Directory, layout: Layout, *, max_pixels: int, stretch: Stretch) -> Rows:
    """Return the rows of the picture as RGB, or grey, of 8 bits."""
    used = min(layout.planes, layout.colours + bool(layout.alpha))  # planes of other samples are not read
    across, down = (-(-whole // part) for whole, part in zip(layout.size, layout.part_size, strict=True))
    row_bytes = across * layout.part_row_bytes
    height = down * layout.part_size[1] if layout.is_tiled else layout.size[1]
    samples_read = used if layout.is_planar else layout.samples
    check_bytes(layout.size[0] * layout.size[1] * samples_read * layout.bits // 8, max_pixels)
    images = [_bytes_of_plane(directory, layout, plane, (row_bytes, height)) for plane in range(used)]

    def samples(top: int, bottom: int) -> Samples:
        blocks = [
            _samples(np.asarray(image.crop((0, top, row_bytes, bottom))), directory.order, layout, across)
            for image in images
        ]
        whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=2)
        return whole[:, : layout.size[0], : layout.colours + bool(layout.alpha)]

    if layout.number_format == UNSIGNED and layout.bits <= 8:
        return _shallow(samples, directory, layout)
    return _deep(samples, layout, no_data=directory.number(Tag.NO_DATA), stretch=stretch)


def _bytes_of_plane(directory: Directory, layout: Layout, plane: int, size: tuple[int, int]) -> Image.Image:
    """Return the bytes of one plane, uncompressed, as an image of 8-bit grey of `size`."""
    first, last = plane * layout.parts_of_plane, (plane + 1) * layout.parts_of_plane
    described = directory.with_tags(
        {
            **dict.fromkeys(Tag, None),
            Tag.WIDTH: (size[0],),
            Tag.HEIGHT: (size[1],),
            Tag.BITS: (8,),
            Tag.SAMPLES: (1,),
            Tag.PHOTOMETRIC: (1,),
            Tag.COMPRESSION: (layout.compression,),
            Tag.FILL_ORDER: (directory.one(Tag.FILL_ORDER, 1),),
            **(
                {
                    Tag.TILE_WIDTH: (layout.part_row_bytes,),
                    Tag.TILE_HEIGHT: (layout.part_size[1],),
                    Tag.TILE_OFFSETS: directory.all(Tag.TILE_OFFSETS)[first:last],
                    Tag.TILE_BYTES: directory.all(Tag.TILE_BYTES)[first:last],
                }
                if layout.is_tiled
                else {
                    Tag.ROWS_PER_STRIP: (layout.part_size[1],),
                    Tag.STRIP_OFFSETS: directory.all(Tag.STRIP_OFFSETS)[first:last],
                    Tag.STRIP_BYTES: directory.all(Tag.STRIP_BYTES)[first:last],
                }
            ),
        }
    )
    with Image.open(io.BytesIO(described), formats=["TIFF"]) as image:
        image.load()
        return image


def _samples(rows: Bytes, order: str, layout: Layout, across: int) -> Samples:
    """Return (rows, width of the parts, samples of a plane) of (rows, bytes)."""
    count = layout.samples // layout.planes
    width = layout.part_size[0]
    parts = rows.reshape(len(rows), across, layout.part_row_bytes)
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[layout.number_format]
    if layout.predictor == 3:
        summed = parts.reshape(len(rows), across, -1, count).cumsum(axis=2, dtype=np.uint8)
        by_significance = summed.reshape(len(rows), across, layout.bits // 8, width * count)
        values = np.ascontiguousarray(by_significance.swapaxes(2, 3)).view(f">f{layout.bits // 8}")
    elif layout.bits in (8, 16, 32, 64):
        values = np.ascontiguousarray(parts).view(f"{order}{kind}{layout.bits // 8}")
    else:
        values = _unpacked(parts, layout.bits)[:, :, : width * count]
    values = values.reshape(len(rows), across, width, count)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if layout.predictor == 2:
        bits = values.view(f"u{values.itemsize}")  # differences of floats too are those of their bits
        values = bits.cumsum(axis=2, dtype=bits.dtype).view(values.dtype)
    return values.reshape(len(rows), across * width, count)


def _unpacked(parts: Bytes, bits: int) -> Samples:
    """Return the numbers of `bits` bits, at most 16, that are packed into each row of a part, highest bit first."""
    rows, across, length = parts.shape
    groups = -(-length // bits)  # so many bytes hold eight numbers
    padded = np.zeros((rows, across, groups * bits), np.uint8)
    padded[:, :, :length] = parts
    packed = padded.reshape(rows, across, groups, bits)
    values = np.empty((rows, across, groups, 8), np.uint8 if bits <= 8 else np.uint16)
    for number in range(8):
        first, end = number * bits // 8, -(-(number + 1) * bits // 8)
        joined = np.zeros((rows, across, groups), np.uint32)
        for byte in range(first, end):
            joined = joined << 8 | packed[..., byte]
        values[..., number] = joined >> (8 * end - (number + 1) * bits) & ((1 << bits) - 1)
    return values.reshape(rows, across, groups * 8)


def _shallow(samples: Callable[[int, int], Samples], directory: Directory, layout: Layout) -> Rows:
    """Return rows of samples of up to 8 bits, scaled by the range of their type, as everybody shows them."""
    most = (1 << layout.bits) - 1
    table = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    as_they_are = layout.bits == 8 and layout.photometric not in (WHITE_IS_ZERO, PALETTE)
    if layout.photometric == WHITE_IS_ZERO:
        table = table[::-1]
    if layout.photometric == PALETTE:
        flat = np.array(directory.all(Tag.PALETTE), np.uint32)
        if len(flat) < 3 * (most + 1):
            raise ValueError("its palette is too short")
        palette = flat[: 3 * (most + 1)].reshape(3, -1).T
        # 16 bits; some old programs write 8
        table = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)

    def rows(top: int, bottom: int) -> Pixels:
        block = samples(top, bottom)
        colours = block[:, :, : layout.colours]
        shades = colours if as_they_are else table[colours]
        if layout.photometric == PALETTE:
            shades = shades[:, :, 0]
        if layout.photometric == CMYK:
            shades = over_white(Image.fromarray(np.ascontiguousarray(shades), "CMYK"))
        if not layout.alpha:
            return shades
        alpha = block[:, :, layout.colours :].astype(np.float32) / most
        weighted = shades if layout.alpha == PREMULTIPLIED else shades * alpha
        laid = weighted + 255 * (1 - alpha)
        return np.rint(np.minimum(laid, 255)).astype(np.uint8)

    return rows


def _deep(
    samples: Callable[[int, int], Samples], layout: Layout, *, no_data: float | None, stretch: Stretch
) -> Rows:
    full = (
        1.0
        if layout.number_format == FLOAT
        else float((1 << layout.bits - (layout.number_format == SIGNED)) - 1)
    )

    if no_data is not None and layout.photometric == WHITE_IS_ZERO:  # the samples are turned round below
        no_data = full - no_data if layout.number_format == UNSIGNED else -no_data

    def rows(top: int, bottom: int) -> tuple[Samples, Opacity | None]:
        block = samples(top, bottom)
        colours = block[:, :, : layout.colours]
        if layout.photometric == WHITE_IS_ZERO:
            is_short = colours.dtype.kind == "u" and colours.dtype.itemsize <= 4
            colours = ~colours if is_short else -colours.astype(np.float64)
        if not layout.alpha:
            return colours, None
        alpha = np.clip(block[:, :, layout.colours :].astype(np.float32) / full, 0, 1)
        if layout.alpha == PREMULTIPLIED:
            with np.errstate(invalid="ignore", divide="ignore"):
                colours = np.nan_to_num(colours / alpha, posinf=0)
        return colours, alpha

    shades = eight_bits(Deep(layout.size, rows, full=full, no_data=no_data), stretch)
    if layout.photometric != CMYK:
        return shades
    return lambda top, bottom: over_white(Image.fromarray(shades(top, bottom), "CMYK"))
