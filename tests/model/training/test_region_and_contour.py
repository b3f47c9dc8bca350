"""J and F on masks whose figures are known."""

import numpy as np
import pytest

from model.training.pack import Mask
from model.training.region_and_contour import contour, region


def square(left: int, top: int, side: int) -> Mask:
    """(200, 200): tolerance of a contour is 3 pixels there."""
    mask = np.zeros((200, 200), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def test_the_same_mask_is_1_and_one_apart_is_0() -> None:
    one, other = square(10, 10, 40), square(120, 120, 40)
    assert region(one, one) == contour(one, one) == 1
    assert region(one, other) == contour(one, other) == 0


def test_nothing_is_right_only_where_there_is_nothing() -> None:
    nothing, one = square(0, 0, 0), square(10, 10, 40)
    assert region(nothing, nothing) == contour(nothing, nothing) == 1
    for pair in ((nothing, one), (one, nothing)):
        assert region(*pair) == contour(*pair) == 0


def test_a_contour_within_the_tolerance_is_right() -> None:
    truth = square(50, 50, 80)
    assert contour(square(53, 50, 80), truth) == 1
    assert contour(square(54, 54, 80), truth) < 0.2
    assert region(square(53, 50, 80), truth) == pytest.approx(77 / 83)


def test_half_of_a_contour_gives_its_share() -> None:
    """The left half of a tall bar: all of its contour but one side is near, two thirds of the bar's are."""
    truth, found = np.zeros((2, 200, 200), np.bool_)
    truth[60:140, 40:160] = True
    found[60:140, 40:100] = True
    precision, recall = 200 / 280, 206 / 400
    assert contour(found, truth) == pytest.approx(2 * precision * recall / (precision + recall), abs=0.02)


def test_the_frame_is_no_contour() -> None:
    assert contour(np.ones((50, 50), np.bool_), np.zeros((50, 50), np.bool_)) == 1
