"""Prompts of equal token counts to predictions on a GPU: one upload, one graph, one wait.

A batch is filled up to the next of a few sizes, so that few shapes occur, and a graph of each is captured: the
common ones when the server warms up, others when they are first met. Does not know how embeddings are made.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, perf_counter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.arena import Arena
from model.gpu.compiling import COMPILED_TOLERANCE, agreeing, compiled, obstacle
from model.gpu.decoder import GpuDecoder
from model.gpu.device import GpuDevice, Work, finishing
from model.gpu.faults import is_lost, is_of_the_driver, is_out_of_memory
from model.gpu.graphs import REPLAY_TOLERANCE, FixedWork, captured
from model.gpu.options import GpuOptions
from model.gpu.parcels import (
    BATCH_SIZES,
    MOST_TOKENS,
    Shape,
    at_random,
    multimask,
    packed,
    shape_of,
    unpacked,
)
from model.network.config import Sam2Config
from model.network.mask_decoder import DecoderOutput
from model.network.point_tokens import num_point_tokens
from model.types import Embedding, Prediction, Prompt

Network: TypeAlias = Callable[..., DecoderOutput]
"""GpuDecoder.network, compiled or not."""

log = logging.getLogger(__name__)

WARM_TOKENS = (2, 3)
"""Prepared beforehand in every size: one click, and a box or two clicks."""

WARM_SESSION = (2, 3, 4, 5)
"""Prepared beforehand for one prompt, with a mask and without: one to four clicks at one object."""

RETRY_S = 60.0
"""Seconds that a shape runs without a graph when the driver refused it, for lack of memory say."""


class Decoding:
    """Owns the buffers between host and graphs, and the graphs. For one thread."""

    def __init__(
        self, decoder: GpuDecoder, arena: Arena, gpu: GpuDevice, config: Sam2Config, options: GpuOptions
    ) -> None:
        self.most_prompts = next((s for s in BATCH_SIZES if s >= options.batch_prompts), BATCH_SIZES[-1])
        self._decoder, self._arena, self._gpu = decoder, arena, gpu
        self._stream = gpu.clicks
        self._image_size = config.image_size
        self._dtype = arena.image_rows.dtype
        self._options = options
        self._works: dict[Shape, Work] = {}
        self._retry_at: dict[Shape, float] = {}
        most, side = self.most_prompts, config.mask_size
        self._several = config.decoder.num_multimask_outputs
        # All shapes share these. A batch is written here, decoded and copied out before the next one is begun, on
        # one stream, so graphs never find each other's numbers.
        make = partial(torch.zeros, device=gpu.device)
        self._largest = Shape(most, MOST_TOKENS, has_masks=True)
        self._parcels = make(most * self._largest.width)
        self._mask_logits = make(most, 1, side, side)
        self._planes = make(self._several, most, side, side)
        self._scores = make(most, self._several + 1)

    def decode(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> list[Prediction]:
        """A prediction for each job, in order. At most `most_prompts`, all of one number of point tokens.

        Raises NoFreeSlot where an embedding is not in the arena, and there is no room for it.
        """
        # The first plane is copied out for all, the others for those only that ask for several masks: so in front.
        order = sorted(range(len(jobs)), key=lambda i: not jobs[i][1].multimask_output)
        jobs = [jobs[i] for i in order]
        with finishing(self._stream):
            held = [self._in_arena(embedding) for embedding, _ in jobs]
            slots = [slot for _, slot in held]
            shape = self._shape_of(jobs)
            parcel = self._parcel_of(shape)
            work = self._work_of(shape, slots, parcel)
            self._stream.upload(packed(jobs, slots, shape, image_size=self._image_size), parcel)
            if shape.has_masks:
                self._stream.upload(self._masks(jobs), self._mask_logits[: len(jobs)])
            work()
            planes, scores = self._download(jobs)
        predictions: dict[int, Prediction] = {}
        for row, (place, (_, prompt)) in enumerate(zip(order, jobs, strict=True)):
            count = self._several if prompt.multimask_output else 1
            # Views of host memory that is used again once the last prediction of this batch is dropped.
            predictions[place] = Prediction(
                logits=planes[:count, row], iou=scores[row, :count], object_score=float(scores[row, -1])
            ).above(prompt.iou_floor)
        return [predictions[i] for i in range(len(jobs))]

    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding that lives elsewhere, brought to the arena. Raises NoFreeSlot."""
        with finishing(self._stream):
            adopted, _ = self._in_arena(embedding)
            self._stream.mark().wait()
        return adopted

    def rehearse(self) -> None:
        """Run the largest shape that may be prepared, as it is, to see how much memory it takes."""
        parcel = self._parcel_of(self._largest)
        with finishing(self._stream):
            self._fill_at_random(self._largest, [0], parcel)
            self._run(self._decoder.network, self._largest, parcel)
            self._stream.mark().wait()

    def warm_up(self, embedding: Embedding) -> None:
        """Prepare the common shapes, so that no user waits for them."""
        started = perf_counter()
        shapes = self._common_shapes()
        fast_network: Network | None = None
        if self._options.compile == "on" and obstacle() is None:
            log.warning(
                "SAM2_COMPILE=on: compiling the decoder for %d shapes, which takes minutes; the server is not "
                "ready before. SAM2_COMPILE=auto does without.", len(shapes),
            )  # fmt: skip
            fast_network = compiled(self._decoder.network)
        held, slot = self._in_arena(embedding)
        with finishing(self._stream):
            for shape in shapes:
                self._works[shape] = self._prepare(shape, [slot], fast_network, is_idle=True)
        # The whole way once with the largest batch: host memory for copies is slow to get, and kept from then on.
        self.decode([(held, Prompt(points=((1.0, 1.0),), labels=(1,)))] * self.most_prompts)
        log.info("Prepared %d shapes of the decoder in %.1f s", len(shapes), perf_counter() - started)

    def _common_shapes(self) -> list[Shape]:
        """The largest first: what its graph takes, the graphs of all others use again."""
        sizes = [size for size in reversed(BATCH_SIZES) if size <= self.most_prompts]
        shapes = [Shape(size, tokens, has_masks=False) for size in sizes for tokens in reversed(WARM_TOKENS)]
        shapes += [Shape(1, tokens, has_masks) for tokens in WARM_SESSION for has_masks in (True, False)]
        return list(dict.fromkeys(shapes))

    def _in_arena(self, embedding: Embedding) -> tuple[Embedding, int]:
        """An embedding that is in the arena, to be held until its decode is done, and its slot."""
        slot = self._arena.slot_of(embedding)
        if slot is not None:
            return embedding, slot
        adopted = self._arena.adopt(embedding)
        return adopted, adopted.slot

    def _shape_of(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> Shape:
        has_masks = any(prompt.mask_logits is not None for _, prompt in jobs)
        return shape_of(len(jobs), tokens=num_point_tokens(jobs[0][1]), has_masks=has_masks)

    def _parcel_of(self, shape: Shape) -> Tensor:
        """Where a packed batch goes: always the same place for a shape that is prepared."""
        if shape.is_long:
            return torch.empty(shape.prompts, shape.width, device=self._gpu.device)
        return self._parcels[: shape.prompts * shape.width].view(shape.prompts, shape.width)

    def _work_of(self, shape: Shape, slots: Sequence[int], parcel: Tensor) -> Work:
        """What decodes a parcel of this shape."""
        if shape in self._works:
            return self._works[shape]
        as_it_is = partial(self._run, self._decoder.network, shape, parcel)
        if shape.is_long or monotonic() < self._retry_at.get(shape, 0.0):
            return as_it_is
        if (work := self._prepare_while_serving(shape, slots)) is None:
            self._gpu.trim()  # only now: the error's frames held what did not fit
            self._retry_at[shape] = monotonic() + RETRY_S
            return as_it_is
        self._works[shape] = work
        return work

    def _prepare_while_serving(self, shape: Shape, slots: Sequence[int]) -> Work | None:
        """The work of a shape that is first met; None where there is no graph of it now, and may be one later."""
        started = perf_counter()
        try:
            work = self._prepare(shape, slots, None, is_idle=False)
        except RuntimeError as error:
            if not is_out_of_memory(error) and (not is_of_the_driver(error) or is_lost(self._gpu)):
                raise
            log.warning("No graph of the %s now: it runs without for %g s. %s", shape, RETRY_S, error)
            return None
        log.info("Prepared the %s, first met now, in %.2f s", shape, perf_counter() - started)
        return work

    def _prepare(
        self, shape: Shape, slots: Sequence[int], fast_network: Network | None, *, is_idle: bool
    ) -> Work:
        """The work of a shape, tried out on random prompts on the embeddings in `slots`.

        Compilation takes long, so a shape that is first met while the server serves is given no `fast_network`.
        """
        network: Network = self._decoder.network
        parcel = self._parcel_of(shape)
        fill = partial(self._fill_at_random, shape, slots, parcel)
        if fast_network is not None:
            fill()
            network = agreeing(
                fast_network, network, unpacked(parcel, shape, self._mask_logits),
                name=str(shape), tolerance=COMPILED_TOLERANCE[self._dtype],
            )  # fmt: skip
        run = partial(self._run, network, shape, parcel)
        if self._options.compile == "off":
            fill()
            run()
            return run
        outputs = (self._planes[:, : shape.prompts], self._scores[: shape.prompts])
        work = FixedWork(name=str(shape), run=run, fill=fill, outputs=outputs, dtype=self._dtype)
        tolerance = REPLAY_TOLERANCE[self._dtype]
        return captured(work, self._gpu, self._stream, tolerance=tolerance, is_idle=is_idle)

    def _run(self, network: Network, shape: Shape, parcel: Tensor) -> None:
        self._decoder.choose(
            network(*unpacked(parcel, shape, self._mask_logits)),
            multimask(parcel),
            planes=self._planes[:, : shape.prompts],
            scores=self._scores[: shape.prompts],
        )

    def _masks(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> npt.NDArray[np.float32]:
        """(b, 1, h, w); zeros, which are not looked at, where a prompt has none."""
        logits = np.zeros((len(jobs), *self._mask_logits.shape[1:]), np.float32)
        for i, (_, prompt) in enumerate(jobs):
            if prompt.mask_logits is not None:
                logits[i, 0] = prompt.mask_logits
        return logits

    def _fill_at_random(self, shape: Shape, slots: Sequence[int], parcel: Tensor) -> None:
        self._stream.upload(at_random(shape, slots, image_size=self._image_size), parcel)
        if shape.has_masks:
            random = np.random.default_rng(shape.prompts)
            logits = random.normal(0, 8, self._mask_logits[: shape.prompts].shape).astype(np.float32)
            self._stream.upload(logits, self._mask_logits[: shape.prompts])

    def _download(
        self, jobs: Sequence[tuple[Embedding, Prompt]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Masks (k, b, h, w), as many planes as some prompt asks for, and scores (b, 4); waits for them."""
        count = len(jobs)
        asking = sum(prompt.multimask_output for _, prompt in jobs)
        planes = self._gpu.host_memory(
            self._several if asking else 1, count, *self._planes.shape[2:], dtype=torch.float32
        )
        scores = self._gpu.host_memory(count, self._several + 1, dtype=torch.float32)
        self._stream.download(self._scores[:count], scores)
        self._stream.download(self._planes[0, :count], planes[0])
        for number in range(1, len(planes)):
            self._stream.download(self._planes[number, :asking], planes[number, :asking])
        self._stream.mark().wait()
        return planes.numpy(), scores.numpy()
