"""A model on a GPU: an arena of embeddings, encodes on one stream, decodes on another that goes first.

Knows nothing of which GPU it is.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.gpu.arena import Arena
from model.gpu.decoder import GpuDecoder
from model.gpu.decoding import Decoding
from model.gpu.device import GpuDevice
from model.gpu.encoding import Encoding
from model.gpu.options import GpuOptions
from model.network.sam2 import Sam2
from model.types import Embedding, Pixels, Prediction, Prompt

log = logging.getLogger(__name__)


class GpuEngine:
    """Encodes and decodes for Sam2Runner. For one thread."""

    def __init__(
        self, model: Sam2, gpu: GpuDevice, options: GpuOptions, *, preprocess: Callable[[Tensor], Tensor]
    ) -> None:
        """Takes all the memory that embeddings will ever have. Raises ValueError where there is not so much.

        `preprocess` makes uint8 pixels (h, w, 3), on the GPU or not, into the encoder's input (3, s, s), float32.
        """
        slots = num_slots(model, options)
        dtype = next(model.parameters()).dtype
        try:
            self.arena = Arena(model.config, slots=slots, device=gpu.device, dtype=dtype)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"SAM2_DEVICE_CACHE_MIB={options.cache_mib} asks for room for {slots} embeddings of "
                f"{slot_bytes(model) / 2**20:.0f} MiB in the memory of the GPU, which has not so much free: {error}"
            ) from error
        self._decoding = Decoding(
            GpuDecoder(model, self.arena), self.arena, gpu, config=model.config, options=options
        )
        self._encoding = Encoding(model, self.arena, gpu, options, preprocess=preprocess)
        # Weights and constants were made on the stream that is current here, and are read on two others.
        gpu.settle()
        log.info(
            "Room for %d embeddings, %.0f MiB of the GPU's memory", slots, slots * slot_bytes(model) / 2**20
        )

    @property
    def most_prompts(self) -> int:
        """Prompts that `decode` takes at once."""
        return self._decoding.most_prompts

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:
        """Embed pictures of any sizes; `between` is called meanwhile, and may decode. Raises NoFreeSlot."""
        return self._encoding.encode(images, between=between)

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Predict masks for at most `most_prompts` prompts of one number of point tokens. Raises NoFreeSlot."""
        return self._decoding.decode(jobs)

    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding that lives elsewhere, brought to the arena. Raises NoFreeSlot."""
        return self._decoding.adopt(embedding)

    def warm_up(self) -> None:
        """Prepare what would be slow the first time, and say how long it took."""
        self._decoding.warm_up(self._encoding.warm_up())


def slot_bytes(model: Sam2) -> int:
    """Bytes of one embedding: 8 MiB in half precision at 1024 pixels."""
    cells, dim = model.config.embedding_size**2, model.config.embed_dim
    # One value per channel of the embedding; for stride 8 as many again (a quarter of the channels, four pixels);
    # for stride 4 twice as many.
    return 4 * cells * dim * next(model.parameters()).element_size()


def num_slots(model: Sam2, options: GpuOptions) -> int:
    """Embeddings that the cache may hold, at least one, and room for those in the making.

    Two batches of pictures can be under way: one being encoded, one encoded and not yet in the cache. A few more
    are evicted already, and still waited for by prompts in a queue.
    """
    return max(1, options.cache_mib * 2**20 // slot_bytes(model)) + 2 * options.batch_images + WAITED_FOR


WAITED_FOR = 12
"""Embeddings that are evicted while prompts for them wait, or on their way to host memory and to the disk."""
