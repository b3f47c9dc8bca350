"""A mask cropped to its box is that part of the picture, in runs that COCO's own code writes too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.masks.cropping import crop
from model.masks.runs import Runs


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_a_crop_shows_what_lies_in_the_box(mask: np.ndarray) -> None:
    cropped, (x0, y0, x1, y1) = crop(Runs.from_array(mask))
    part = mask[y0:y1, x0:x1]
    assert (cropped.to_array() == part).all()
    assert cropped.lengths.tolist() == Runs.from_array(part).lengths.tolist()
    outside = mask.copy()
    outside[y0:y1, x0:x1] = False
    assert not outside.any()
    if mask.any():
        assert part[0].any()
        assert part[-1].any()
        assert part[:, 0].any()
        assert part[:, -1].any()


@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
def test_of_an_empty_mask_one_pixel_is_left(size: tuple[int, int]) -> None:
    cropped, bounds = crop(Runs.from_array(np.zeros(size, bool)))
    assert (bounds, cropped.to_array().tolist()) == ((0, 0, 1, 1), [[False]])
