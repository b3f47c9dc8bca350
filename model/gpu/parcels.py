"""What a batch of prompts says, in one array of numbers for one upload, and the shapes that such arrays have.

Does not know about streams and graphs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model.network.point_tokens import point_tokens
from model.network.prompt_encoder import PADDING
from model.types import Embedding, Prompt

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""What a batch is filled up to."""

MOST_TOKENS = 9
"""Prompts of more point tokens than these, which are eight clicks or a box and six, are filled up to the next of
few counts, and run without a graph."""

OUTPUT_TOKENS = 6
"""The decoder's own, before those of the points: object score, IoU, and four masks."""

ABSENT = -2
"""Label of a token that only fills a prompt up, and that nothing may attend to."""


class Shape(NamedTuple):
    """What decides which kernels run. There are 7 batch sizes, and up to 256 clicks 10 + 6 counts of tokens."""

    prompts: int
    tokens: int
    has_masks: bool

    def __str__(self) -> str:
        """For the log."""
        masks = ", masks" if self.has_masks else ""
        return f"decoder for {self.prompts} x {self.tokens} tokens{masks}"

    @property
    def is_long(self) -> bool:
        """Whether prompts are filled up with absent tokens."""
        return self.tokens > MOST_TOKENS

    @property
    def width(self) -> int:
        """Numbers of one prompt."""
        return 3 * self.tokens + 3


class Points(NamedTuple):
    """An unpacked parcel, as GpuDecoder.network takes it."""

    slots: Tensor
    coords: Tensor
    labels: Tensor
    mask_logits: Tensor | None
    has_mask: Tensor
    is_present: Tensor | None


def shape_of(prompts: int, *, tokens: int, has_masks: bool) -> Shape:
    """The shape that so many prompts of so many point tokens are filled up to.

    Up to MOST_TOKENS the count of tokens is exact, as in Meta's code. Beyond, counts double: with the decoder's own
    tokens 16, 32, 64 and so on, which attention kernels take without padding their masks. Absent tokens are kept
    out of every attention, so they change no number but by rounding.
    """
    size = next(size for size in BATCH_SIZES if size >= prompts)
    if tokens > MOST_TOKENS:
        tokens = (1 << (tokens + OUTPUT_TOKENS - 1).bit_length()) - OUTPUT_TOKENS
    return Shape(size, tokens, has_masks)


def packed(
    jobs: Sequence[tuple[Embedding, Prompt]], slots: Sequence[int], shape: Shape, *, image_size: int
) -> npt.NDArray[np.float32]:
    """All that a batch says but its masks, in one array: small numbers, exact in float32.

    For each prompt: x and y of all tokens, their labels, slot, multimask_output, whether it has a mask. The
    rows that fill the batch up repeat the first prompt, without its mask; nobody looks at what comes of them.
    """
    coords, labels = point_tokens(jobs, image_size=image_size)
    count, tokens, _ = coords.shape
    parcel = np.zeros((shape.prompts, shape.width), np.float32)
    parcel[:count, : 2 * tokens] = coords.reshape(count, -1)
    parcel[:count, 2 * shape.tokens : -3] = ABSENT
    parcel[:count, 2 * shape.tokens : 2 * shape.tokens + tokens] = labels
    parcel[:count, -3] = slots
    parcel[:count, -2] = [prompt.multimask_output for _, prompt in jobs]
    parcel[:count, -1] = [prompt.mask_logits is not None for _, prompt in jobs]
    parcel[count:] = parcel[0]
    parcel[count:, -1] = 0
    return parcel


def at_random(shape: Shape, slots: Sequence[int], *, image_size: int) -> npt.NDArray[np.float32]:
    """Clicks anywhere on the embeddings in `slots`, packed."""
    random = np.random.default_rng(shape.prompts)
    parcel = np.empty((shape.prompts, shape.width), np.float32)
    parcel[:, : 2 * shape.tokens] = random.uniform(0, image_size, (shape.prompts, 2 * shape.tokens))
    parcel[:, 2 * shape.tokens : -3] = random.integers(0, 2, (shape.prompts, shape.tokens))
    parcel[:, 3 * shape.tokens - 1 : -3] = PADDING
    parcel[:, -3] = np.resize(slots, shape.prompts)
    parcel[:, -2:] = random.integers(0, 2, (shape.prompts, 2))
    return parcel


def unpacked(parcel: Tensor, shape: Shape, mask_logits: Tensor) -> Points:
    """What the network takes, out of what `packed` put in. `mask_logits` is the buffer of all masks."""
    labels = parcel[:, 2 * shape.tokens : -3].long()
    return Points(
        slots=parcel[:, -3].long(),
        coords=parcel[:, : 2 * shape.tokens].reshape(shape.prompts, shape.tokens, 2),
        labels=labels.clamp(min=PADDING) if shape.is_long else labels,
        mask_logits=mask_logits[: shape.prompts] if shape.has_masks else None,
        has_mask=parcel[:, -1] > 0,
        is_present=labels != ABSENT if shape.is_long else None,
    )


def multimask(parcel: Tensor) -> Tensor:
    """Whether each prompt asks for several masks (b,)."""
    return parcel[:, -2] > 0
