"""PNG of every depth, kind and interlacing is read right; metadata never refuses pixels."""

import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from app.codecs.images import Pixels
from app.errors import InvalidImage
from tests.app.codecs.small_pictures import decoded

HEIGHT, WIDTH = 11, 13
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}
KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]

Values = npt.NDArray[np.int64]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows_of(values: Values, depth: int) -> bytes:
    """Return rows of samples as PNG packs them, the highest bit first, each behind the filter `none`."""
    bits = (values.reshape(len(values), -1, 1) >> np.arange(depth)[::-1] & 1).astype(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits.reshape(len(values), -1), axis=1))


def png(
    values: Values, kind: int, depth: int, *chunks: bytes, interlaced: bool = False, cut: float = 1
) -> bytes:
    """Return a PNG of (height, width, samples); with `cut` under 1, its zlib stream ends early, and properly."""
    height, width, _ = values.shape
    passes = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    raw = b"".join(rows_of(one, depth) for one in passes if one.size)
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    palette = [chunk(b"PLTE", bytes(range(255, -1, -1)) * 3)] if kind == 3 else []
    body = [chunk(b"IDAT", zlib.compress(raw[: int(len(raw) * cut)])), chunk(b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *palette, *chunks, *body])


def values_of(kind: int, depth: int) -> Values:
    values = np.random.default_rng(depth).integers(1, 2**depth, (HEIGHT, WIDTH, SAMPLES[kind]))
    if depth == 16:
        values = values // 16  # as a camera of 12 bits
    values[0, 0, 0] = 0
    if kind in (4, 6):
        values[..., -1] = 2**depth - 1
    return values


