"""How many embeddings fit into the memory of a GPU.

Does not know how the memory is taken.
"""

from dataclasses import dataclass

from model.gpu.options import GpuOptions
from model.network.sam2 import Sam2

WAITED_FOR = 12
"""Embeddings that are evicted while prompts for them wait, or on their way to host memory and to the disk."""

PICTURE_BYTES = 7 * 100 * 10**6
"""A picture of 100 megapixels while it is shrunk: a byte for each of three channels, and one channel in float32."""

MARGIN_BYTES = 256 * 2**20
"""For kernels and workspaces that libraries load when they are first used, and for the video half: 14 MiB."""

TRACK_SHARE = 4
"""Tracks have one part of so many at most of what is left, so that a small GPU still keeps pictures."""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of a GPU when the model is loaded, and what will be taken of it beside the embeddings."""

    free_bytes: int
    encoder_bytes: int
    """Of the largest batch of pictures. The encoder's graphs hold so much for good."""
    decoder_bytes: int
    """Of the largest batch of prompts. The decoder's graphs hold so much for good, when that shape has been met."""
    track_bytes: int = 0
    """What tracks may remember."""

    @property
    def reserve_bytes(self) -> int:
        """What comes and goes: a shape that is first met runs once as it is, pictures are shrunk, and objects of a
        track are followed (see model/video/network.py).
        """
        return max(PICTURE_BYTES, self.decoder_bytes, self.encoder_bytes) + MARGIN_BYTES

    @property
    def left_bytes(self) -> int:
        """For embeddings and tracks; negative where not even the rest fits."""
        return self.free_bytes - self.encoder_bytes - self.decoder_bytes - self.reserve_bytes

    @property
    def tracks_get(self) -> int:
        """Bytes that are left to tracks."""
        return max(0, min(self.track_bytes, self.left_bytes // TRACK_SHARE))

    def num_slots(self, model: Sam2) -> int:
        """Embeddings that fit; negative where not even the rest fits."""
        return (self.left_bytes - self.tracks_get) // slot_bytes(model)

    def __str__(self) -> str:
        """For the log and for errors."""
        graphs = self.encoder_bytes + self.decoder_bytes
        tracks = f", {self.tracks_get / 2**20:.0f} for tracks" if self.track_bytes else ""
        return (
            f"{self.free_bytes / 2**20:.0f} MiB were free, {graphs / 2**20:.0f} are for graphs{tracks}, "
            f"{self.reserve_bytes / 2**20:.0f} in reserve"
        )


def slot_bytes(model: Sam2) -> int:
    """Bytes of one embedding: 8 MiB in half precision at 1024 pixels."""
    cells, dim = model.config.embedding_size**2, model.config.embed_dim
    # One value per channel of the embedding; for stride 8 as many again (a quarter of the channels, four pixels);
    # for stride 4 twice as many.
    return 4 * cells * dim * model.no_mem_embed.element_size()


def num_slots_beside(options: GpuOptions) -> int:
    """Slots for embeddings that nobody keeps yet, or any longer.

    Two batches of pictures can be under way: one being encoded, one encoded and not yet in the cache. A few more
    are evicted already, and still waited for by prompts in a queue.
    """
    return 2 * options.batch_images + WAITED_FOR
