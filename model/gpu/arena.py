"""Embeddings in device memory that is taken once and divided into slots, one for each picture.

Does not know about streams: a slot that nobody holds may be written, and when that is safe is encoding.py's affair.
"""

import weakref
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import NoFreeSlot
from model.network.config import Sam2Config
from model.types import Embedding, to_subpixels


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SlotEmbedding(Embedding):
    """An embedding whose tensors are one slot of an arena, for as long as this object lives and no longer."""

    slot: int


class Arena:
    """`slots` embeddings of one model. The memory is taken here and never again."""

    def __init__(self, config: Sam2Config, *, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        cells, dim = config.embedding_size**2, config.embed_dim
        # Zeros, not whatever was there: NaN never equals itself, and captured graphs are compared with eager ones.
        self.image_rows = torch.zeros(slots, cells, dim, device=device, dtype=dtype)
        self.feat_s1_rows = torch.zeros(slots, cells, 4, dim // 4, device=device, dtype=dtype)
        self.feat_s0_rows = torch.zeros(slots, cells, 4, 4, dim // 8, device=device, dtype=dtype)
        self._side = config.embedding_size
        # First out, last in: what was written last rests longest. A deque's operations are atomic, and an
        # embedding may be dropped on any thread.
        self._free = deque(range(slots))

    def __len__(self) -> int:
        """Slots, free or not."""
        return len(self.image_rows)

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    def claim(self, count: int) -> list[int]:
        """Take slots off the free list. Raises NoFreeSlot, having taken none, where there are too few."""
        slots: list[int] = []
        try:
            while len(slots) < count:
                slots.append(self._free.popleft())
        except IndexError:
            self.release(slots)
            raise NoFreeSlot(
                f"The {len(self)} places for embeddings in device memory are held: {count} wanted, "
                f"{len(slots)} free."
            ) from None
        return slots

    def release(self, slots: list[int]) -> None:
        """Give back slots that were claimed and became no embedding."""
        self._free.extend(slots)

    def embedding(self, slot: int, *, height: int, width: int) -> SlotEmbedding:
        """What a claimed slot holds, of a picture `height` x `width`. The slot is free again when it is dropped."""
        embedding = SlotEmbedding(
            image_rows=self.image_rows[slot],
            feat_s1_rows=self.feat_s1_rows[slot],
            feat_s0_rows=self.feat_s0_rows[slot],
            first_projections=(),
            height=height,
            width=width,
            slot=slot,
        )
        weakref.finalize(embedding, self._free.append, slot).atexit = False
        return embedding

    def slot_of(self, embedding: Embedding) -> int | None:
        """The slot of an embedding of this arena, None for any other."""
        if not isinstance(embedding, SlotEmbedding):
            return None
        is_here = embedding.image_rows.data_ptr() == self.image_rows[embedding.slot].data_ptr()
        return embedding.slot if is_here else None

    def adopt(self, embedding: Embedding) -> SlotEmbedding:
        """A copy, for work that follows on this stream, of an embedding that lives elsewhere. Raises NoFreeSlot."""
        (slot,) = self.claim(1)
        self.image_rows[slot].copy_(embedding.image_rows)
        self.feat_s1_rows[slot].copy_(embedding.feat_s1_rows)
        self.feat_s0_rows[slot].copy_(embedding.feat_s0_rows)
        return self.embedding(slot, height=embedding.height, width=embedding.width)

    def write(self, slots: Tensor, image_embed: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> None:
        """Keep the encoder's maps (b, c, h, w), (b, c / 8, 4 h, 4 w) and (b, c / 4, 2 h, 2 w) in `slots` (b,).

        Nothing here asks the device for a value, so that it can be captured.
        """
        self.image_rows.index_copy_(0, slots, image_embed.flatten(2).transpose(1, 2))
        for rows, maps in ((self.feat_s1_rows, feat_s1), (self.feat_s0_rows, feat_s0)):
            rows.index_copy_(0, slots, torch.stack([to_subpixels(one, self._side) for one in maps]))
