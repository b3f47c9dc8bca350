"""Searches pictures for every object: its points have a queue of their own, and clicks of others pass its batches.

Belongs to the event loop. Does not know where pictures and their embeddings come from.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, TypeAlias, TypeVar

import numpy as np

from app.codecs.deep import Stretch
from app.errors import DeadlineExceeded, InvalidPrompt, Overloaded
from app.scheduling.batching import Ran
from app.scheduling.deadlines import left_s
from app.scheduling.shares import Shares, Turns
from app.service.decodings import Decodable, Shaped, shape_all
from app.service.found_masks import Criteria, Everything, FirstLook, Found, Sifting, most_wanted, write
from app.service.wiring import (
    BATCHES_OF_A_SEARCH,
    SEARCH_BATCHES,
    SEARCHES_AT_ONCE,
    SEARCHES_OF_NEWCOMERS,
    Machinery,
)
from app.telemetry.stages import StageTimes
from model.everything.candidates import Candidate, best_of_crop, best_of_crops
from model.everything.crops import Crop
from model.types import Embedding, Prediction, Prompt

T = TypeVar("T")

DEADLINE_SETTING = "SAM2_EVERYTHING_DEADLINE_S"

_BATCH_S = 0.04
"""How long a batch of a search may take where clicks of others wait for it."""
_PASSED_BATCH_S = 0.25
"""How long where clicks pass it, as on a CPU: only uploads, steps of tracks and other searches wait. At the end of
a batch some cores wait for others."""
_FIRST_BATCH = 2
"""Prompts of the first batch, when it is not known how long one takes."""
_HELD_BYTES = 96 * 2**20
"""Most memory for masks that have passed, of one client; of all clients together, a third more."""
_TOLD_AFTER_S = 5.0
"""From then on, the pace tells whether the deadline can be met."""
_MARGIN = 1.5
"""A search that seems to need up to this many times the time left goes on: others may stop slowing it down."""

Report: TypeAlias = Callable[[float, int], None]
"""Gets the share of the work that is done, 0..1, and the number of masks that have passed the thresholds so far."""


class _Held:
    """Memory for the masks of one search."""

    def __init__(self, shares: Shares, share: str) -> None:
        self._shares, self._share = shares, share
        self._nbytes = 0

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Count masks. Raises InvalidPrompt if no search may hold so much, Overloaded if others hold it."""
        nbytes = sum(candidate.nbytes for candidate in candidates)
        if self._nbytes + nbytes > self._shares.alone:
            raise InvalidPrompt(
                f"The masks that pass take more than {self._shares.alone // 2**20} MiB, near duplicates included. "
                "Raise pred_iou_thresh or stability_score_thresh, ask for fewer points, or leave out return_logits."
            )
        if not self._shares.admits(self._share, nbytes):
            raise Overloaded("Other requests hold the memory for masks. Try again later.", retry_after_s=10)
        self._shares.add(self._share, nbytes)
        self._nbytes += nbytes

    def keep(self, candidates: Sequence[Candidate]) -> None:
        """Count these masks alone; all others were dropped."""
        nbytes = sum(candidate.nbytes for candidate in candidates)
        if self._nbytes:
            self._shares.remove(self._share, self._nbytes - nbytes)
        self._nbytes = nbytes


@dataclass(slots=True)
class _Progress:
    """How far a search is."""

    points: int
    report: Report
    started: float
    done: int = 0
    passed: int = 0

    def add(self, points: int, passed: int) -> None:
        """Count points that are done. Raises DeadlineExceeded if the others cannot be in time at this pace."""
        self.done += points
        self.passed += passed
        self.report(self.done / self.points, self.passed)
        elapsed_s = monotonic() - self.started
        if not self.done or elapsed_s < _TOLD_AFTER_S:
            return
        needed_s = elapsed_s * (self.points / self.done - 1)
        if needed_s > _MARGIN * left_s():
            raise DeadlineExceeded(
                f"{self.points - self.done} of {self.points} points would take about {needed_s:.0f} s more, and "
                f"{left_s():.0f} s are left ({DEADLINE_SETTING}). Ask for fewer points (points_per_side, "
                "crop_n_layers, points), or try again later."
            )


