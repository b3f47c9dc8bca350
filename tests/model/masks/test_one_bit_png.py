"""Masks as PNG: what libraries that did not write them read."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from PIL import Image

from model.masks.one_bit_png import png
from model.masks.runs import Booleans, Runs

MASKS = hypothesis_numpy.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(MASKS)
def test_a_png_holds_the_mask_in_one_bit(mask: Booleans) -> None:
    written = png(Runs.from_array(mask))
    with Image.open(BytesIO(written)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "1")
        assert np.array_equal(np.asarray(picture), mask)
    with Image.open(BytesIO(written)) as picture:
        picture.verify()  # the sums of the chunks
    read = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read, mask * np.uint8(255))


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1), (3000, 4000)])
@pytest.mark.parametrize("value", [False, True])
def test_a_uniform_mask_of_any_size_is_a_small_file(size: tuple[int, int], value: bool) -> None:
    written = png(Runs.from_array(np.full(size, value)))
    assert len(written) < 2**15
    with Image.open(BytesIO(written)) as picture:
        assert picture.size == size[::-1]
        assert picture.getextrema() == (255 * value, 255 * value)


def test_runs_of_length_0_count_for_nothing() -> None:
    """A client's RLE may have them."""
    mask = Runs(3, 2, np.array([0, 0, 1, 0, 2, 3]))
    with Image.open(BytesIO(png(mask))) as picture:
        assert np.array_equal(np.asarray(picture), mask.to_array())
