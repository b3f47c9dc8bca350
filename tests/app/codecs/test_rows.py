"""Masks row by row in JSON."""

import json

import numpy as np
import pytest

from app.codecs.rows import rows, write_row_lengths
from model.masks.runs import Runs

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("pixels", "lengths"),
    [
        ([[0]], [1]),
        ([[1]], [0, 1]),
        ([[0, 1, 1], [1, 0, 0]], [1, 3, 2]),
        ([[1, 0], [0, 1]], [0, 1, 2, 1]),
        ([[1, 1], [1, 1], [1, 1]], [0, 6]),
    ],
)
def test_small_masks(pixels: list[list[int]], lengths: list[int]) -> None:
    mask = Runs.from_array(np.array(pixels, bool))
    assert json.loads(f"[{write_row_lengths(mask)}]") == lengths
    assert json.loads(b"".join(rows(mask))) == [[255 * pixel for pixel in row] for row in pixels]


def test_large_masks_are_written_in_pieces() -> None:
    pixels = GENERATOR.random((201, 301)) < 0.5
    mask = Runs.from_array(pixels)
    lengths = json.loads(f"[{write_row_lengths(mask)}]")
    assert len(lengths) > 3 * 8192
    assert (np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(201, 301) == pixels).all()
    assert (np.array(json.loads(b"".join(rows(mask)))) == 255 * pixels).all()
