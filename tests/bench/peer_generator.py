"""transformers' pipeline `mask-generation` with our weights: the peer for every object of a picture.

The pipeline needs torchvision, which is compiled for torch with CUDA. Of its compiled part the pipeline uses the
suppression of boxes alone, and gets ours instead, which takes milliseconds of its minutes. Does not know about
time.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.everything.boxes import nms
from tests.bench import torchvision_operators  # noqa: F401  # before transformers
from tests.bench.peer_transformers import Transformers, prepared
from tests.bench.weights import VARIANT

from transformers import MaskGenerationPipeline, Sam2ImageProcessor  # isort: skip
from transformers.models.sam2 import image_processing_sam2  # isort: skip


def _suppressed(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """As torchvision.ops.batched_nms with a single class."""
    del idxs
    kept = nms(boxes.float().numpy(), scores.float().numpy(), threshold=iou_threshold)
    return torch.from_numpy(kept)


image_processing_sam2.batched_nms = _suppressed


class Processor(Sam2ImageProcessor):
    """The pipeline's processor, corrected in two points, so that both sides see the same picture and clicks.

    Its own rounds a prepared picture to whole numbers, which hardly changes a mask, but of near duplicates it makes
    others the best. And it places clicks as SAM 1 does, whose pictures keep their aspect: below a wide picture.
    """

    def _preprocess(self, images: list[Tensor], *_: object, **__: object) -> Tensor:
        side = self.size["height"]
        return torch.cat([prepared(image[None], side=side) for image in images])

    def generate_crop_boxes(self, image: Image.Image, *args: Any, **options: Any) -> tuple[Any, ...]:
        """Return boxes, points, crops and labels. Only without crops."""
        boxes, points, crops, labels = super().generate_crop_boxes(image, *args, **options)
        longest = max(image.size)
        placed = [int(self.size["height"] * length / longest + 0.5) for length in image.size]
        return boxes, points * (self.size["height"] / torch.tensor(placed)), crops, labels


class Generator:
    """The pipeline on the CPU, in float32."""

    def __init__(self, state: Mapping[str, Tensor], *, variant: str = VARIANT) -> None:
        side = Transformers(state, [], name="", dtype=torch.float32, variant=variant)
        self._pipeline = MaskGenerationPipeline(
            model=side.model, image_processor=Processor(), device=torch.device("cpu")
        )

    def masks(self, picture: Image.Image, *, points_per_side: int, **thresholds: float) -> np.ndarray:
        """Return the masks (n, height, width), the best predicted IoU first."""
        found = self._pipeline(picture, points_per_crop=points_per_side, **thresholds)["masks"]
        return np.array([np.asarray(mask) for mask in found], bool)
