"""Pixels to the encoder's input: one size, without regard to the aspect ratio, and ImageNet's statistics.

Knows nothing of files; a picture comes as a person sees it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_DEVIATION = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per channel, of values in 0..1."""

PREPROCESSING = "square-bilinear-antialias-imagenet-1"
"""Names the way from pixels to the encoder's input; a change makes every cached embedding another one."""


class Preprocessing:
    """For one size and one device."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._side = side
        self._mean = torch.tensor(IMAGE_MEAN, device=device)[:, None, None]
        self._deviation = torch.tensor(IMAGE_DEVIATION, device=device)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        """(height, width, 3) uint8 to (3, s, s) float32, normalised.

        Shrinks the picture where it is; the result is on the device.
        """
        x = image.permute(2, 0, 1)[None].float().div_(255)
        side = self._side
        x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        return (x[0].to(self._mean.device) - self._mean) / self._deviation
