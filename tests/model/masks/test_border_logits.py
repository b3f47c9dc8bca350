"""Logits near the border are enough for the outline."""

from collections.abc import Callable

import numpy as np
import pytest

from model.masks.border_logits import BorderLogits
from model.masks.outlines import Outline, outline
from model.masks.runs import runs
from tests.model.masks.logit_maps import MAPS, Map, Size, blobs


def assert_same(one: Outline, other: Outline) -> None:
    for ours, theirs in ((one.outer, other.outer), (one.holes, other.holes)):
        assert len(ours) == len(theirs)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("make", MAPS)
@pytest.mark.parametrize("low", [(64, 64), (48, 81), (1, 7)])
@pytest.mark.parametrize("size", [(300, 451), (64, 64), (64, 130), (37, 23), (5, 200), (3, 3), (1, 1)])
def test_the_outline_is_that_of_all_logits(make: Callable[[int, int], Map], low: Size, size: Size) -> None:
    """Also where the picture is smaller than the logits, so that neighbouring pixels see distant ones."""
    height, width = size
    logits = make(*low)
    logits[0, 0], logits[-1, -1] = np.nan, np.inf
    mask = runs(logits, height=height, width=width)
    kept = BorderLogits.of(logits, height=height, width=width)
    assert_same(outline(kept.to_map(), mask), outline(logits, mask))


def test_what_is_kept_is_less_than_a_quarter_of_the_logits() -> None:
    logits = blobs(256, 256)
    assert BorderLogits.of(logits, height=3000, width=4000).nbytes < logits.nbytes / 4
