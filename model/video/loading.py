"""The video half of a model, from the file that its image half came from, when it is first needed.

Does not know what it is needed for.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoints.parameters import (
    fingerprint_of,
    load_parameters,
    shapes_of,
    untrained_parameters,
)
from model.checkpoints.variants import Shape
from model.errors import CheckpointError
from model.network.config import Sam2Config
from model.network.memory import VideoMemory
from model.network.sam2 import Sam2


def video_shapes(config: Sam2Config) -> dict[str, Shape]:
    """Names and shapes of the parameters that a released file has for videos; none where there is no such half."""
    if config.video is None:
        return {}
    with torch.device("meta"):
        return shapes_of(VideoMemory(config))


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Enough to find the video half again. It weighs nothing until `load`."""

    config: Sam2Config
    variant: str
    checkpoint: Path | None
    """None: random weights."""
    image_fingerprint: str
    """Of the image half, as it was loaded: both halves must be of one file."""

    def load(self, *, device: torch.device, dtype: torch.dtype) -> VideoMemory:
        """Build the video half on the device, in the precision of the image half's decoder.

        Raises CheckpointError where the model has none, the file has none, or is not the file that it was.
        """
        if self.config.video is None:
            raise CheckpointError(
                f"{self.variant} knows pictures only. To track objects, set SAM2_MODEL to a released model."
            )
        with torch.device("meta"):
            memory, image_half = VideoMemory(self.config), Sam2(self.config)
        if self.checkpoint is None:
            untrained_parameters(memory, device=device, dtype=dtype)
        else:
            images = shapes_of(image_half)
            if fingerprint_of(self.checkpoint, images) != self.image_fingerprint:
                raise CheckpointError(
                    f"{self.checkpoint} has changed since the image half was loaded: start the server again."
                )
            load_parameters(
                memory, self.checkpoint, variant=self.variant, device=device, dtype=dtype, beside=images
            )
        return memory.eval().requires_grad_(requires_grad=False)
