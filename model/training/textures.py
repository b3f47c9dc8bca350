"""Surfaces: patches of photographs, gradients and plain colours, and how two of them are made alike.

Does not know about shapes.
"""

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Pixels, as_pixels
from model.training.views import view_of


def patch(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """(side, side, 3): a piece of a photograph, a tenth of it to all, turned at random."""
    h, w = pixels.shape[:2]
    size = min(h, w) * np.exp(rng.uniform(np.log(0.1), 0))
    centre = rng.uniform(size / 2, np.maximum((w, h) - size / 2, size / 2 + 1))
    return view_of((centre[0], centre[1]), (size, size), side, turn=rng.uniform(0, 2 * np.pi)).see(pixels)


def gradient(side: int, rng: np.random.Generator) -> Pixels:
    """(side, side, 3): one colour to another, or nearly plain."""
    corners = rng.integers(0, 256, (1, 1, 3)) + rng.normal(0, rng.choice((3, 60)), (2, 2, 3))
    return as_pixels(cv2.resize(np.clip(corners, 0, 255).astype(np.uint8), (side, side)))


def recoloured(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """The same pattern with the channels in another order and weight."""
    gain, lift = rng.uniform(0.6, 1.4, 3), rng.uniform(-40, 40, 3)
    swapped = np.ascontiguousarray(rgb[..., rng.permutation(3)])
    return _through_tables(swapped, np.arange(256)[:, None] * gain + lift)


def nearer(rgb: Pixels, of: Pixels, ground: Pixels, share: float) -> Pixels:
    """Colours moved towards the mean of `ground`; all (h, w, 3) but `of`, the alpha (h, w) of what is moved."""
    mean = np.array(cv2.mean(rgb, of)[:3])
    shift = share * (np.array(cv2.mean(ground)[:3]) - mean)
    return _through_tables(rgb, np.arange(256)[:, None] + shift)


def alike(rgb: Pixels, ground: Pixels) -> Pixels:
    """With mean and contrast of `ground`, so that only the pattern differs; both (h, w, 3)."""
    (mean, deviation), (wanted, width) = cv2.meanStdDev(rgb), cv2.meanStdDev(ground)
    gain = np.clip(width / np.maximum(deviation, 1), 0.3, 3)
    return _through_tables(rgb, (np.arange(256)[:, None] - mean.T) * gain.T + wanted.T)


def shaded(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Lit from one side."""
    side = rgb.shape[0]
    corners = rng.uniform(0.55, 1.25, (2, 2)).astype(np.float32)
    light = cv2.resize(corners, (side, side))
    return np.minimum(rgb * light[..., None], 255).astype(np.uint8)


def embossed(rgb: Pixels, pattern: Pixels, share: float) -> Pixels:
    """Brightness of `pattern` worked into a surface; both (side, side, 3), `share` 0..1."""
    grey = cv2.cvtColor(pattern, cv2.COLOR_RGB2GRAY).astype(np.float32)
    light = 1 + share * (grey / max(float(grey.mean()), 8.0) - 1)
    return np.clip(rgb * light[..., None], 0, 255).astype(np.uint8)


def _through_tables(rgb: Pixels, tables: npt.NDArray[np.float64]) -> Pixels:
    """Each channel through its own column of (256, 3)."""
    lookup = np.clip(tables, 0, 255).astype(np.uint8)
    return as_pixels(cv2.LUT(rgb, lookup[None]))
