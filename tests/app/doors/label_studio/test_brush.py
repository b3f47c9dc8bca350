"""Brush RLE, against vectors of Label Studio's own converter and a decoder written from the description."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.doors.label_studio.brush import encode_brush


def encode(mask: np.ndarray) -> list[int]:
    toggles = np.flatnonzero(np.diff(mask.ravel(), prepend=False))
    return list(encode_brush(np.diff(toggles, prepend=0, append=mask.size)))


def decode(data: bytes) -> np.ndarray:
    """Return the bytes (n,) that a stream stands for."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def take(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[np.ndarray] = []
    found = 0
    while found < number:
        repeats = take(1)
        length = 1 + take(sizes[take(2)])
        run = [take(word)] * length if repeats else [take(word) for _ in range(length)]
        values.append(np.array(run, np.uint8))
        found += length
    assert 1 <= len(bits) - at <= 8
    assert set(bits[at:]) <= {"0"}
    return np.concatenate(values)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (
            [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
            [0, 0, 0, 48, 57, 27, 252, 96, 19, 255, 206, 1, 63, 254, 19, 0, 0],
        ),
        ([[1, 0], [0, 1]], [0, 0, 0, 16, 57, 27, 252, 127, 243, 128, 71, 254]),
        ([[0, 0, 0], [0, 0, 0]], [0, 0, 0, 24, 57, 27, 254, 23, 0, 0]),
        ([[1, 1, 1], [1, 1, 1]], [0, 0, 0, 24, 57, 27, 254, 23, 255, 0]),
    ],
)
def test_vectors_of_the_public_converter(mask: list[list[int]], expected: list[int]) -> None:
    assert encode(np.array(mask, np.bool_)) == expected


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 70))))
def test_any_mask_comes_back(mask: np.ndarray) -> None:
    pixels = decode(bytes(encode(mask))).reshape(*mask.shape, 4)
    assert (pixels == 255 * mask[:, :, None]).all()


@pytest.mark.parametrize("pixels", [2**14 - 1, 2**14, 2**14 + 1, 2**15, 2**15 + 2, 70_000])
@pytest.mark.parametrize("fill", [False, True])
def test_runs_around_the_longest_code(pixels: int, fill: bool) -> None:
    mask = np.full((1, pixels), fill)
    mask[0, -1] = not fill
    assert (decode(bytes(encode(mask))).reshape(-1, 4)[:, 3] == 255 * mask[0]).all()


def test_noise_of_more_codes_than_one_step() -> None:
    mask = np.random.default_rng(0).random((300, 500)) > 0.5
    assert (decode(bytes(encode(mask))).reshape(300, 500, 4)[:, :, 0] == 255 * mask).all()
