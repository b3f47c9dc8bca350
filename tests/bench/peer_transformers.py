"""transformers' Sam2Model with our weights: the peer that most Python users have.

It decodes the maps that it is given, so that the encoder is the same for all sides. Its image processor is not
used; pictures are prepared in the same way as ours.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.config import VARIANTS
from model.network.preprocessing import IMAGE_DEVIATION, IMAGE_MEAN
from model.types import Pixels, Prompt
from tests.bench import torchvision_operators  # noqa: F401  # before transformers
from tests.bench.sides import Decoded, Maps, coco_rles, square_boxes, square_points
from tests.bench.weights import VARIANT, transformers_state

from transformers import (  # isort: skip
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)


def transformers_config(variant: str) -> Sam2Config:
    """Return the configuration of transformers for one of our variants."""
    trunk, side = VARIANTS[variant].trunk, VARIANTS[variant].image_size
    backbone = Sam2HieraDetConfig(
        image_size=[side, side],
        hidden_size=trunk.embed_dim,
        num_attention_heads=trunk.num_heads,
        blocks_per_stage=list(trunk.stages),
        embed_dim_per_stage=list(trunk.stage_dims),
        num_attention_heads_per_stage=[trunk.num_heads * 2**i for i in range(len(trunk.stages))],
        window_size_per_stage=list(trunk.window_sizes),
        global_attention_blocks=list(trunk.global_attention_blocks),
        window_positional_embedding_background_size=list(trunk.position_embedding_size),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=list(reversed(trunk.stage_dims)),
        backbone_feature_sizes=[[side // stride] * 2 for stride in (4, 8, 16)],
    )
    return Sam2Config(vision_config=vision, prompt_encoder_config=Sam2PromptEncoderConfig(image_size=side))


def prepared(pictures: Tensor, *, side: int) -> Tensor:
    """Return pictures (b, 3, h, w), uint8, as the model sees them: (b, 3, side, side), as we prepare them."""
    x = F.interpolate(
        pictures.float() / 255, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    mean, deviation = (torch.tensor(v, device=x.device)[:, None, None] for v in (IMAGE_MEAN, IMAGE_DEVIATION))
    return (x - mean) / deviation


class Transformers:
    """Implements Side. Holds the maps of every picture. A `dtype` other than float32 is only for `encode`."""

    sorts_by_iou = False

    def __init__(
        self,
        state: Mapping[str, Tensor],
        pictures: Sequence[Pixels],
        *,
        name: str,
        dtype: torch.dtype,
        variant: str = VARIANT,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.device = device
        self._side = VARIANTS[variant].image_size
        with torch.device("meta"):
            model = Sam2Model(transformers_config(variant))
        converted = {key: tensor.clone() for key, tensor in transformers_state(state).items()}
        model.load_state_dict(converted, strict=True, assign=True)
        self.model = model.to(device, dtype).eval().requires_grad_(False)
        self._pictures = pictures
        self._maps: list[list[Tensor]] = []

    def take(self, maps: Sequence[Maps]) -> None:
        """Store the embeddings of the pictures, in order."""
        names = ("high_res_feats_0", "high_res_feats_1", "image_embed")
        self._maps = [[torch.from_numpy(m[name]).to(self.device, self.dtype) for name in names] for m in maps]

    @torch.inference_mode()
    def encode(self, picture: Pixels) -> list[Tensor]:
        """Encode a picture to maps: finest first, image_embed last."""
        x = prepared(torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None], side=self._side)
        return self.model.get_image_embeddings(x.to(self.dtype))

    @torch.inference_mode()
    def decode(self, picture: int, prompts: Sequence[Prompt]) -> list[Decoded]:
        """See Side."""
        logits, iou = self._forward(picture, prompts)
        pairs = zip(logits.float().cpu().numpy(), iou.float().cpu().numpy(), strict=True)
        return [Decoded(*pair) for pair in pairs]

    @torch.inference_mode()
    def answer(self, picture: int, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side."""
        height, width = self._pictures[picture].shape[:2]
        logits, _ = self._forward(picture, prompts)
        return [coco_rles(masks, height=height, width=width) for masks in logits]

    def crowd(self, prompts: Sequence[Prompt]) -> list[list[str]]:
        """See Side. One by one."""
        return [self.answer(i, [prompt])[0] for i, prompt in enumerate(prompts)]

    def _forward(self, picture: int, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Return logits (n, k, h, w) and IoU (n, k)."""
        points = labels = boxes = None
        if prompts[0].points:
            points = square_points(self._pictures[picture], prompts, side=self._side)[None]
            labels = torch.tensor([p.labels for p in prompts], device=self.device)[None]
        else:
            boxes = square_boxes(self._pictures[picture], prompts, side=self._side)[None]
        output = self.model(
            image_embeddings=list(self._maps[picture]),
            input_points=None if points is None else points.to(self.device, self.dtype),
            input_labels=labels,
            input_boxes=None if boxes is None else boxes.to(self.device, self.dtype),
            multimask_output=prompts[0].multimask_output,
        )
        return output.pred_masks[0], output.iou_scores[0]
