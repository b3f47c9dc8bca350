"""Maps of logits whose masks are round, ringed, empty, full, tiny or ragged."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Size = tuple[int, int]


def noise(h: int, w: int) -> Map:
    return np.random.default_rng(h * 1000 + w).normal(size=(h, w)).astype(np.float32)


def blobs(h: int, w: int) -> Map:
    """Three round hills, one of them over the border."""
    y, x = (np.arange(h)[:, np.newaxis] + 0.5) / h, (np.arange(w) + 0.5) / w
    hills = [(0.3, 0.35, 0.12), (0.65, 0.6, 0.15), (0.95, 0.1, 0.1)]
    return sum(
        (14 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s)) for cy, cx, s in hills), -6.0
    ).astype(np.float32)


def ring(h: int, w: int) -> Map:
    """A disc with a hole."""
    y, x = (np.arange(h)[:, np.newaxis] + 0.5) / h, (np.arange(w) + 0.5) / w
    return (10 * (0.1 - np.abs(np.hypot(y - 0.5, x - 0.5) - 0.3))).astype(np.float32)


def empty(h: int, w: int) -> Map:
    return np.full((h, w), -3, np.float32)


def full(h: int, w: int) -> Map:
    return np.full((h, w), 3, np.float32)


def zero(h: int, w: int) -> Map:
    return np.zeros((h, w), np.float32)


def one_pixel(h: int, w: int) -> Map:
    logits = empty(h, w)
    logits[h // 2, w // 3] = 5
    return logits


def one_gap(h: int, w: int) -> Map:
    return -one_pixel(h, w)


def checkerboard(h: int, w: int) -> Map:
    return np.where(np.add.outer(np.arange(h), np.arange(w)) % 2, 2, -1).astype(np.float32)


MAPS: list[Callable[[int, int], Map]] = [
    noise,
    blobs,
    ring,
    empty,
    full,
    zero,
    one_pixel,
    one_gap,
    checkerboard,
]
