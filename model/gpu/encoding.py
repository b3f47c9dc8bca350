"""Pictures to embeddings on a GPU, while clicks go on.

Pictures are uploaded and shrunk on a stream of their own, while the batch before is encoded. The encoder's
kernels are launched as one graph on a stream of low priority, and the thread then waits for them in small steps,
between which it may decode. Does not know about prompts.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from model.gpu.arena import Arena
from model.gpu.compiling import COMPILED_TOLERANCE, agreeing, compiled, obstacle
from model.gpu.device import GpuDevice, Mark, Work, finishing
from model.gpu.encoder import GpuEncoder
from model.gpu.faults import is_out_of_memory
from model.gpu.graphs import REPLAY_TOLERANCE, FixedWork, captured
from model.gpu.options import GpuOptions
from model.network.sam2 import Sam2
from model.types import Embedding, Pixels

Network: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""GpuEncoder, compiled or not."""

log = logging.getLogger(__name__)

STEP_S = 0.0001
"""Seconds between two looks at a running encode, and so the longest that a click waits for this thread."""

PATIENCE_S = 30.0
"""No batch takes so long, unless the GPU hangs."""

MOST_DEVICE_SCALE = 64
"""A GPU shrinks pictures with a filter that must fit into shared memory; torch refuses a side of some 90 times the
model's. Such pictures are shrunk on the host."""


