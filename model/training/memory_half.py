"""The built-in model with a video half that learns, beside a picture half that stays as it is.

Pictures give the masks that they gave before: of the picture half only the head of the object score learns,
which no picture asks for. Does not know about clips or losses.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoints.halves import load_image_half
from model.network.config import BUILTIN, BUILTIN_IMAGE_SIZE, VARIANTS, Sam2Config, VideoConfig
from model.network.layers import Mlp
from model.network.memory import VideoMemory
from model.network.memory_attention import MemoryAttentionLayer, RotaryAttention
from model.network.sam2 import Sam2

BUILTIN_VIDEO = VideoConfig(
    says_absence=True,
    says_distance=True,
    memory_dim=64,
    num_memories=4,
    num_pointers=8,
    attention_depth=2,
    attention_mlp_dim=512,
    fuser_depth=1,
)
"""Half of the released models' layers, narrower, and three frames behind the prompted one instead of six: a step
costs the built-in model about as much as a click."""

_NEARNESS = 2.0
"""What queries and keys of cross attention have in common at first: turned by their places, they meet where these
are alike. A cell then begins by looking at what was remembered about itself."""

_SURENESS = 0.05
"""Of the object score at first: the head that pictures left says 20 for everything."""


def video_config(side: int = BUILTIN_IMAGE_SIZE) -> Sam2Config:
    """The built-in model with a video half, at a size of its own."""
    return replace(VARIANTS[BUILTIN], image_size=side, video=BUILTIN_VIDEO)


class VideoHalf(nn.Module):
    """What learns: its parameters are those of a video half, and of the object score's head."""

    def __init__(self, config: Sam2Config, head: Mlp, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.memory = VideoMemory(config)
            self.object_head = head
            for name, parameter in self.memory.named_parameters():
                if name.startswith(("maskmem", "no_obj")):
                    nn.init.trunc_normal_(parameter, std=0.02)
            for layer in self.memory.memory_attention.layers.children():
                if isinstance(layer, MemoryAttentionLayer):
                    nn.init.zeros_(layer.self_attn.out_proj.weight)
                    nn.init.zeros_(layer.linear2.weight)
                    _look_at_the_same_place(layer.cross_attn_image)

    @torch.no_grad()
    def begin_at(self, features: Tensor, no_memory: Tensor) -> None:
        """Have the last norm give back what goes into it, features (n, c), as far as a norm can, and have the head
        doubt.

        By least squares for each channel, so that the decoder finds at first what it was trained on. `no_memory`
        (c,) is what it was trained to find added.
        """
        norm = self.memory.memory_attention.norm
        normal = torch.nn.functional.layer_norm(features, features.shape[1:])
        spread = normal - normal.mean(0)
        norm.weight.copy_((spread * features).mean(0) / spread.square().mean(0).clamp(min=1e-6))
        norm.bias.copy_(features.mean(0) - norm.weight * normal.mean(0) + no_memory)
        *_, last = self.object_head.layers.children()
        for parameter in last.parameters():
            parameter.mul_(_SURENESS)


class LearningModel:
    """The picture half, in bfloat16 but for its encoder, and the half that learns, in float32."""

    def __init__(self, checkpoint: Path, *, side: int, seed: int) -> None:
        """Raises CheckpointError for a file that does not fit."""
        self.config = video_config(side)
        self.pictures, self.fingerprint = load_image_half(
            replace(self.config, video=None),
            checkpoint,
            variant=BUILTIN,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
        )
        self.pictures.requires_grad_(requires_grad=False)
        head = self.pictures.sam_mask_decoder.pred_obj_score_head.float().requires_grad_(requires_grad=True)
        self.video = VideoHalf(self.config, head, seed=seed)

    @property
    def no_memory(self) -> Tensor:
        """(c,): what stored embeddings have added."""
        return self.pictures.no_mem_embed[0, 0].float()


def with_video(pictures: Sam2, weights: Mapping[str, Tensor], config: Sam2Config) -> VideoMemory:
    """The video half of a run's weights, in the precision of `pictures`, whose object score becomes the run's."""
    dtype = pictures.no_mem_embed.dtype
    own = {name: x.to(dtype, copy=True) for name, x in weights.items()}
    head = "object_head."
    pictures.sam_mask_decoder.pred_obj_score_head.load_state_dict(
        {name.removeprefix(head): x for name, x in own.items() if name.startswith(head)}, assign=True
    )
    with torch.device("meta"):
        memory = VideoMemory(config)
    memory.load_state_dict(
        {name.removeprefix("memory."): x for name, x in own.items() if name.startswith("memory.")},
        assign=True,
    )
    return memory.eval().requires_grad_(requires_grad=False)


def _look_at_the_same_place(attention: RotaryAttention) -> None:
    for projection in (attention.q_proj, attention.k_proj):
        nn.init.constant_(projection.bias, _NEARNESS)
