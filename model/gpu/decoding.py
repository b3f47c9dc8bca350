"""Prompts of equal token counts to predictions on a GPU: one upload, one graph, one wait.

A batch is filled up to the next of a few sizes, so that few shapes occur, and a graph of each is captured: the
common ones when the server warms up, others when they are first met. Knows nothing of how embeddings are made.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.gpu.arena import Arena
from model.gpu.decoder import GpuDecoder
from model.gpu.device import GpuDevice, Work, finishing
from model.gpu.graphs import COMPILED_TOLERANCE, REPLAY_TOLERANCE, FixedWork, agreeing, captured, compiled
from model.gpu.options import GpuOptions
from model.network.config import Sam2Config
from model.network.mask_decoder import DecoderOutput
from model.network.point_tokens import num_point_tokens, point_tokens
from model.network.prompt_encoder import PADDING
from model.types import Embedding, Prediction, Prompt

Network: TypeAlias = Callable[..., DecoderOutput]
"""GpuDecoder.network, compiled or not."""

log = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""What a batch is filled up to."""

MOST_TOKENS = 9
"""Prompts of more point tokens than these, which are eight clicks or a box and six, run without a graph."""

WARM_TOKENS = (2, 3)
"""Prepared beforehand in every size: one click, and a box or two clicks."""

WARM_SESSION = (2, 3, 4, 5)
"""Prepared beforehand for one prompt, with a mask and without: one to four clicks at one object."""


