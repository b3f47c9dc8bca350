"""HEIC, which phones send and which needs the extra 'heif'."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from app.codecs.images import Pixels, decode_image
from app.errors import ImageTooLarge, InvalidImage
from tests.app.codecs.small_pictures import exif
from tests.app.codecs.test_orientation import UPRIGHT
from tests.server import ROOT


def heic(**options: object) -> bytes:
    image = Image.new("RGB", (160, 120), (255, 0, 0))
    image.paste((0, 0, 255), (0, 60, 160, 120))
    file = io.BytesIO()
    image.save(file, "HEIF", quality=95, **options)
    return file.getvalue()


def assert_shows(pixels: Pixels, turned: Callable[[Pixels], Pixels]) -> None:
    expected = np.zeros((120, 160, 3), np.uint8)
    expected[:60, :, 0] = expected[60:, :, 2] = 255
    difference = np.abs(pixels.astype(int) - turned(expected))
    assert difference.mean() < 4  # lossy, most of all along the border of the colours


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_it_is_turned_as_its_container_says(orientation: int) -> None:
    data = heic(exif=exif(orientation))  # written into the container, too
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert_shows(decode_image(data, max_pixels=10**6), UPRIGHT[orientation])


def test_exif_does_not_turn_it() -> None:
    """ISO/IEC 23008-12: only the container does."""
    only_exif = Image.Exif()
    only_exif[0x0112] = 6
    data = heic(exif=only_exif)
    assert b"irot" not in data
    assert_shows(decode_image(data, max_pixels=10**6), UPRIGHT[1])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_what_is_cut_off_is_refused(share: float) -> None:
    data = heic()
    with pytest.raises(InvalidImage, match=r"cut off|header"):
        decode_image(data[: int(share * len(data))], max_pixels=10**6)


def test_its_size_is_limited_before_it_is_decoded() -> None:
    with pytest.raises(ImageTooLarge, match="SAM2_MAX_IMAGE_MEGAPIXELS"):
        decode_image(heic(), max_pixels=1000)


def test_without_the_extra_the_error_names_it() -> None:
    code = """
import sys
sys.modules["pillow_heif"] = None
from app.codecs.images import Pixels, decode_image
from app.errors import InvalidImage
try:
    decode_image(sys.stdin.buffer.read(), max_pixels=10**6)
except InvalidImage as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=heic(), capture_output=True, cwd=ROOT, timeout=120, check=True
    )
    assert "HEIC" in done.stdout.decode()
    assert "pip install '.[heif]'" in done.stdout.decode()
