"""What cameras and files do to a picture: light, colour, blur, noise, JPEG.

Does not know about masks: no pixel moves.
"""

import io

import cv2
import numpy as np
from PIL import Image

from model.training.pack import Pixels, as_pixels


def photographed(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """(side, side, 3) as another camera would have left it."""
    if rng.random() < 0.6:
        rgb = _colours(rgb, rng)
    if rng.random() < 0.7:
        rgb = _tones(rgb, rng)
    if rng.random() < 0.15:
        rgb = _blurred(rgb, rng)
    if rng.random() < 0.2:
        grain = rng.standard_normal(rgb.shape, dtype=np.float32)
        rgb = np.clip(rgb + grain * np.float32(rng.uniform(1, 12)), 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        rgb = _compressed(rgb, int(rng.integers(30, 96)))
    return rgb


def _colours(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Saturation and hue; grey at times."""
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.5)
    turn = rng.normal(0, np.radians(12))
    luma = np.tile((0.299, 0.587, 0.114), (3, 1))
    # Rodrigues' rotation about the grey axis.
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    hue = np.cos(turn) * np.eye(3) + np.sin(turn) * axis + (1 - np.cos(turn)) / 3
    matrix = luma + saturation * (np.eye(3) - luma) @ hue
    return as_pixels(cv2.transform(rgb, matrix))


def _tones(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Gamma, contrast, brightness and a cast, in one table a channel."""
    x = np.linspace(0, 1, 256)[:, None]
    gamma = np.exp(rng.normal(0, 0.25))
    contrast = rng.uniform(0.7, 1.3)
    cast = rng.uniform(0.88, 1.12, 3) if rng.random() < 0.5 else 1.0
    y = ((x**gamma - 0.5) * contrast + 0.5 + rng.uniform(-0.12, 0.12)) * cast * np.ones(3)
    lookup = np.clip(y * 255 + 0.5, 0, 255).astype(np.uint8)
    return as_pixels(cv2.LUT(rgb, lookup[None]))


def _blurred(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Out of focus, or of fewer pixels than it shows."""
    side = rgb.shape[0]
    if rng.random() < 0.5:
        return as_pixels(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.5) * side / 256))
    fewer = round(side * rng.uniform(0.4, 0.9))
    return as_pixels(cv2.resize(cv2.resize(rgb, (fewer, fewer), interpolation=cv2.INTER_AREA), (side, side)))


def _compressed(rgb: Pixels, quality: int) -> Pixels:
    """Through JPEG and back."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.array(image)
