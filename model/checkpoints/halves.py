"""The two halves of a model from one file: that for pictures at once, that for videos when it is first needed.

Does not know what they are needed for. parameters.py reads and checks the file.
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


def load_image_half(
    config: Sam2Config, checkpoint: Path | None, *, variant: str, device: torch.device, dtype: torch.dtype
) -> tuple[Sam2, str]:
    """Build the image half on its device, and its fingerprint; with random weights where `checkpoint` is None.

    Raises CheckpointError for a file that does not fit.
    """
    with torch.device("meta"):
        model = Sam2(config)
    is_mixed = config.exact_encoder and dtype != torch.float32
    dtype_read = torch.float32 if is_mixed else dtype
    if checkpoint is None:
        fingerprint = untrained_parameters(model, device=device, dtype=dtype_read)
    else:
        fingerprint = load_parameters(
            model, checkpoint, variant=variant, device=device, dtype=dtype_read, beside=video_shapes(config)
        )
    if is_mixed:
        for name, parameter in model.named_parameters():
            if not name.startswith("image_encoder."):
                parameter.data = parameter.data.to(dtype)
    return model, fingerprint


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

    def load_decoder(self) -> Sam2:
        """The image half in float32, in host memory, without its encoder. Call `load` first: it checks the file.

        Raises CheckpointError where the file cannot be read any more.
        """
        with torch.device("meta"):
            model, memory = Sam2(self.config), VideoMemory(self.config)
        shapes = shapes_of(model)
        del model.image_encoder
        host = torch.device("cpu")
        if self.checkpoint is None:
            untrained_parameters(model, device=host, dtype=torch.float32)
        else:
            beside = shapes_of(memory) | {
                name: shapes[name] for name in shapes.keys() - shapes_of(model).keys()
            }
            load_parameters(
                model,
                self.checkpoint,
                variant=self.variant,
                device=host,
                dtype=torch.float32,
                beside=beside,
            )
        return model.eval().requires_grad_(requires_grad=False)
