"""Pictures of every kind that docs/http-api.md lists decode to RGB with the right colours."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.codecs.images import Pixels
from tests.app.codecs.small_pictures import (
    GREY,
    HEIGHT,
    LOSSLESS,
    LOSSY,
    WIDTH,
    decoded,
    encoded,
    filled,
    gif_of_a_small_frame,
    gradient,
    with_tag,
)


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


@pytest.mark.parametrize("transparent", [None, 0])
def test_where_the_first_frame_of_a_gif_leaves_the_screen_free_is_white(transparent: int | None) -> None:
    """Pillow shows the palette's first colour there."""
    data, expected = gif_of_a_small_frame(transparent)
    np.testing.assert_array_equal(decoded(data), expected)


def palette_picture(index: int = 1) -> Image.Image:
    """Return a palette picture of one index: 0 is pure blue, 1 is orange."""
    picture = Image.new("P", (WIDTH, HEIGHT), index)
    picture.putpalette([0, 0, 255, 255, 128, 0])
    return picture


def palette_and_alpha() -> Image.Image:
    picture = palette_picture().convert("PA")
    picture.putalpha(127)
    return picture


def premultiplied(mode: str, colour: tuple[int, ...]) -> bytes:
    """Return a TIFF whose ExtraSamples tag says that its colours are multiplied by its alpha."""
    return with_tag(encoded(filled(mode, colour), "TIFF"), 338, 1)


def unnamed_rgb_jpeg() -> bytes:
    """Return an RGB JPEG whose channels have the numbers of YCbCr."""
    data = encoded(filled("RGB", (40, 90, 200)), "JPEG", quality=100, keep_rgb=True)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    numbered = bytearray(data)
    for at in (frame + 10, scan + 5):
        step = 3 if at < scan else 2
        assert numbered[at : at + 3 * step : step] == b"RGB"
        numbered[at : at + 3 * step : step] = b"\1\2\3"
    return bytes(numbered)


ORANGE = (255, 128, 0)
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


def test_an_avif_by_its_family_name_is_read() -> None:
    data = encoded(filled("RGB", GREY), "AVIF")
    renamed = data[:8] + b"mif1" + data[12:]
    assert np.abs(decoded(renamed).astype(int) - 90).max() <= 2


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


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("number", [0, 1, 2, 9])
def test_a_jpeg_with_a_strange_number_in_its_head_is_read_as_everybody_reads_it(
    mode: str, number: int
) -> None:
    """JFIF's revision, or Adobe's transform: of unknown ones libjpeg warns, and goes on."""
    data = bytearray(encoded(Image.fromarray(gradient()).convert(mode), "JPEG", keep_rgb=mode == "RGB"))
    data[data.index(b"Adobe") + 11 if b"Adobe" in data else data.index(b"JFIF\0") + 5] = number
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoded(bytes(data)), expected)
