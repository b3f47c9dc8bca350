"""TIFF in every layout: written by tifffile, read by us, compared with what went in and with OpenCV.

tifffile compresses only with deflate by itself. For LZW and PackBits, Pillow compresses the strips.
"""

import io
import itertools
import struct

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from app.codecs.images import decode_image
from app.codecs.tiff_tags import Directory, Tag
from app.errors import ImageTooLarge, InvalidImage
from tests.app.codecs.small_pictures import decoded, encoded

HEIGHT, WIDTH, ROWS = 18, 19, 4
MODES = {
    "minisblack": 1,
    "miniswhite": 1,
    "rgb": 3,
    "grey and alpha": 2,
    "rgb and alpha": 4,
    "rgb and two more": 5,
}
NUMBERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def samples(mode: str, numbers: str) -> npt.NDArray[np.generic]:
    """Return (HEIGHT, WIDTH, samples) with values of a part of the type's range; alpha is opaque."""
    random = np.random.default_rng(len(mode))
    low, high = {"u1": (0, 255), "i1": (-100, 100), "f2": (-50, 90)}.get(numbers, (0, 30_000))
    if numbers in ("i2", "i4", "i8", "f4", "f8"):
        low = -1000
    values = random.integers(low, high, (HEIGHT, WIDTH, MODES[mode])).astype(numbers)
    if "alpha" in mode:
        values[..., -1] = 1 if numbers[0] == "f" else np.iinfo(numbers).max
    return values


def expected(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.float64]:
    """Return what a person should see: 8 bits as they are, others by their range."""
    colours = values[..., : 3 if "rgb" in mode else 1].astype(np.float64)
    if values.dtype != np.uint8:
        colours = (colours - colours.min()) * 255 / (colours.max() - colours.min())
    return 255 - colours if mode == "miniswhite" else colours


def recompressed(file: bytes, compression: str) -> bytes:
    """Return a TIFF without compression with its strips or tiles compressed by Pillow, as rows of bytes."""
    directory = Directory(file)
    is_tiled = Tag.TILE_OFFSETS in directory.tags
    where, how_long = (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if is_tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
    offsets, lengths, data = [], [], file
    for at, length in zip(directory.all(where), directory.all(how_long), strict=True):
        row = Image.frombytes("L", (length, 1), file[at : at + length])
        packed = Directory(encoded(row, "TIFF", compression=compression))
        start, size = packed.one(Tag.STRIP_OFFSETS, 0), packed.one(Tag.STRIP_BYTES, 0)
        offsets.append(len(data))
        lengths.append(size)
        data += packed.data[start : start + size]
    number = {"tiff_lzw": 5, "packbits": 32773}[compression]
    changed = {Tag.COMPRESSION: (number,), where: tuple(offsets), how_long: tuple(lengths)}
    return Directory(data).with_tags(changed)


def written(
    values: npt.NDArray[np.generic], mode: str, planar: str, compression: str, **options: object
) -> bytes:
    extra = {2: ["unassalpha"], 4: ["unassalpha"], 5: ["unspecified"] * 2}.get(MODES[mode])
    if planar == "separate":
        values = np.moveaxis(values, 2, 0)
    elif MODES[mode] == 1:
        values = values[..., 0]
    file = io.BytesIO()
    photometric = mode if mode.startswith("minis") else "rgb" if "rgb" in mode else "minisblack"
    tifffile.imwrite(
        file,
        values,
        photometric=photometric,
        planarconfig=planar if MODES[mode] > 1 else None,
        compression="zlib" if compression == "zlib" else None,
        extrasamples=extra,
        metadata=None,
        rowsperstrip=None if options.get("tile") else ROWS,
        **options,
    )
    plain = file.getvalue()
    return plain if compression in ("none", "zlib") else recompressed(plain, compression)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("mode", MODES)
def test_every_layout_of_samples_is_read_right(mode: str, numbers: str) -> None:
    values = samples(mode, numbers)
    wanted = np.broadcast_to(np.rint(expected(values, mode)), (HEIGHT, WIDTH, 3))
    planars = ["contig", "separate"] if MODES[mode] > 1 else ["contig"]
    for planar, byteorder, compression, tile in itertools.product(
        planars, "<>", ["none", "zlib", "tiff_lzw", "packbits"], [None, (16, 16)]
    ):
        predictors = (
            [False, True]
            if compression == "zlib" and (numbers in ("u1", "u2", "u4", "i1", "i2", "i4"))
            else [False]
        )
        for predictor, is_big in itertools.product(
            predictors, [False, True] if compression == "none" else [False]
        ):
            options = {"byteorder": byteorder, "tile": tile, "predictor": predictor, "bigtiff": is_big}
            result = decoded(written(values, mode, planar, compression, **options))
            worst = np.abs(result - wanted).max()
            assert worst <= 1, (planar, byteorder, compression, tile, predictor, is_big)


@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_number_of_bits_is_read_right(bits: int, channels: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, channels))
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    single = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    rows = np.packbits(single.reshape(HEIGHT, -1), axis=1)
    file = io.BytesIO()
    tifffile.imwrite(file, rows, rowsperstrip=ROWS, metadata=None)
    described = {
        Tag.WIDTH: (WIDTH,),
        Tag.BITS: (bits,) * channels,
        Tag.SAMPLES: (channels,),
        Tag.PHOTOMETRIC: (2 if channels == 3 else 1,),
    }
    packed = Directory(file.getvalue()).with_tags(described)
    wanted = np.broadcast_to(np.rint(values * 255 / (2**bits - 1)), (HEIGHT, WIDTH, 3))
    assert np.abs(decoded(packed) - wanted).max() <= 1