def expected(values: Values, kind: int, depth: int) -> npt.NDArray[np.float64]:
    if kind == 3:
        table = np.array(list(range(255, -1, -1)) * 3).reshape(256, 3)
        return table[values[..., 0]].astype(float)
    colours = (values[..., :-1] if kind in (4, 6) else values).astype(float)
    if depth == 16:
        colours = (colours - colours.min()) / (colours.max() - colours.min())
    else:
        colours = colours / (2**depth - 1)
    return np.broadcast_to(np.rint(colours * 255), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_every_kind_and_depth_is_read_right(kind: int, depth: int, interlaced: bool) -> None:
    values = values_of(kind, depth)
    result = decoded(png(values, kind, depth, interlaced=interlaced))
    assert np.abs(result - expected(values, kind, depth)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_of_another_writer_with_all_filters(channels: int) -> None:
    row, column = np.mgrid[0:40, 0:50]
    values = np.stack([row * 40 + column * (7 + c) for c in range(channels)], axis=-1).astype(np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    _, file = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_STRATEGY, 1])
    colours = values[..., :3].astype(float)
    wanted = (colours[..., ::-1] - colours.min()) * 255 / (colours.max() - colours.min())
    assert np.abs(decoded(file.tobytes()) - np.rint(wanted)).max() <= 1


def transparent(result: Pixels) -> npt.NDArray[np.bool_]:
    return (result == 255).all(axis=2)


@pytest.mark.parametrize(("kind", "depth"), [(kind, depth) for kind, depth in KINDS if kind in (0, 2)])
def test_the_transparent_value_is_one_of_the_file(kind: int, depth: int) -> None:
    values = np.zeros((4, 6, SAMPLES[kind]), np.int64)
    values[1:, 2:4] = 1  # differs in the lowest bit only
    if 2 < depth < 16:
        values[2:, 4:] = 2
    if depth == 1:
        values[...] = 1 - values
    clear = values[2, 2]
    file = png(values, kind, depth, chunk(b"tRNS", struct.pack(f">{SAMPLES[kind]}H", *clear)))
    result = decoded(file)
    is_white = expected_white = (values == clear).all(axis=2)
    if depth == 1:
        is_white = expected_white | (values[..., 0] == 1)
    np.testing.assert_array_equal(transparent(result), is_white)


LONG = zlib.compress(b"x" * 2_000_000)
METADATA = {
    "text": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG),
    "profile": chunk(b"iCCP", b"p\0\0" + LONG),
    "bomb of a profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000), 9)),
    "many megabytes of text": chunk(b"tEXt", b"a\0" + b"x" * 8_000_000),
    "more text than Pillow takes": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"y" * 900_000)) * 100,
    "noise": chunk(b"zTXt", b"a\0\0noise") + chunk(b"iCCP", b"noise") + chunk(b"iTXt", b""),
    "wrong checksums": b"".join(
        chunk(name, b"a\0\0")[:-4] + bytes(4) for name in (b"iCCP", b"tEXt", b"pHYs", b"tIME", b"vpAg")
    ),
    "wrong checksum of a transparent value": chunk(b"tRNS", b"\0\1\0\2\0\3")[:-4] + bytes(4),
    **{
        f"empty {name.decode()}": chunk(name, b"")
        for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tRNS", b"eXIf")
    },
    **{
        f"short {name.decode()}": chunk(name, b"\0")
        for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tRNS", b"acTL")
    },
    "animation without frames": chunk(b"acTL", bytes(8)) + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_never_refuses_pixels(what: str) -> None:
    values = values_of(2, 8)
    np.testing.assert_array_equal(decoded(png(values, 2, 8, METADATA[what])), values)


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_a_stream_of_too_few_rows_is_refused(kind: int, depth: int, interlaced: bool, cut: float) -> None:
    with pytest.raises(InvalidImage, match="cut off"):
        decoded(png(values_of(kind, depth), kind, depth, interlaced=interlaced, cut=cut))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_rows_of_zeros_are_whole(kind: int, depth: int, interlaced: bool) -> None:
    values = np.zeros((HEIGHT, WIDTH, SAMPLES[kind]), np.int64)
    assert decoded(png(values, kind, depth, interlaced=interlaced)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("height", [1, 2, 3])
def test_low_interlaced_pictures_are_whole(height: int) -> None:
    values = values_of(2, 8)[:height]
    np.testing.assert_array_equal(decoded(png(values, 2, 8, interlaced=True)), values)


def test_a_palette_that_is_missing_or_late_is_no_picture() -> None:
    """Pillow shows such a file black."""
    whole = png(values_of(3, 8), 3, 8)
    palette = chunk(b"PLTE", bytes(range(255, -1, -1)) * 3)
    without = whole.replace(palette, b"")
    end = whole[-12:]
    for broken in (
        without,
        without.removesuffix(end) + palette + end,
        whole.replace(palette, chunk(b"PLTE", b"")),
    ):
        with pytest.raises(InvalidImage, match="no palette"):
            decoded(broken)


@pytest.mark.parametrize("kind", [0, 2, 3])
def test_damaged_transparency_has_no_say(kind: int) -> None:
    values = values_of(kind, 8)
    whole = chunk(b"tRNS", bytes(256) if kind == 3 else struct.pack(f">{SAMPLES[kind]}H", *values[3, 3]))
    assert (decoded(png(values, kind, 8, whole))[3, 3] == 255).all()
    damaged = png(values, kind, 8, whole[:-4] + b"else")
    np.testing.assert_array_equal(decoded(damaged), decoded(png(values, kind, 8)))


def test_the_size_is_the_one_that_was_checked() -> None:
    """Pillow takes the last of several headers. By its size, 500 bytes took gigabytes, and the server died."""
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 10**9, 8, 2, 0, 0, 0))
    small = png(values_of(2, 8)[:1, :1], 2, 8, huge)
    # a palette that is cut off reaches into the transparency, which is written behind it and holds the header
    swallowed = bytes(8) + struct.pack(">I", 99) + b"tRNS"
    transparency = struct.pack(">I", zlib.crc32(b"PLTE" + swallowed)) + huge + struct.pack(">I", 64) + b"IDAT"
    cut_palette = struct.pack(">I", len(swallowed)) + b"PLTE" + bytes(8)
    head = small[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0))
    for bomb in (small, head + chunk(b"tRNS", transparency.ljust(99, b"\0")) + cut_palette):
        with pytest.raises(InvalidImage, match="two headers"):
            decoded(bomb)
