"""Pictures of every kind that API.md lists come out upright, in RGB, with the right colours."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.images import Pixels, decode_image

HEIGHT, WIDTH = 6, 9


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    """The file that Pillow writes of `image`."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Pixels:
    """Decode under a limit that no picture of these tests reaches; check what holds for every result."""
    pixels = decode_image(data, max_pixels=2_000_000)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    return pixels


def gradient(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """A smooth picture in which no two pixels and no two ways to turn it are the same."""
    row, column = np.mgrid[0:height, 0:width]
    channels = (40 + 20 * row, 30 + 20 * column, 200 - 7 * (row + column))
    return np.stack(channels, axis=-1).astype(np.uint8)


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value for one tag of the type SHORT or LONG."""
    patched = bytearray(tiff)
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [start + 2 + 12 * number for number in range(count)]
    (at,) = [entry for entry in entries if struct.unpack_from("<H", tiff, entry) == (tag,)]
    struct.pack_into("<I", patched, at + 8, value)
    return bytes(patched)


def exif(orientation: int, *, byte_order: str = "<") -> bytes:
    """A block as cameras write it, with a text and a fraction beside the orientation."""
    block = Image.Exif()
    block.endian = byte_order
    block[0x010F] = "Maker of cameras"
    block[0x0112] = orientation
    block[0x011A] = 72.0
    return block.tobytes()


LOSSLESS: list[tuple[str, dict[str, object]]] = [
    ("PNG", {}),
    ("PNG", {"optimize": True}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    *[("TIFF", {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")],
]
LOSSY: list[tuple[str, dict[str, object]]] = [
    ("JPEG", {"quality": 95, "subsampling": 0}),
    ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
    ("JPEG", {"quality": 95, "keep_rgb": True}),
    ("MPO", {"quality": 95, "subsampling": 0}),
    ("WEBP", {"quality": 95}),
    ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ("TIFF", {"compression": "jpeg", "quality": 95}),
]


@pytest.mark.parametrize(("file_format", "options"), LOSSLESS)
def test_lossless_formats_keep_every_value(file_format: str, options: dict[str, object]) -> None:
    data = encoded(Image.fromarray(gradient()), file_format, **options)
    np.testing.assert_array_equal(decoded(data), gradient())


@pytest.mark.parametrize(("file_format", "options"), LOSSY)
def test_lossy_formats_come_close(file_format: str, options: dict[str, object]) -> None:
    picture = gradient().repeat(4, axis=0).repeat(4, axis=1)
    result = decoded(encoded(Image.fromarray(picture), file_format, **options))
    assert np.abs(result.astype(int) - picture).mean() < 5


def test_gif_keeps_its_palette() -> None:
    picture = Image.fromarray(gradient()).quantize(64)
    np.testing.assert_array_equal(decoded(encoded(picture, "GIF")), np.asarray(picture.convert("RGB")))


def filled(mode: str, colour: object) -> Image.Image:
    """One colour, given in the words of the mode."""
    return Image.new(mode, (WIDTH, HEIGHT), colour)  # type: ignore[arg-type]


def palette_picture(index: int = 1) -> Image.Image:
    """Index 0 is pure blue, 1 orange."""
    picture = Image.new("P", (WIDTH, HEIGHT), index)
    picture.putpalette([0, 0, 255, 255, 128, 0])
    return picture


def palette_and_alpha() -> Image.Image:
    picture = palette_picture().convert("PA")
    picture.putalpha(127)
    return picture


def premultiplied(mode: str, colour: tuple[int, ...]) -> bytes:
    """A TIFF whose ExtraSamples tag says that its colours have been multiplied by its alpha."""
    return with_tag(encoded(filled(mode, colour), "TIFF"), 338, 1)


def unnamed_rgb_jpeg() -> bytes:
    """Not YCbCr, though its channels are numbered as those of YCbCr are."""
    data = encoded(filled("RGB", (40, 90, 200)), "JPEG", quality=100, keep_rgb=True)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    numbered = bytearray(data)
    for at in (frame + 10, scan + 5):
        step = 3 if at < scan else 2
        assert numbered[at : at + 3 * step : step] == b"RGB"
        numbered[at : at + 3 * step : step] = b"\1\2\3"
    return bytes(numbered)


GREY, ORANGE = (90, 90, 90), (255, 128, 0)
COLOURS: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "grey PNG": (encoded(filled("L", 90), "PNG"), GREY),
    "grey JPEG": (encoded(filled("L", 90), "JPEG"), GREY),
    "grey TIFF": (encoded(filled("L", 90), "TIFF"), GREY),
    "white, one bit": (encoded(filled("1", 1), "PNG"), (255, 255, 255)),
    "black, one bit": (encoded(filled("1", 0), "TIFF", compression="group4"), (0, 0, 0)),
    "one bit BMP": (encoded(filled("1", 1), "BMP"), (255, 255, 255)),
    "palette PNG": (encoded(palette_picture(), "PNG"), ORANGE),
    "palette BMP": (encoded(palette_picture(), "BMP"), ORANGE),
    "palette TIFF": (encoded(palette_picture(), "TIFF"), ORANGE),
    "CMYK JPEG, inverted as Adobe does": (encoded(filled("CMYK", (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
    "RGB JPEG that only Adobe's marker tells": (unnamed_rgb_jpeg(), (40, 90, 200)),
    "CMYK TIFF": (encoded(filled("CMYK", (0, 127, 255, 0)), "TIFF"), ORANGE),
    "YCbCr TIFF": (encoded(filled("RGB", ORANGE).convert("YCbCr"), "TIFF"), (254, 128, 0)),
    "LAB TIFF": (encoded(filled("LAB", (255, 128, 128)), "TIFF"), (255, 255, 255)),
    "half-clear grey": (encoded(filled("LA", (0, 127)), "PNG"), (128, 128, 128)),
    "half-clear colour": (encoded(filled("RGBA", (255, 0, 0, 127)), "PNG"), (255, 128, 128)),
    "half-clear WebP": (
        encoded(filled("RGBA", (255, 0, 0, 127)), "WEBP", lossless=True),
        (255, 128, 128),
    ),
    "half-clear TIFF": (encoded(filled("RGBA", (255, 0, 0, 127)), "TIFF"), (255, 128, 128)),
    "half-clear grey TIFF": (encoded(filled("LA", (0, 127)), "TIFF"), (128, 128, 128)),
    "premultiplied colour": (premultiplied("RGBA", (127, 0, 0, 127)), (255, 128, 128)),
    "premultiplied grey": (premultiplied("LA", (64, 127)), (192, 192, 192)),
    "palette with alpha": (encoded(palette_and_alpha(), "TIFF"), (255, 192, 128)),
    "palette, one clear entry": (encoded(palette_picture(), "PNG", transparency=1), (255, 255, 255)),
    "palette, another clear entry": (encoded(palette_picture(), "PNG", transparency=0), ORANGE),
    "palette, half-clear entries": (
        encoded(palette_picture(), "PNG", transparency=b"\0\x7f"),
        (255, 192, 128),
    ),
    "clear GIF": (encoded(palette_picture(), "GIF", transparency=1), (255, 255, 255)),
    "GIF with a duration": (encoded(palette_picture(0), "GIF", duration=100), (0, 0, 255)),
    "clear colour": (encoded(filled("RGB", ORANGE), "PNG", transparency=ORANGE), (255, 255, 255)),
    "clear grey": (encoded(filled("L", 90), "PNG", transparency=90), (255, 255, 255)),
    "another grey is clear": (encoded(filled("L", 90), "PNG", transparency=91), GREY),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_every_mode_becomes_rgb_over_white(kind: str) -> None:
    data, colour = COLOURS[kind]
    result = decoded(data)
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result.astype(int) - colour).max() <= 1


def deep_grey(
    values: npt.ArrayLike, dtype: npt.DTypeLike, file_format: str = "TIFF", **options: object
) -> Pixels:
    picture = Image.fromarray(np.array([values], dtype))
    result = decoded(encoded(picture, file_format, **options))
    np.testing.assert_array_equal(result, result[:, :, :1].repeat(3, axis=2))
    return result[0, :, 0]


@pytest.mark.parametrize(
    ("dtype", "file_format"),
    [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF"), ("<f4", "TIFF")],
)
def test_deep_grey_is_scaled_by_its_own_range(dtype: str, file_format: str) -> None:
    np.testing.assert_array_equal(deep_grey([1000, 2000, 1400], dtype, file_format), [0, 255, 102])


def test_deep_grey_may_be_negative() -> None:
    np.testing.assert_array_equal(deep_grey([-100, 155, 0, 2], "<i4"), [0, 255, 100, 102])


@pytest.mark.parametrize("dtype", ["<u2", "<i4", "<f4"])
def test_deep_grey_without_a_range_is_black(dtype: str) -> None:
    np.testing.assert_array_equal(deep_grey([7, 7], dtype), [0, 0])


def test_not_a_number_is_black_and_infinities_are_the_ends() -> None:
    values = [np.nan, -np.inf, 1.0, 3.0, np.inf]
    np.testing.assert_array_equal(deep_grey(values, "<f4"), [0, 0, 0, 255, 255])
    np.testing.assert_array_equal(deep_grey([np.nan, np.inf], "<f4"), [0, 0])


def test_signalling_not_a_number_is_black_too() -> None:
    values = np.array([0x7F800001, 0, 0x3F800000], "<u4").view("<f4")
    np.testing.assert_array_equal(deep_grey(values, "<f4"), [0, 0, 255])


def test_the_clear_value_of_deep_grey_is_white_and_out_of_the_range() -> None:
    picture = Image.fromarray(np.array([[0, 100, 200]], "<u2"))
    png = bytearray(encoded(picture, "PNG"))
    chunk = b"tRNS\0\0"
    at = png.index(b"IDAT") - 4
    png[at:at] = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    np.testing.assert_array_equal(decoded(bytes(png))[0, :, 0], [255, 0, 255])


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("file_format", "options"), [LOSSLESS[0], LOSSLESS[2], *LOSSLESS[4:6]])
def test_pictures_come_out_upright(orientation: int, file_format: str, options: dict[str, object]) -> None:
    tag = {"tiffinfo": {0x0112: orientation}} if file_format == "TIFF" else {"exif": exif(orientation)}
    data = encoded(Image.fromarray(gradient()), file_format, **options, **tag)
    np.testing.assert_array_equal(decoded(data), UPRIGHT[orientation](gradient()))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("file_format", "options"), [LOSSY[0], LOSSY[3], LOSSY[5]])
def test_photographs_come_out_upright(orientation: int, file_format: str, options: dict[str, object]) -> None:
    if file_format == "MPO":  # a phone's second picture, of another depth or exposure, is not the one meant
        options = {**options, "save_all": True, "append_images": [filled("RGB", "red")]}
    data = encoded(
        Image.fromarray(gradient()), file_format, exif=exif(orientation, byte_order=">"), **options
    )
    assert np.abs(decoded(data).astype(int) - UPRIGHT[orientation](gradient())).mean() < 8


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("size", [(700, 801), (5, 65_535), (65_535, 5)])
def test_large_pictures_come_out_whole(orientation: int, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(orientation).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(picture), "PNG", exif=exif(orientation), compress_level=0)
    np.testing.assert_array_equal(decoded(data), UPRIGHT[orientation](picture))


def with_exif(file_format: str, block: bytes) -> bytes:
    """A grey picture that holds `block` where its EXIF belongs."""
    if file_format != "AVIF":
        return encoded(filled("RGB", GREY), file_format, exif=b"Exif\0\0" + block, lossless=True)
    # its encoder checks the block, so that the damage must be done afterwards
    room = b"II*\0\x08\0\0\0" + bytes(300)
    data = encoded(filled("RGB", GREY), "AVIF", exif=room)
    assert room in data
    return data.replace(room, block.ljust(len(room), b"\xff"))


BROKEN_EXIF = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "cut in its header": b"II*\0\x08",
    "begins after its end": b"II*\0\xff\xff\xff\xff",
    "claims more tags than it has": b"MM\0*\0\0\0\x08\xff\xff\x01\x0f",
    "orientation of 9": exif(9)[6:],
    "orientation of 0": exif(0)[6:],
    "orientation in words": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, 2, 2) + b"\x06\0\0\0",
    "a text far outside": exif(1)[6:].replace(
        struct.pack("<HHI", 0x010F, 2, 17), struct.pack("<HHI", 0x010F, 2, 2**31)
    ),
    "a resolution of no numbers": b"II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHII", 0x011A, 5, 0, 0)
    + struct.pack("<HHII", 0x0128, 3, 1, 2)
    + bytes(4),
}


@pytest.mark.parametrize("damage", BROKEN_EXIF)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_broken_exif_is_ignored(file_format: str, damage: str) -> None:
    result = decoded(with_exif(file_format, BROKEN_EXIF[damage]))
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result.astype(int) - 90).max() <= 2


def test_a_broken_index_of_further_pictures_is_ignored() -> None:
    data = bytearray(encoded(filled("RGB", GREY), "MPO", save_all=True, append_images=[filled("RGB", "red")]))
    at = data.index(b"MPF\0")
    data[at + 4 : at + 40] = b"\xff" * 36
    assert np.abs(decoded(bytes(data)).astype(int) - 90).max() <= 2


def test_bytes_that_fill_a_jpeg_do_not_hide_its_orientation() -> None:
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=exif(6))
    assert decoded(data[:2] + b"\xff\xff" + data[2:]).shape == (WIDTH, HEIGHT, 3)


def test_the_first_frame_is_the_picture() -> None:
    more: dict[str, object] = {"save_all": True, "append_images": [filled("RGB", "red")] * 20}
    for file_format in ("GIF", "TIFF", "PNG", "WEBP", "AVIF"):
        result = decoded(encoded(filled("RGB", GREY), file_format, **more))
        assert np.abs(result.astype(int) - 90).max() <= 2, file_format


def test_many_threads_get_what_one_gets() -> None:
    files = [data for data, _ in COLOURS.values()] * 8
    with ThreadPoolExecutor(8) as pool:
        for result, data in zip(pool.map(decoded, files), files, strict=True):
            np.testing.assert_array_equal(result, decoded(data))


def test_doubtful_metadata_is_neither_an_error_nor_logged() -> None:
    tiff = encoded(filled("RGB", GREY), "TIFF", tiffinfo={0x010F: "Maker of cameras"})
    at = tiff.index(struct.pack("<HHI", 0x010F, 2, 17))
    doubtful = tiff[: at + 4] + struct.pack("<I", 2**31) + tiff[at + 8 :]
    program = (
        "import sys; from app.images import decode_image; "
        "print(decode_image(sys.stdin.buffer.read(), max_pixels=100).shape)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], input=doubtful, capture_output=True)
    assert (done.stdout.strip(), done.stderr) == (b"(6, 9, 3)", b"")
