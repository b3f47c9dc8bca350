"""VideoMemory for CPUs: what a track asks of it, faster, and with pauses. Does not know about frames and prompts.

Memories are made one object at a time, because a batch takes as long, and holds 150 MiB for each.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from model.cpu.memory_attention import CpuMemoryAttention
from model.network.memory import VideoMemory
from model.network.memory_attention import Remembered


class CpuVideoMemory:
    """Computes what VideoMemory does, with its weights."""

    def __init__(self, memory: VideoMemory) -> None:
        self._memory = memory
        self._attention = CpuMemoryAttention(memory)
        self._side = memory.config.embedding_size

    def condition(
        self, features: Tensor, remembered: Sequence[Remembered], between: Callable[[], None]
    ) -> Tensor:
        """See VideoMemory. `between` is called every few milliseconds, and may decode."""
        cells = self._attention(features, remembered, between)
        return cells.transpose(1, 2).unflatten(2, (self._side, self._side))

    def remember(
        self, features: Tensor, masks: Iterator[Tensor], present: Tensor, between: Callable[[], None]
    ) -> list[Tensor]:
        """Memories (h * w, m) of objects on one frame, whose masks (16 h, 16 w) of 0..1 are drawn one by one.

        `features` and `present` are those of VideoMemory. `between` is called after each layer.
        """
        encoder = self._memory.memory_encoder
        projected = encoder.pix_feat_proj(features)
        memories = []
        for mask, is_present in zip(masks, present, strict=True):
            x = self._memory.as_encoded(mask)[None, None]
            for layer in encoder.mask_downsampler.encoder:
                x = layer(x)
                between()
            x = projected + x
            for block in encoder.fuser.layers:
                x = block(x)
                between()
            # A tensor of its own, not a view of the map.
            memories.append(self._memory.as_kept(encoder.out_proj(x), is_present[None])[0].contiguous())
        return memories
