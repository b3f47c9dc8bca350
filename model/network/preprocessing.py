"""Pixels of any size to the encoder's input: resized to a square, then ImageNet's mean and deviation.

The aspect ratio is not kept, as in Meta's predictor.
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
    """Shrinks pictures where they are, and leaves them on `device`."""

    def __init__(self, *, side: int, device: torch.device) -> None:
        self._side, self._device = side, device
        self._mean = torch.tensor(IMAGE_MEAN, device=device)[:, None, None]
        self._deviation = torch.tensor(IMAGE_DEVIATION, device=device)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        """(height, width, 3) uint8 to (3, s, s) float32, normalised."""
        return self._normalised(self._resized(image.permute(2, 0, 1)))

    def by_channel(self, image: Tensor) -> Tensor:
        """The same, bit for bit, one channel after the other: slower on a CPU, and a third of the memory.

        On a GPU the antialiasing kernel makes its input contiguous, which all channels of a picture are not: the
        whole of 100 megapixels takes 2.7 GB, one channel of it 0.7 GB.
        """
        return self._normalised(torch.cat([self._resized(channel[None]) for channel in image.unbind(2)]))

    def _resized(self, channels: Tensor) -> Tensor:
        """(c, height, width) uint8 to (c, s, s), 0..1."""
        x = channels[None].float().div_(255)
        size = (self._side, self._side)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)[0]

    def _normalised(self, x: Tensor) -> Tensor:
        return (x.to(self._device) - self._mean) / self._deviation