class Shape(NamedTuple):
    """What decides which kernels run."""

    prompts: int
    tokens: int
    has_masks: bool

    def __str__(self) -> str:
        """For the log."""
        masks = ", masks" if self.has_masks else ""
        return f"decoder for {self.prompts} x {self.tokens} tokens{masks}"


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
        most, side = self.most_prompts, config.mask_size
        self._several = config.decoder.num_multimask_outputs
        # All shapes share these. A batch is written here, decoded and copied out before the next one is begun, on
        # one stream, so graphs never find each other's numbers.
        make = partial(torch.zeros, device=gpu.device)
        self._parcels = make(most * _parcel_width(MOST_TOKENS))
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
            self._stream.upload(self._packed(jobs, slots, shape), parcel)
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
            )
        return [predictions[i] for i in range(len(jobs))]

    def adopt(self, embedding: Embedding) -> Embedding:
        """An embedding that lives elsewhere, brought to the arena. Raises NoFreeSlot."""
        with finishing(self._stream):
            adopted, _ = self._in_arena(embedding)
            self._stream.mark().wait()
        return adopted

    def warm_up(self, embedding: Embedding) -> None:
        """Prepare the common shapes, so that no user waits for them."""
        started = perf_counter()
        sizes = [size for size in BATCH_SIZES if size <= self.most_prompts]
        shapes = [Shape(size, tokens, has_masks=False) for size in sizes for tokens in WARM_TOKENS]
        shapes += [Shape(1, tokens, has_masks) for tokens in WARM_SESSION for has_masks in (False, True)]
        shapes = list(dict.fromkeys(shapes))
        fast_network: Network | None = None
        if self._options.compile == "on":
            log.warning(
                "SAM2_COMPILE=on: compiling the decoder for %d shapes, which takes minutes; the server is not "
                "ready before. SAM2_COMPILE=auto does without.", len(shapes),
            )  # fmt: skip
            fast_network = compiled(self._decoder.network)
        held, slot = self._in_arena(embedding)
        with finishing(self._stream):
            for shape in shapes:
                self._works[shape] = self._prepare(shape, [slot], fast_network)
        # The whole way once with the largest batch: host memory for copies is slow to get, and kept from then on.
        self.decode([(held, Prompt(points=((1.0, 1.0),), labels=(1,)))] * self.most_prompts)
        log.info("Prepared %d shapes of the decoder in %.1f s", len(shapes), perf_counter() - started)

    def _in_arena(self, embedding: Embedding) -> tuple[Embedding, int]:
        """An embedding that is in the arena, to be held until its decode is done, and its slot."""
        slot = self._arena.slot_of(embedding)
        if slot is not None:
            return embedding, slot
        adopted = self._arena.adopt(embedding)
        return adopted, adopted.slot

    def _shape_of(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> Shape:
        tokens = num_point_tokens(jobs[0][1])
        has_masks = any(prompt.mask_logits is not None for _, prompt in jobs)
        size = next(size for size in BATCH_SIZES if size >= len(jobs))
        return Shape(size if tokens <= MOST_TOKENS else len(jobs), tokens, has_masks)

    def _parcel_of(self, shape: Shape) -> Tensor:
        """Where `_packed` goes: always the same place for a shape that is prepared."""
        width = _parcel_width(shape.tokens)
        if shape.tokens > MOST_TOKENS:
            return torch.empty(shape.prompts, width, device=self._gpu.device)
        return self._parcels[: shape.prompts * width].view(shape.prompts, width)

    def _work_of(self, shape: Shape, slots: Sequence[int], parcel: Tensor) -> Work:
        """What decodes a parcel of this shape."""
        if shape.tokens > MOST_TOKENS:
            return partial(self._run, self._decoder.network, shape, parcel)
        if shape not in self._works:
            started = perf_counter()
            self._works[shape] = self._prepare(shape, slots, None)
            log.info("Prepared the %s, first met now, in %.2f s", shape, perf_counter() - started)
        return self._works[shape]

    def _prepare(self, shape: Shape, slots: Sequence[int], fast_network: Network | None) -> Work:
        """The work of a shape, tried out on random prompts on the embeddings in `slots`.

        Compilation takes long, so a shape that is first met while the server serves is given no `fast_network`.
        """
        network: Network = self._decoder.network
        parcel = self._parcel_of(shape)
        fill = partial(self._fill_at_random, shape, slots, parcel)
        if fast_network is not None:
            fill()
            network = agreeing(
                fast_network, network, self._unpacked(parcel, shape),
                name=str(shape), tolerance=COMPILED_TOLERANCE[self._dtype],
            )  # fmt: skip
        run = partial(self._run, network, shape, parcel)
        if self._options.compile == "off":
            fill()
            run()
            return run
        outputs = (self._planes[:, : shape.prompts], self._scores[: shape.prompts])
        work = FixedWork(name=str(shape), run=run, fill=fill, outputs=outputs)
        return captured(work, self._stream, tolerance=REPLAY_TOLERANCE[self._dtype])

    def _run(self, network: Network, shape: Shape, parcel: Tensor) -> None:
        self._decoder.choose(
            network(*self._unpacked(parcel, shape)),
            parcel[:, -2] > 0,
            planes=self._planes[:, : shape.prompts],
            scores=self._scores[: shape.prompts],
        )

    def _packed(
        self, jobs: Sequence[tuple[Embedding, Prompt]], slots: Sequence[int], shape: Shape
    ) -> npt.NDArray[np.float32]:
        """All that a batch says but its masks, in one array: small numbers, exact in float32.

        For each prompt: x and y of all tokens, their labels, slot, multimask_output, whether it has a mask. The
        rows that fill the batch up repeat the first prompt, without its mask; nobody looks at what comes of them.
        """
        coords, labels = point_tokens(jobs, image_size=self._image_size)
        packed = np.empty((shape.prompts, _parcel_width(shape.tokens)), np.float32)
        packed[: len(jobs), : 2 * shape.tokens] = coords.reshape(len(jobs), -1)
        packed[: len(jobs), 2 * shape.tokens : -3] = labels
        packed[: len(jobs), -3] = slots
        packed[: len(jobs), -2] = [prompt.multimask_output for _, prompt in jobs]
        packed[: len(jobs), -1] = [prompt.mask_logits is not None for _, prompt in jobs]
        packed[len(jobs) :] = packed[0]
        packed[len(jobs) :, -1] = 0
        return packed

    def _unpacked(self, parcel: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """What the network takes, out of what `_packed` put in."""
        coords = parcel[:, : 2 * shape.tokens].reshape(shape.prompts, shape.tokens, 2)
        labels = parcel[:, 2 * shape.tokens : -3].long()
        mask_logits = self._mask_logits[: shape.prompts] if shape.has_masks else None
        return parcel[:, -3].long(), coords, labels, mask_logits, parcel[:, -1] > 0

    def _masks(self, jobs: Sequence[tuple[Embedding, Prompt]]) -> npt.NDArray[np.float32]:
        """(b, 1, h, w); zeros, which are not looked at, where a prompt has none."""
        logits = np.zeros((len(jobs), *self._mask_logits.shape[1:]), np.float32)
        for i, (_, prompt) in enumerate(jobs):
            if prompt.mask_logits is not None:
                logits[i, 0] = prompt.mask_logits
        return logits

    def _fill_at_random(self, shape: Shape, slots: Sequence[int], parcel: Tensor) -> None:
        random = np.random.default_rng(shape.prompts)
        packed = np.empty(parcel.shape, np.float32)
        packed[:, : 2 * shape.tokens] = random.uniform(0, self._image_size, (shape.prompts, 2 * shape.tokens))
        packed[:, 2 * shape.tokens : -3] = random.integers(0, 2, (shape.prompts, shape.tokens))
        packed[:, 3 * shape.tokens - 1 : -3] = PADDING
        packed[:, -3] = np.resize(slots, shape.prompts)
        packed[:, -2:] = random.integers(0, 2, (shape.prompts, 2))
        self._stream.upload(packed, parcel)
        if shape.has_masks:
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


def _parcel_width(tokens: int) -> int:
    return 3 * tokens + 3
