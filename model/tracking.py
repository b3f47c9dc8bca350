"""Which tracker a model has, and new tracks of it. Its video half is loaded by `load`, or by the first one.

Does not know which videos there are, or who waits.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

import torch

from model.checkpoints.halves import VideoSource
from model.cpu.video_memory import CpuVideoMemory
from model.network.memory import MEMORY_DTYPE
from model.network.sam2 import Sam2
from model.types import Embedding, Prediction, Prompt
from model.video.mask_prompt import MaskPromptTrack
from model.video.network import DeviceNetwork
from model.video.track import Track

Surrounding: TypeAlias = Callable[[], AbstractContextManager[object]]
Working: TypeAlias = Callable[[Callable[[], None]], AbstractContextManager[Callable[[], None]]]


class Tracking:
    """Not thread-safe: the thread that owns the device calls it, but for `kind`."""

    def __init__(
        self,
        model: Sam2,
        source: VideoSource,
        *,
        decode: Callable[[Sequence[tuple[Embedding, Prompt]]], list[Prediction]],
        named: Surrounding,
        working: Working,
    ) -> None:
        """`named` and `working` surround everything that runs on the device: see the runner."""
        self._model, self._source, self._decode = model, source, decode
        self._named, self._working = named, working
        self._network: DeviceNetwork | None = None
        self.most_bytes: int | None = None
        """Device memory that was left for what is remembered; None where nobody has measured it."""

    @property
    def kind(self) -> Literal["memory", "mask_prompt"]:
        """SAM 2's memory or, for a model that knows pictures only, the previous mask as the next frame's prompt."""
        return "memory" if self._model.config.video is not None else "mask_prompt"

    @property
    def frame_bytes(self) -> int:
        """Bytes of what is remembered of one object on one frame: its mask and, with memory, memory and pointer."""
        config = self._model.config
        mask = 4 * config.mask_size**2
        if config.video is None:
            return mask
        memory = MEMORY_DTYPE.itemsize * config.embedding_size**2 * config.video.memory_dim
        return mask + memory + self._model.no_mem_embed.dtype.itemsize * config.embed_dim

    @property
    def is_loaded(self) -> bool:
        """Whether the video half is in memory."""
        return self._network is not None

    def load(self) -> None:
        """Load the video half now, if the model has one. Raises CheckpointError."""
        if self.kind == "memory":
            self.network()

    def network(self) -> DeviceNetwork:
        """Return what a Track asks; the first call loads the video half, or raises CheckpointError."""
        if self._network is None:
            model, device, dtype = (
                self._model,
                self._model.no_mem_embed.device,
                self._model.no_mem_embed.dtype,
            )
            is_cpu = device.type == "cpu"
            with self._named():
                memory = self._source.load(device=device, dtype=dtype)
                # Of all that half precision rounds in a track, the decoder's weights move the most pixels. A CPU
                # has them in float32 here: 17 MiB more, and a step of one object takes a twentieth longer.
                exact = is_cpu and dtype != torch.float32
                decoder = self._source.load_decoder() if exact else model
            self._network = DeviceNetwork(
                decoder,
                memory,
                fast=CpuVideoMemory(memory) if is_cpu else None,
                named=self._named,
                working=self._working,
            )
        return self._network

    def begin(
        self,
        *,
        num_frames: int,
        corrections: Literal["kept", "plain"] = "kept",
        between: Callable[[], None] = lambda: None,
    ) -> Track | MaskPromptTrack:
        """Begin a track. Raises CheckpointError where the weights have no video half.

        On a CPU, whatever takes long of it calls `between` every few milliseconds, which may decode. Without memory
        a step is no longer than a batch of clicks.
        """
        if self.kind == "memory":
            network = self.network().calling(between)
            return Track(network, num_frames=num_frames, corrections=corrections)
        side = self._model.config.mask_size
        return MaskPromptTrack(self._decode, num_frames=num_frames, mask_size=(side, side))