@dataclass(frozen=True, slots=True)
class Request:
    """A search, whose it is, and who hears about it."""

    embedding: Embedding
    """Of the whole picture."""
    crops: Sequence[Crop]
    file: tuple[bytes, Stretch] | None
    """The picture and how it is read, required if it is cropped."""
    criteria: Criteria
    model: str
    logit_bytes: int
    is_passed: bool
    """Whether clicks pass the batches of searches while they run."""
    share: str
    times: StageTimes
    report: Report


class Searches:
    """Runs searches, a few at a time. The others wait for their turn."""

    def __init__(
        self, machinery: Machinery, *, most_prompts: int, most_waiting: int, most_pictures: int
    ) -> None:
        """`most_prompts` in one batch, `most_waiting` of one client in the queue of searches, `most_pictures` of
        one client that are searched or wait for it.
        """
        self._searcher, self._workers = machinery.searcher, machinery.workers
        self._encodings = machinery.encodings
        # So that all batches of all searches that run at a time have room in the queue, at once and of one client.
        room = most_waiting // SEARCH_BATCHES
        self._most_prompts = max(1, min(most_prompts, room))
        self._admitted = Shares(most_pictures)
        self._turns = Turns(SEARCHES_AT_ONCE, reserved=SEARCHES_OF_NEWCOMERS)
        self._cropping = Turns(1, reserved=0)
        self._shares = Shares(_HELD_BYTES)
        self._batch = min(_FIRST_BATCH, self._most_prompts)

    @property
    def held_bytes(self) -> int:
        """Memory that masks take at this moment."""
        return self._shares.used

    @asynccontextmanager
    async def admitted(self, share: str) -> AsyncIterator[None]:
        """Count a search while the block runs: each holds an embedding, also while it waits for its turn.

        Raises Overloaded.
        """
        if not self._admitted.admits(share, 1):
            held = f"{self._admitted.held(share)} of yours and {self._admitted.used} of all"
            what = f"Too many pictures are searched or wait for it: {held} (SAM2_MAX_WAITING_IMAGES)."
            raise Overloaded(f"{what} Try again later.", retry_after_s=10)
        self._admitted.add(share, 1)
        try:
            yield
        finally:
            self._admitted.remove(share, 1)

    async def run(self, request: Request) -> Everything:
        """Return every object. Within a deadline, which counts from before its turn.

        Raises a ServiceError for a full queue, a client over its rate, masks that take too much memory, and
        crops that cannot all be looked at in time.
        """
        criteria, share = request.criteria, request.share
        await self._encodings.count_pictures(share, sum(crop.layer > 0 for crop in request.crops))
        request.report(0.0, 0)
        async with self._turns.turn(share):
            points = sum(len(crop.points) for crop in request.crops)
            progress = _Progress(points, request.report, monotonic())
            with self._memory(share) as held:
                found = await self._on_crops(request, progress, held)
                if len(request.crops) > 1:
                    best = partial(best_of_crops, found, thresholds=criteria.thresholds)
                    found = await self._workers.run(best, share=share)
                height, width = request.embedding.height, request.embedding.width
                options, logit_bytes = criteria.options, request.logit_bytes

                def write_all() -> list[Found]:
                    size = {"height": height, "width": width}
                    best = most_wanted(found, criteria)
                    return [write(c, options=options, logit_bytes=logit_bytes, **size) for c in best]

                with request.times.during("masks"):
                    masks = await self._workers.run(write_all, share=share)
                    return Everything(height, width, masks, request.model)

    @contextmanager
    def _memory(self, share: str) -> Iterator[_Held]:
        held = _Held(self._shares, share)
        try:
            yield held
        finally:
            held.keep(())

    async def _on_crops(self, request: Request, progress: _Progress, held: _Held) -> list[Candidate]:
        """The whole picture, and then crops, each of which is encoded like a picture and not kept.

        Only one search at a time holds the pixels of its picture.
        """
        found: list[Candidate] = []
        parts = [crop for crop in request.crops if crop.layer > 0]
        for crop in request.crops[: len(request.crops) - len(parts)]:
            found += await self._on_crop(request, crop, request.embedding, progress, held)
            held.keep(found)
        if not parts:
            return found
        assert request.file is not None  # noqa: S101  # the caller's duty
        share, times = request.share, request.times
        async with self._cropping.turn(share), self._encodings.pixels(*request.file, times, share) as pixels:
            for crop in parts:
                x0, y0, x1, y1 = crop.box
                part = np.ascontiguousarray(pixels[y0:y1, x0:x1])
                embedding = await self._encodings.encode_part(part, times, share)
                progress.add(0, 0)
                found += await self._on_crop(request, crop, embedding, progress, held)
                held.keep(found)
        return found

    async def _on_crop(
        self, request: Request, crop: Crop, embedding: Embedding, progress: _Progress, held: _Held
    ) -> list[Candidate]:
        """The best masks of one crop. One batch waits while another runs, so that the device has no gap."""
        found: list[Candidate] = []
        times = StageTimes()  # hundreds of batches, which count as one stage each

        async def decode_and_sift(jobs: Sequence[Sifting], points: int) -> list[Candidate]:
            ran = await self._decoded(request, jobs)
            passed = [c for each in await self._shaped(request, jobs, ran, times) for c in each]
            held.add(passed)
            progress.add(points, len(passed))
            return passed

        under_way: deque[asyncio.Task[list[Candidate]]] = deque()
        try:
            async with aclosing(self._siftings(request, crop, embedding, times)) as batches:
                async for batch in batches:
                    under_way.append(asyncio.create_task(decode_and_sift(*batch)))
                    if len(under_way) >= BATCHES_OF_A_SEARCH:
                        found += await under_way.popleft()
            while under_way:
                found += await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            for stage, seconds in times.seconds.items():
                request.times.add(stage, seconds)
            request.times.batch_size = max(request.times.batch_size, times.batch_size)
        best = partial(best_of_crop, found, thresholds=request.criteria.thresholds)
        return await self._workers.run(best, share=request.share)

    async def _siftings(
        self, request: Request, crop: Crop, embedding: Embedding, times: StageTimes
    ) -> AsyncGenerator[tuple[list[Sifting], int], None]:
        """Yield batches of prompts, and the number of points that are done with each."""
        criteria, whole = request.criteria, request.embedding
        floor = criteria.thresholds.iou_floor

        def siftings(prompts: list[Prompt]) -> list[Sifting]:
            return [Sifting(embedding, prompt, crop.box, whole, criteria) for prompt in prompts]

        points = iter(crop.points.tolist())
        while some := list(islice(points, self._batch)):
            prompts = [
                Prompt(
                    points=((x, y),),
                    labels=(1,),
                    multimask_output=criteria.multimask_output,
                    iou_floor=None if criteria.use_m2m else floor,
                )
                for x, y in some
            ]
            if not criteria.use_m2m:
                yield siftings(prompts), len(some)
                continue
            looks = [FirstLook(embedding, prompt) for prompt in prompts]
            seen = await self._shaped(request, looks, await self._decoded(request, looks), times)
            again = [
                prompt
                for look, (prediction,) in zip(looks, seen, strict=True)
                for prompt in look.again(prediction, iou_floor=floor)
            ]
            for start in range(0, len(again), size := self._batch):
                is_last = start + size >= len(again)
                yield siftings(again[start : start + size]), len(some) if is_last else 0

    async def _decoded(
        self, request: Request, jobs: Sequence[Decodable[Any]]
    ) -> list[Ran[Prediction | Shaped[Any]]]:
        """Decode a batch, and learn from its time how large the next one may be."""
        ran = await self._searcher.submit_all(jobs, deadline_s=left_s(), share=request.share)
        slowest = max(ran, key=lambda each: each.device_s / each.batch_size)
        batch_s = _PASSED_BATCH_S if request.is_passed else _BATCH_S
        fitting = int(batch_s * slowest.batch_size / max(slowest.device_s, 1e-6))
        size = min(max(1, fitting), 2 * self._batch, self._most_prompts)
        # Even, as cores have whole prompts each: an odd one would leave some idle.
        self._batch = size - size % 2 if size > 1 else 1
        return ran

    async def _shaped(
        self, request: Request, jobs: Sequence[Decodable[T]], ran: Sequence[Ran[Any]], times: StageTimes
    ) -> list[list[T]]:
        return await shape_all(jobs, ran, workers=self._workers, share=request.share, times=times)