class Encoding:
    """Owns the encoder's input and its graphs. For one thread.

    A batch is made ready in `_shrunk` by the stream `uploads`, and copied to `_images`, where graphs look for it,
    by `pictures`. So the next batch may be made ready as soon as that copy is done.

    Which stream may touch which slot of the arena, and when:

    - A slot that is claimed is written by the stream `pictures` alone. Its embedding comes into being once the host
      has seen that the writing is done; so no other stream and no other thread can read a slot before.
    - A slot is free once its embedding has been dropped. A decode holds the embeddings it reads until the host has
      its results, a track until its work is done (`GpuEngine.borrowed`), and who copies an embedding to the host
      waits for the copy; so nothing reads a slot that is free.
    - An encode or a decode that fails waits for what it launched before it lets go of its slots (`finishing`).

    Memory that torch hands out within a stream's block it hands out again within the same stream only. Of what is
    made on one stream others use the arena and the buffers alone, which are never freed: hence no record_stream.
    """

    def __init__(
        self,
        model: Sam2,
        arena: Arena,
        gpu: GpuDevice,
        options: GpuOptions,
        *,
        preprocess: Callable[[Tensor], Tensor],
    ) -> None:
        self._encoder, self._arena, self._gpu = GpuEncoder(model), arena, gpu
        self._side = model.config.image_size
        self._preprocess = preprocess
        self._stream, self._uploads = gpu.pictures, gpu.uploads
        self._options = options
        self._dtype = model.encoder_dtype  # which may be more than the arena's
        most = options.batch_images
        self._sizes = sorted({most, *(2**i for i in range(most.bit_length()))} - {0}, reverse=True)
        self._works: dict[int, Work] = {}
        # Channels last: the first convolution then leaves maps as the trunk wants them, (b, h, w, c), uncopied.
        self._images, self._shrunk = (
            torch.zeros(most, 3, self._side, self._side, device=gpu.device, dtype=self._dtype).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        )
        self._copied: Mark | None = None
        """Behind the last copy out of `_shrunk`."""
        self._is_waiting = False
        """Whether pictures may be expected: an encode runs, and there was memory for them so far."""
        self._expected: list[weakref.ref[Pixels]] = []
        """The pictures that are in `_shrunk` already, for the batch that follows."""
        self._slots = torch.zeros(most, device=gpu.device, dtype=torch.int64)

    def encode(self, images: Sequence[Pixels], *, between: Callable[[], None]) -> list[Embedding]:
        """Embed pictures of any sizes. `between` is called again and again, and may decode.

        Raises NoFreeSlot, before any work, where the arena has no room for all of them.
        """
        slots = self._arena.claim(len(images))
        try:
            with finishing(self._uploads), finishing(self._stream):
                done = 0
                for number, size in enumerate(self._batches(len(images))):
                    if number > 1 and self._copied is not None:
                        # `_shrunk` is not free before the batch before the last is done: not for the host to
                        # block on.
                        self._wait(self._copied, between)
                    self._launch(images[done : done + size], slots[done : done + size], between)
                    done += size
                self._is_waiting = True
                self._wait(self._stream.mark(), between)
        except BaseException:
            self._expected.clear()
            self._arena.release(slots)
            raise
        finally:
            self._is_waiting = False
        return [
            self._arena.embedding(slot, height=image.shape[0], width=image.shape[1])
            for slot, image in zip(slots, images, strict=True)
        ]

    def expect(self, images: Sequence[Pixels]) -> None:
        """Upload and shrink one more of the pictures that follow while the device encodes others.

        Where others follow in the end, or in another order, they are uploaded then.
        """
        count = len(self._expected)
        are_next = all(each() is image for each, image in zip(self._expected, images, strict=False))
        if not (self._is_waiting and are_next and count < min(len(images), self._options.batch_images)):
            return
        image = images[count]
        if not self._fits_the_filter(image):
            return
        try:
            self._shrink_there(count, image)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Not at the next look, a tenth of a millisecond later, with the whole upload once more: after this
            # batch. Its own encode says so, if there is no memory then either.
            self._is_waiting = False
            return
        self._expected.append(weakref.ref(image))

    def warm_up(self) -> Embedding:
        """Prepare every size of batch, so that no user waits for it, and embed noise once the whole way."""
        started = perf_counter()
        if self._options.compile != "off":
            self._prepare_all()
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (1200, 1800, 3), np.uint8)] * self._options.batch_images
        embeddings = self.encode(images, between=lambda: None)
        log.info("Prepared the encoder for batches of %s in %.1f s", self._sizes, perf_counter() - started)
        return embeddings[0]

    def rehearse(self) -> None:
        """Run the largest batch as it is, to see how much memory it takes."""
        most = self._options.batch_images
        with finishing(self._stream):
            self._fill_at_random(range(most))
            self._run(self._network, most)
            self._stream.mark().wait()

    def _prepare_all(self) -> None:
        """The largest batch first: what its graph takes, the graphs of all others use again."""
        fast_network: Network | None = None
        if self._options.compile == "on" and obstacle() is None:
            log.warning(
                "SAM2_COMPILE=on: compiling the encoder for batches of %s, which takes minutes; the server is not "
                "ready before. SAM2_COMPILE=auto does without.", self._sizes,
            )  # fmt: skip
            fast_network = compiled(self._network)
        slots = self._arena.claim(self._options.batch_images)
        try:
            with finishing(self._stream):
                for size in self._sizes:
                    self._works[size] = self._prepare(size, slots[:size], fast_network)
                self._stream.mark().wait()
        finally:
            self._arena.release(slots)

    def _wait(self, mark: Mark, between: Callable[[], None]) -> None:
        """Let clicks pass until the mark is reached; where the GPU hangs, hang too, for a watchdog to see."""
        started = monotonic()
        while not mark.is_reached():
            if monotonic() - started > PATIENCE_S:
                mark.wait()
            between()
            sleep(STEP_S)

    def _batches(self, count: int) -> list[int]:
        """`count` as a sum of sizes that are prepared, the largest first: no picture is encoded for nothing."""
        batches = []
        for size in self._sizes:
            batches += [size] * (count // size)
            count %= size
        return batches

    def _launch(self, images: Sequence[Pixels], slots: Sequence[int], between: Callable[[], None]) -> None:
        """Upload, shrink and encode a batch; returns while it runs."""
        size = len(images)
        for place, image in enumerate(images):
            if place >= len(self._expected) or self._expected[place]() is not image:
                self._shrink(place, image)
                between()  # the copy to memory for uploads took a millisecond or more of the host's time
        self._expected.clear()
        self._stream.after(self._uploads.mark())
        self._images[:size].copy_(self._shrunk[:size])
        self._stream.upload(np.array(slots), self._slots[:size])
        self._copied = self._stream.mark()
        work = self._works.get(size)
        if work is None:  # without graphs the host launches a thousand kernels one by one
            self._run(partial(self._encoder, between=between), size)
        else:
            work()

    def _shrink(self, place: int, image: Pixels) -> None:
        """Upload a picture and shrink it to its place in `_shrunk`; returns while that runs.

        One that the device has no memory for, of several hundred megapixels say, is shrunk on the host.
        """
        if self._fits_the_filter(image):
            try:
                self._shrink_there(place, image)
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        self._put(place, torch.from_numpy(image))

    def _shrink_there(self, place: int, image: Pixels) -> None:
        with self._uploads.current():
            pixels = torch.empty(image.shape, dtype=torch.uint8, device=self._gpu.device)
            self._uploads.upload(image, pixels)
            self._put(place, pixels)

    def _put(self, place: int, pixels: Tensor) -> None:
        with self._uploads.current():
            if self._copied is not None:
                self._uploads.after(self._copied)
            self._shrunk[place].copy_(self._preprocess(pixels))

    def _fits_the_filter(self, image: Pixels) -> bool:
        """Whether the device can shrink the picture."""
        return max(image.shape[:2]) <= MOST_DEVICE_SCALE * self._side

    def _prepare(self, size: int, slots: Sequence[int], fast_network: Network | None) -> Work:
        """The work of a batch of `size`, tried out on noise, in claimed slots."""
        network: Network = self._network
        fill = partial(self._fill_at_random, slots)
        name = f"encoder for {size} pictures"
        if fast_network is not None:
            fill()
            network = agreeing(
                fast_network, network, [self._images[:size]],
                name=name, tolerance=COMPILED_TOLERANCE[self._dtype],
            )  # fmt: skip
        run = partial(self._run, network, size)
        arena = self._arena
        outputs = [
            rows[slot]
            for slot in slots
            for rows in (arena.image_rows, arena.feat_s1_rows, arena.feat_s0_rows)
        ]
        work = FixedWork(name=name, run=run, fill=fill, outputs=outputs, dtype=self._dtype)
        tolerance = REPLAY_TOLERANCE[arena.image_rows.dtype]
        return captured(work, self._gpu, self._stream, tolerance=tolerance, is_idle=True)

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._encoder(images)

    def _run(self, network: Network, size: int) -> None:
        self._arena.write(self._slots[:size], *network(self._images[:size]))

    def _fill_at_random(self, slots: Sequence[int]) -> None:
        """Noise from the host: after a capture that failed, some versions of torch make none on the device."""
        noise = torch.empty(self._side, self._side, 3, device=self._gpu.device)
        self._stream.upload(np.random.default_rng(0).standard_normal(noise.shape, np.float32), noise)
        for place in range(len(slots)):
            self._images[place].copy_(noise.roll(place, dims=0).permute(2, 0, 1))
        self._stream.upload(np.array(slots), self._slots[: len(slots)])
