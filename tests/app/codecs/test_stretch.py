"""How pictures of more than 8 bits become shades: by their range, by percentiles, or not at all."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from app.codecs.deep import Stretch
from app.codecs.images import decode_image

SIDE = 64


def ramp(low: float, high: float, dtype: str = "uint16") -> npt.NDArray[Any]:
    """A picture (64, 64) whose values rise evenly from its first pixel to its last."""
    return np.linspace(low, high, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)


def tiff(values: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def shades(data: bytes, stretch: Stretch) -> npt.NDArray[np.uint8]:
    return decode_image(data, max_pixels=10**6, stretch=stretch)[:, :, 0]


def contrast(data: bytes, stretch: Stretch) -> int:
    """Shades between the fifth and the ninety-fifth percentile."""
    low, high = np.percentile(shades(data, stretch), (5, 95))
    return int(high - low)


HOT = {(0, 0): 60_000, (30, 30): 65_535, (63, 5): 50_000}


def test_a_few_hot_pixels_do_not_flatten_a_picture() -> None:
    values = ramp(500, 700)
    for place, value in HOT.items():
        values[place] = value
    data = tiff(values)
    assert contrast(data, "range") < 5
    assert contrast(data, "percentile") > 200
    assert shades(data, "percentile")[30, 30] == 255


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("value", [-9999, -32768])
def test_values_that_stand_for_no_data_do_not_flatten_a_picture(value: float, dtype: str, sign: int) -> None:
    values = ramp(200, 300, dtype)[:, ::sign].copy()
    values[:20] = value  # a third of it
    assert np.ptp(shades(tiff(values), "range")[20:]) < 5
    assert np.ptp(shades(tiff(values), "percentile")[20:]) > 250
    assert not shades(tiff(values), "percentile")[:20].any()


@pytest.mark.parametrize("value", [-3.4028235e38, 3.4028235e38, 1e31])
def test_the_ends_of_floats_stand_for_no_data(value: float) -> None:
    values = ramp(-1, 1, "float32")
    values[10:30, 10:30] = value
    values[0, 0] = np.nan
    values[0, 1] = np.inf
    assert contrast(tiff(values), "percentile") > 200


@pytest.mark.parametrize("stretch", ["range", "percentile"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(("value", "dtype"), [(0, "uint16"), (7, "uint16"), (-1, "int16"), (12.5, "float32")])
def test_the_files_own_value_for_no_data_has_no_say(
    value: float, dtype: str, photometric: str, stretch: Stretch
) -> None:
    values = ramp(2000, 2100, dtype)
    values[:30] = value
    tagged = tiff(values, photometric=photometric, extratags=[(42113, "s", 0, str(value), True)])
    assert np.ptp(shades(tagged, stretch)[30:]) > 250
    broken = tiff(values, photometric=photometric, extratags=[(42113, "s", 0, "n/a", True)])
    assert np.ptp(shades(broken, "range")[30:]) < 20


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.eye(SIDE, dtype=bool), 0, 100).astype(np.uint16),
        np.where(np.eye(SIDE, dtype=bool), -9999, 5).astype(np.int16),
        np.where(np.eye(SIDE, dtype=bool), 65535, 20000).astype(np.uint16),
    ],
    ids=["0 and 100", "-9999 and 5", "65535 and 20000"],
)
def test_a_picture_of_two_values_keeps_both(values: npt.NDArray[Any]) -> None:
    assert np.unique(shades(tiff(values), "percentile")).tolist() == [0, 255]


def test_dark_background_is_data() -> None:
    values = ramp(1000, 1100)
    values[:30] = 0  # neither the file nor custom says that this stands for no data
    assert np.ptp(shades(tiff(values), "percentile")[30:]) < 30


def test_without_a_stretch_values_keep_their_place_in_their_type() -> None:
    for dtype, largest in (("uint16", 65_535), ("int16", 32_767), ("uint32", 2**32 - 1), ("float32", 1)):
        values = np.zeros((2, 3), dtype)
        values[0] = [0, largest, largest // 2 if largest > 1 else 0.5]
        assert shades(tiff(values), "none")[0].tolist() in ([0, 255, 127], [0, 255, 128])
    outside = np.array([[-1.0, 2.0, 0.25]], np.float32)
    assert shades(tiff(outside), "none").tolist() == [[0, 255, 64]]


def test_colours_share_one_stretch_and_png_has_it_too() -> None:
    colours = np.stack([ramp(1000, 2000), ramp(3000, 3500), ramp(0, 4000)], axis=2)
    colours[0, 0] = 65_535
    read = decode_image(tiff(colours, photometric="rgb"), max_pixels=10**6, stretch="percentile")
    expected = np.clip(colours / 4000 * 255, 0, 255)
    assert np.abs(read[1:].astype(int) - expected[1:]).max() < 3
    file = io.BytesIO()
    Image.fromarray(ramp(500, 700)).save(file, "PNG")
    assert contrast(file.getvalue(), "none") < 3
    assert contrast(file.getvalue(), "percentile") > 200


def test_pictures_of_8_bits_are_left_as_they_are() -> None:
    for file_format in ("PNG", "JPEG", "TIFF", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(ramp(100, 120, "uint8")).save(file, file_format)
        expected = shades(file.getvalue(), "range")
        for stretch in ("percentile", "none"):
            assert np.array_equal(shades(file.getvalue(), stretch), expected)
