"""A model on a GPU: an arena of embeddings, encodes on one stream, decodes on another that goes first.

Does not know which GPU it is.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from model.gpu.arena import Arena
from model.gpu.decoder import GpuDecoder
from model.gpu.decoding import Decoding
from model.gpu.device import GpuDevice, finishing
from model.gpu.encoding import Encoding
from model.gpu.faults import Faults, is_out_of_memory
from model.gpu.options import GpuOptions
from model.gpu.room import Room, num_slots_beside, slot_bytes
from model.network.sam2 import Sam2
from model.types import Embedding, Pixels, Prediction, Prompt

log = logging.getLogger(__name__)


class GpuEngine:
    """Encodes and decodes for Sam2Runner. For one thread."""

    def __init__(
        self, model: Sam2, gpu: GpuDevice, options: GpuOptions, *, preprocess: Callable[[Tensor], Tensor]
    ) -> None:
        """Takes all the memory that embeddings will ever have. Raises ValueError where there is not enough.

        `preprocess` makes uint8 pixels (h, w, 3), on the GPU or not, into the encoder's input (3, s, s), float32.
        """
        self._model, self._gpu, self._options, self._preprocess = model, gpu, options, preprocess
        with naming_the_settings(options):
            kept, reason, track_bytes = self._kept()
            self.arena, self._encoding, self._decoding = self._parts(kept + num_slots_beside(options))
        self.cache_bytes = kept * slot_bytes(model)
        """Bytes for embeddings that somebody keeps."""
        self.track_bytes = track_bytes
        """Bytes that were left for what tracks remember; None where that was not measured."""
        # Weights and constants were made on the stream that is current here, and are read on others.
        gpu.settle()
        log.info(
            "Room for %d embeddings, %.0f MiB of the GPU's memory%s",
            len(self.arena),
            len(self.arena) * slot_bytes(model) / 2**20,
            reason,
        )

    @property
    def most_prompts(self) -> int:
        """Prompts that `decode` takes at once."""
        return self._decoding.most_prompts

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:
        """Embed pictures of any sizes; `between` is called meanwhile, and may decode. Raises NoFreeSlot."""
        return self._encoding.encode(images, between=between)

    def expect(self, images: Sequence[Pixels]) -> None:
        """Upload one of the pictures that will be encoded next. For `between`; without effect elsewhere."""
        self._encoding.expect(images)

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """Predict masks for at most `most_prompts` prompts of one number of point tokens. Raises NoFreeSlot."""
        return self._decoding.decode(jobs)

    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding that lives elsewhere, brought to the arena. Raises NoFreeSlot."""
        return self._decoding.adopt(embedding)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Work of others that reads embeddings, on the stream of pictures; done when the block ends.

        A slot may be used again then as soon as its embedding is dropped. Encodes that pass follow in the stream.
        """
        with finishing(self._gpu.pictures):
            yield
            self._gpu.pictures.mark().wait()

    def warm_up(self) -> None:
        """Prepare what would be slow the first time, and say how long it took. Raises as the constructor."""
        with naming_the_settings(self._options):
            self._decoding.warm_up(self._encoding.warm_up())
        self._gpu.trim()  # of the runs before the captures nothing is used again

    def _kept(self) -> tuple[int, str, int | None]:
        """Embeddings that the cache may hold, why, for the log, and bytes for tracks, where they are measured.

        Raises ValueError where no embedding fits.
        """
        options, one, spare = self._options, slot_bytes(self._model), num_slots_beside(self._options)
        if options.cache_mib is None:
            room = self._room()
            if (kept := room.num_slots(self._model) - spare) < 1:
                raise _too_little_memory(options, str(room))
            of_tracks = room.tracks_get if self._model.config.video is not None else None
            return kept, f" (SAM2_DEVICE_CACHE_MIB=auto: {room})", of_tracks
        kept, free = max(1, options.cache_mib * 2**20 // one), self._gpu.free_bytes()
        if (kept + spare) * one > free:
            # Not left to the driver: that of Windows does not fail, but goes on in host memory, ten times slower.
            reason = (
                f"{kept + spare} embeddings of {one / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free"
            )
            raise _too_little_memory(options, reason)
        return kept, "", None

    def _parts(self, slots: int) -> tuple[Arena, Encoding, Decoding]:
        model, gpu, options = self._model, self._gpu, self._options
        arena = Arena(model.config, slots=slots, device=gpu.device, dtype=model.no_mem_embed.dtype)
        encoding = Encoding(model, arena, gpu, options, preprocess=self._preprocess)
        decoder = GpuDecoder(model, arena)
        return arena, encoding, Decoding(decoder, arena, gpu, config=model.config, options=options)

    @torch.inference_mode()
    def _room(self) -> Room:
        """How much memory is left for embeddings, from a rehearsal with a small arena.

        Graphs hold the addresses of the arena, so it cannot be made behind them from what they leave. What they
        will take is what the same work takes when it is run as it is: both have the same tensors.
        """
        _, encoding, decoding = self._parts(self._options.batch_images)
        self._gpu.settle()
        encoder_bytes = self._gpu.peak_bytes(encoding.rehearse)
        decoder_bytes = self._gpu.peak_bytes(decoding.rehearse)
        # The small arena and the buffers of this rehearsal are still held: the real ones replace them.
        tracks = self._options.track_mib * 2**20 if self._model.config.video is not None else 0
        return Room(
            self._gpu.free_bytes(),
            encoder_bytes=encoder_bytes,
            decoder_bytes=decoder_bytes,
            track_bytes=tracks,
        )


@contextmanager
def guarded(faults: Faults, engine: GpuEngine | None) -> Iterator[None]:
    """Work on a device that its engine does not know, if it has one: `faults.named`, and `borrowed`."""
    with faults.named(), engine.borrowed() if engine is not None else nullcontext():
        yield


@contextmanager
def naming_the_settings(options: GpuOptions) -> Iterator[None]:
    """Raise ValueError, which says what to change, where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little_memory(options, str(error)) from error


def _too_little_memory(options: GpuOptions, reason: str) -> ValueError:
    cache = "auto" if options.cache_mib is None else options.cache_mib
    return ValueError(
        f"The GPU has too little memory for SAM2_DEVICE_CACHE_MIB={cache}, "
        f"SAM2_BATCH_PROMPTS={options.batch_prompts} and SAM2_BATCH_IMAGES={options.batch_images}. Lower them, or "
        f"choose a smaller SAM2_MODEL. ({reason})"
    )
