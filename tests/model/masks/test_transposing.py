"""Runs row by row: the same pixels as a picture of the mask read in the other direction."""

import numpy as np
import pytest

from model.masks import transposing
from model.masks.runs import Runs
from model.masks.transposing import by_rows, transpose

GENERATOR = np.random.default_rng(0)
MASKS = {
    "empty": np.zeros((3, 5), bool),
    "full": np.ones((3, 5), bool),
    "one pixel": np.ones((1, 1), bool),
    "one row": np.array([[0, 1, 1, 0, 1]], bool),
    "one column": np.array([[1], [0], [1]], bool),
    "all but the first": np.arange(15).reshape(3, 5) > 0,
    "all but the last": np.arange(15).reshape(3, 5) < 14,
    "a run over several columns": np.arange(15).reshape(5, 3).T % 12 > 3,
    "a run over several rows": np.arange(15).reshape(3, 5) % 12 > 3,
    "a column at the right side": np.eye(5, dtype=bool)[4:].repeat(3, axis=0),
    "a ring": np.pad(np.pad(np.zeros((4, 3), bool), 2, constant_values=True), 1),
    "checks": np.indices((7, 6)).sum(axis=0) % 2 == 0,
    **{
        f"noise {height} x {width}": GENERATOR.random((height, width)) < share
        for height, width, share in ((8, 13, 0.5), (40, 7, 0.1), (5, 64, 0.9), (33, 33, 0.5))
    },
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_runs_row_by_row_are_those_of_the_transposed_picture(mask: np.ndarray) -> None:
    turned, expected = transpose(Runs.from_array(mask)), Runs.from_array(mask.T)
    assert (turned.height, turned.width) == mask.T.shape
    assert turned.lengths.tolist() == expected.lengths.tolist()
    assert transpose(turned).lengths.tolist() == Runs.from_array(mask).lengths.tolist()


def test_runs_of_length_zero_do_not_matter() -> None:
    split = Runs(2, 3, np.array([0, 1, 0, 2, 1, 0, 2]))
    assert split.to_array().tolist() == [[True, True, False], [True, False, False]]
    assert transpose(split).lengths.tolist() == [0, 2, 1, 1, 2]


@pytest.mark.parametrize("most", [0.0, 1 / 30, 2.0])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_pixels_row_by_row_are_those_of_the_mask(
    mask: np.ndarray, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way is the faster one."""
    monkeypatch.setattr(transposing, "_MANY", most)
    drawn = by_rows(Runs.from_array(mask))
    assert drawn.flags.c_contiguous
    assert drawn.dtype == bool
    assert np.array_equal(drawn, mask)


def test_a_mask_of_stripes_is_not_turned_run_by_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has few runs, and a border in every pixel."""
    stripes = np.tile(np.array([[True, False]]), (300, 100))
    monkeypatch.setattr(transposing, "_turned", None)
    assert np.array_equal(by_rows(Runs.from_array(stripes)), stripes)
