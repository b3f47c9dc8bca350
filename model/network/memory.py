"""SAM 2's video half wired together: what turns a picture model into one that remembers.

Stateless, and separate from sam2.py: it is loaded when it is first needed. Which frames are remembered is
model/video's business.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import Sam2Config
from model.network.layers import Mlp
from model.network.linear import Linear
from model.network.memory_attention import MemoryAttention, Remembered
from model.network.memory_encoder import MemoryEncoder
from model.network.positions import sine_line, sine_map

MEMORY_DTYPE = torch.bfloat16
"""What memories are kept in, also where all else is float32, as in Meta's code."""

_SCALE, _SHIFT = 20.0, -10.0
"""A mask of 0..1 enters the memory encoder as -10..10."""


class VideoMemory(nn.Module):
    """The parameters of a released checkpoint that Sam2 lacks, under their released names."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        video, dim = config.video, config.embed_dim
        if video is None:
            raise ValueError("This model has no video half.")
        self.config, self.video = config, video
        self.memory_encoder = MemoryEncoder(dim, video)
        self.memory_attention = MemoryAttention(dim, video)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = Mlp(dim, dim, dim, depth=3, activation=F.relu)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(video.num_memories, 1, 1, video.memory_dim))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))
        """In every released file and never used: a frame without memories skips memory attention."""
        if video.says_absence:
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, video.memory_dim))
        if video.says_distance:
            self.obj_ptr_tpos_proj = Linear(dim, video.memory_dim)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.no_obj_ptr.dtype

    def remember(self, features: Tensor, masks: Tensor, present: Tensor) -> Tensor:
        """Memories (b, h * w, m), in MEMORY_DTYPE, of b objects on one frame.

        `features` (1, c, h, w) are without the "no memory" embedding, `masks` (b, 1, 16 h, 16 w) of 0..1,
        `present` (b,).
        """
        return self.as_kept(self.memory_encoder(features, self.as_encoded(masks)), present)

    def as_encoded(self, masks: Tensor) -> Tensor:
        """Masks of 0..1 as the memory encoder takes them."""
        return (masks * _SCALE + _SHIFT).to(self.dtype)

    def as_kept(self, memories: Tensor, present: Tensor) -> Tensor:
        """Memories (b, m, h, w) of the memory encoder to what is kept of them, (b, h * w, m)."""
        cells = memories.flatten(2).transpose(1, 2)
        if self.video.says_absence:
            cells = cells + ~present[:, None, None] * self.no_obj_embed_spatial
        return cells.to(MEMORY_DTYPE)

    def point_to(self, mask_tokens: Tensor, present: Tensor) -> Tensor:
        """Mask tokens (b, c) of the decoder to object pointers (b, c); absent objects share one."""
        return torch.where(present[:, None], self.obj_ptr_proj(mask_tokens.to(self.dtype)), self.no_obj_ptr)

    def gather(
        self,
        memories: Sequence[tuple[Tensor, int]],
        pointers: Sequence[tuple[Tensor, float]],
    ) -> Remembered:
        """What an object's attention looks at: memories (h * w, m) with their rows of the temporal encoding, and
        pointers (c,) with their distances, 1 being that of the last pointer to be seen.
        """
        spatial = [memory.to(self.dtype) for memory, _ in memories]
        where = self.memory_positions()
        when = [where + self.maskmem_tpos_enc[row, 0] for _, row in memories]
        tokens = [pointer.view(-1, self.video.memory_dim) for pointer, _ in pointers]
        num_pointers = sum(map(len, tokens))
        if pointers:
            distances = self.pointer_positions([distance for _, distance in pointers])
            when.append(distances.repeat_interleave(len(tokens[0]), dim=0))
        return Remembered(torch.cat([*spatial, *tokens]), torch.cat(when), num_pointers)

    def memory_positions(self) -> Tensor:
        """(h * w, m): the same for every frame and object."""
        side, device = self.config.embedding_size, self.no_obj_ptr.device
        return sine_map(side, self.video.memory_dim, device=device).to(self.dtype)

    def pointer_positions(self, distances: Sequence[float]) -> Tensor:
        """(n, m)."""
        if not self.video.says_distance:
            return self.no_obj_ptr.new_zeros(len(distances), self.video.memory_dim)
        places = torch.tensor(distances, dtype=torch.float32, device=self.no_obj_ptr.device)
        sines = sine_line(places, self.config.embed_dim).to(self.dtype)
        encoded: Tensor = self.obj_ptr_tpos_proj(sines)
        return encoded

    def condition(self, features: Tensor, remembered: Sequence[Remembered]) -> Tensor:
        """A frame's features (h * w, c) to those that each of b objects is decoded from, (b, c, h, w)."""
        side = self.config.embedding_size
        cells: Tensor = self.memory_attention(features, remembered, side=side)
        return cells.transpose(1, 2).unflatten(2, (side, side))