@pytest.mark.parametrize("numbers", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_what_opencv_writes_is_read_as_opencv_reads_it(
    numbers: str, compression: int, predictor: int
) -> None:
    if predictor == 3 and numbers[0] == "u":
        return  # is for floats
    values = samples("rgb", "u2").astype(np.float64) / 30_000
    values = (values * 255).astype(numbers) if numbers == "u1" else (values * 60_000).astype(numbers)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    _, file = cv2.imencode(".tif", values, options)
    read = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.abs(decoded(file.tobytes()) - np.rint(expected(read, "rgb"))).max() <= 1


def test_alpha_of_16_bits_is_laid_over_white() -> None:
    for mode in ("grey and alpha", "rgb and alpha"):
        values = samples(mode, "u2")
        values[:, :10, -1], values[:, 10:20, -1] = 0, 32768
        result = decoded(written(values, mode, "contig", "none"))
        assert (result[:, :10] == 255).all()
        seen = values[:, 10:, :-1].astype(float)
        shades = (seen - seen.min()) * 255 / (seen.max() - seen.min())
        shades[:, :10] = (shades[:, :10] + 255) / 2
        assert np.abs(result[:, 10:] - shades).max() <= 1


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (Tag.COMPRESSION, 34712, "compression number 34712"),
        (Tag.PHOTOMETRIC, 32803, "raw data of a camera"),
        (Tag.SAMPLE_FORMAT, 6, "complex floats"),
        (Tag.BITS, 24, "24-bit integers"),
        (Tag.PREDICTOR, 9, "predictor 9"),
        (Tag.ROWS_PER_STRIP, 0, "strips of"),
    ],
)
def test_layouts_that_are_not_read_are_named(tag: Tag, value: int, words: str) -> None:
    file = written(samples("minisblack", "u2"), "minisblack", "contig", "none")
    with pytest.raises(InvalidImage, match=words):
        decoded(Directory(file).with_tags({tag: (value,)}))


def test_samples_of_different_sizes_are_refused() -> None:
    file = written(samples("rgb", "u2"), "rgb", "contig", "none")
    with pytest.raises(InvalidImage, match="different bits"):
        decoded(Directory(file).with_tags({Tag.BITS: (5, 6, 5)}))


def test_the_preview_in_a_raw_file_is_not_taken_for_its_picture() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(
            np.zeros((12, 16, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1, metadata=None
        )
        tiff.write(np.zeros((120, 160), np.uint16), photometric="minisblack", metadata=None)
    with pytest.raises(InvalidImage, match="a preview as its first picture"):
        decoded(file.getvalue())


def test_strips_that_are_not_listed_are_missing() -> None:
    file = written(samples("rgb", "u1"), "rgb", "contig", "none")
    directory = Directory(file)
    half = directory.all(Tag.STRIP_OFFSETS)[:3]
    with pytest.raises(InvalidImage, match="lists 3 of 5"):
        decoded(directory.with_tags({Tag.STRIP_OFFSETS: half}))


@pytest.mark.parametrize("compression", ["none", "zlib", "tiff_lzw", "packbits"])
def test_a_strip_that_ends_early_is_refused(compression: str) -> None:
    file = written(samples("rgb", "u2"), "rgb", "contig", compression, byteorder="<")
    directory = Directory(file)
    *lengths, last = directory.all(Tag.STRIP_BYTES)
    with pytest.raises(InvalidImage):
        decoded(directory.with_tags({Tag.STRIP_BYTES: (*lengths, last // 2)}))


def test_deep_samples_are_bounded_by_their_bytes() -> None:
    file = written(samples("rgb", "f8"), "rgb", "contig", "zlib")
    with pytest.raises(ImageTooLarge, match="4 bytes for each pixel"):
        decode_image(file, max_pixels=HEIGHT * WIDTH)


@pytest.mark.parametrize("numbers", ["u2", "f4"])
def test_a_full_range_photograph_keeps_its_shades(numbers: str) -> None:
    ramp = np.linspace(0, 1, 256)[None, :, None].repeat(3, axis=2) * [1, 0.8, 0.5]
    values = np.rint(ramp * 65535).astype("u2") if numbers == "u2" else ramp.astype("f4")
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", metadata=None)
    assert np.abs(decoded(file.getvalue()) - ramp * 255).max() <= 1


def test_tags_that_share_their_bytes_cost_nothing() -> None:
    file = encoded(Image.new("L", (9, 9), 90), "TIFF")
    (start,) = struct.unpack_from("<I", file, 4)
    (count,) = struct.unpack_from("<H", file, start)
    own = file[start + 2 : start + 2 + 12 * count]
    many = b"".join(struct.pack("<HHII", tag, 7, len(file), 0) for tag in range(1000, 60_000))
    head = struct.pack("<H", count + 59_000) + own + many + bytes(4)
    bomb = file[:4] + struct.pack("<I", len(file)) + file[8:] + head
    assert (decoded(bomb) == 90).all()
