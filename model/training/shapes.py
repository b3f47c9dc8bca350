"""Outlines that nobody photographed: blobs, polygons, ellipses, bars and rings, as alpha.

Does not know about colours.
"""

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Pixels

Outline = npt.NDArray[np.float64]
"""(n, 2): x, y around the origin, about 1 from it at most."""


def outline(rng: np.random.Generator) -> Outline:
    """One of the outlines, of random proportions and turned at random."""
    draw = (_blob, _polygon, _ellipse, _bar, _star)[rng.choice(5, p=(0.35, 0.25, 0.2, 0.1, 0.1))]
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    return draw(rng) @ np.array([[cosine, sine], [-sine, cosine]])


def fill(shape: Outline, centre: npt.NDArray[np.float64], radius: float, side: int) -> Pixels:
    """(side, side), 0..255: an outline filled, smooth at its edge; lengths in pixels."""
    alpha = np.zeros((side, side), np.uint8)
    points = np.round((centre + radius * shape) * 16).astype(np.int32)
    cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, 4)
    return alpha


def stripes(side: int, rng: np.random.Generator) -> Pixels:
    """(side, side), 0 or 255: parallel bands over all of the frame."""
    turn, period = rng.uniform(0, np.pi), side * rng.uniform(0.06, 0.3)
    y, x = np.mgrid[:side, :side]
    phase = (x * np.cos(turn) + y * np.sin(turn)) / period + rng.random()
    bands: Pixels = np.where(phase % 1 < rng.uniform(0.3, 0.7), np.uint8(255), np.uint8(0))
    return bands


def _around(radius: npt.NDArray[np.float64], angle: npt.NDArray[np.float64]) -> Outline:
    """Polar to x, y, the farthest point at 1."""
    return np.column_stack([np.cos(angle), np.sin(angle)]) * (radius / radius.max())[:, None]


def _blob(rng: np.random.Generator) -> Outline:
    """A few waves around a circle."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    wave = np.arange(1, 7)
    height = rng.normal(0, 0.45, 6) / wave
    radius = 1 + (height * np.cos(angle[:, None] * wave + rng.uniform(0, 2 * np.pi, 6))).sum(1)
    return _around(np.maximum(radius, 0.15), angle) * (1.0, rng.uniform(0.5, 1.0))


def _polygon(rng: np.random.Generator) -> Outline:
    """Three to nine corners."""
    corners = int(rng.integers(3, 10))
    angle = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners
    return _around(rng.uniform(0.5, 1.0, corners), angle)


def _ellipse(rng: np.random.Generator) -> Outline:
    """Up to three times as long as wide."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return _around(np.ones(96), angle) * (1.0, rng.uniform(0.33, 1.0))


def _bar(rng: np.random.Generator) -> Outline:
    """A rectangle, thin ones too."""
    return np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) * (0.95, rng.uniform(0.08, 0.8))


def _star(rng: np.random.Generator) -> Outline:
    """Points and notches in turn."""
    points = int(rng.integers(4, 9))
    angle = np.arange(2 * points) * np.pi / points
    return _around(np.where(np.arange(2 * points) % 2, rng.uniform(0.35, 0.7), 1.0), angle)
