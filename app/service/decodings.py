"""Turn predictions into masks at the picture's own size, in a worker thread or directly on the device thread.

Does not know about image names, queues or JSON.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from app.codecs.answers import MaskAnswer, MaskOptions, answer
from app.errors import InferenceFailed, ServiceError
from app.scheduling.abandoned import check_wanted
from app.scheduling.batching import Ran
from app.scheduling.device import DeviceThread
from app.scheduling.shares import Workers
from app.telemetry.stages import StageTimes, last_batch
from model.types import Embedding, Prediction, Prompt

Shape = TypeVar("Shape")
T = TypeVar("T")

log = logging.getLogger(__name__)

_SHAPING_S = 0.05
"""After this time no more masks are started on the device thread; those already started are finished."""
_TURN_S = 0.05
"""After this time a worker's job ends, and what is left of a request waits for its next turn."""
_QUICK_CROSSINGS = 32 * 2**20
"""Changes of sign down the columns of a prediction's logits, times the width of its picture. Noise, which no
trained model draws, has 98,000 in three masks; they take 0.1 s for 1800 x 1200 and 1.3 s for 8000 x 6000, a hundred
times as long as solid areas, and clicks of others cannot pass them on the device thread."""
_POINTS_OF_ONE = 64
"""Points that take as long as the rest of a prompt."""
_QUICK_WIDTH = 8192
"""Picture width in pixels: run lengths are computed column by column, so masks of wider pictures take longer."""


def weight(job: "Decodable[Any]") -> float:
    """What a prompt counts in a batch: with 200 points it takes as long as four with one."""
    return 1 + len(job.prompt.points) / _POINTS_OF_ONE


class Decodable(Protocol[Shape]):
    """One prompt on one picture, and what is made of the prediction."""

    @property
    def embedding(self) -> Embedding:
        """Of the picture."""

    @property
    def prompt(self) -> Prompt:
        """The prompt."""

    @property
    def is_quick(self) -> bool:
        """Whether `shape` takes only a few milliseconds (for noise, see `_is_smooth`)."""

    def shape(self, prediction: Prediction) -> list[Shape]:
        """Return what the caller asked for. Runs on any thread, and calls `check_wanted` between its parts."""


def is_quick_to_draw(embedding: Embedding) -> bool:
    """Whether the runs of a mask of this picture take only a few milliseconds."""
    return embedding.width <= _QUICK_WIDTH


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt on one picture, and the format of its masks."""

    embedding: Embedding
    prompt: Prompt
    options: MaskOptions
    logit_bytes: int
    """See answers.py."""

    @property
    def is_quick(self) -> bool:
        """As in Decodable."""
        return self.options.are_quick and is_quick_to_draw(self.embedding)

    def shape(self, prediction: Prediction) -> list[MaskAnswer]:
        """Return the masks of the model's prediction for this job."""
        return answer(
            prediction,
            height=self.embedding.height,
            width=self.embedding.width,
            options=self.options,
            logit_bytes=self.logit_bytes,
            check=check_wanted,
        )


@dataclass(frozen=True, slots=True)
class Shaped(Generic[Shape]):
    """What was made of one job's prediction, and the seconds that it took."""

    masks: list[Shape]
    seconds: float
    """At the end of its batch; 0 where others were decoded meanwhile."""


Decode: TypeAlias = Callable[[Sequence[tuple[Embedding, Prompt]]], Sequence[Prediction | ServiceError]]


class DecodeBatch:
    """The `run` of the prompts' Batcher, on the device thread: `decode`, then the masks that are quick to shape.

    Masks are shaped here in two cases:

    - The batch is a single click and nobody waits. Passing the masks to a worker and back takes 0.3 ms.
    - `shares_cores` returns true: a worker would take a core from the decoder, which delays a whole matrix product.
      On a machine with 2 cores, 16 clients get 1/8 more done this way.
    """

    def __init__(self, decode: Decode, *, device: DeviceThread, shares_cores: Callable[[], bool]) -> None:
        self._decode = decode
        self._device = device
        self._shares_cores = shares_cores

    def __call__(self, jobs: Sequence[Decodable[Any]]) -> Sequence[Prediction | Shaped[Any] | ServiceError]:
        """Return results in the order of the jobs. Raises what `decode` raises."""
        decoded = self._decode([(job.embedding, job.prompt) for job in jobs])
        outcomes: list[Prediction | Shaped[Any] | ServiceError] = [
            overflow(each.object_score) or each if isinstance(each, Prediction) else each for each in decoded
        ]
        if not self._shares_cores() and not (len(jobs) == 1 and self._device.nobody_waits()):
            return outcomes
        until = perf_counter() + _SHAPING_S
        for place, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            if not isinstance(outcome, Prediction) or not _is_quick(job, outcome):
                continue
            if (started := perf_counter()) > until:
                break
            if (masks := _masks_of(job, outcome)) is not None:
                outcomes[place] = Shaped(masks, perf_counter() - started)
        return outcomes


class Search(Protocol):
    """Decodes prompts of searches: `search` of app/segmenter.py, which pauses for clicks."""

    def __call__(
        self, jobs: Sequence[tuple[Embedding, Prompt]], finish: Callable[[int, Prediction], T], /
    ) -> list[T]:
        """Return what `finish` makes of each job's place and prediction."""


class SearchBatch:
    """The `run` of the Batcher of searches: as DecodeBatch, but with few cores each shapes what it has decoded."""

    def __init__(self, search: Search, *, shares_cores: Callable[[], bool]) -> None:
        self._search = search
        self._shares_cores = shares_cores

    def __call__(self, jobs: Sequence[Decodable[Any]]) -> list[Prediction | Shaped[Any] | ServiceError]:
        """Return results in the order of the jobs. Raises what the search raises."""
        shapes = self._shares_cores()

        def finish(place: int, prediction: Prediction) -> Prediction | Shaped[Any] | ServiceError:
            if (failure := overflow(prediction.object_score)) is not None:
                return failure
            job = jobs[place]
            masks = _masks_of(job, prediction) if shapes and _is_quick(job, prediction) else None
            return prediction if masks is None else Shaped(masks, 0.0)

        return self._search([(job.embedding, job.prompt) for job in jobs], finish)


def overflow(*scores: float) -> InferenceFailed | None:
    """What the caller is told where a score, and with it all that the network says, is no number; else None.

    Without it, the answer would look like that of an object that is not there.
    """
    if not any(map(math.isnan, scores)):
        return None
    return InferenceFailed(
        "The model's answer is not a number: the network overflows in its precision. SAM2_DTYPE=float32 has the "
        "range; the server continues."
    )


def _is_quick(job: Decodable[Any], prediction: Prediction) -> bool:
    return job.is_quick and _is_smooth(prediction, width=job.embedding.width)


def _is_smooth(prediction: Prediction, *, width: int) -> bool:
    signs = prediction.logits > 0
    return int(np.count_nonzero(signs[:, 1:] != signs[:, :-1])) * width <= _QUICK_CROSSINGS


def _masks_of(job: Decodable[Shape], prediction: Prediction) -> list[Shape] | None:
    """Shape a prediction's masks; None if that fails: a worker will hit it again, and fail only this request."""
    try:
        return job.shape(prediction)
    except Exception:  # of any kind
        log.debug("Shaping failed beside the decoding", exc_info=True)
        return None


async def shape_all(
    jobs: Sequence[Decodable[Shape]],
    ran: Sequence[Ran[Prediction | Shaped[Any]]],
    *,
    workers: Workers,
    share: str,
    times: StageTimes,
) -> list[list[Shape]]:
    """Return what all jobs of a request asked for, and record their stages. Raises what `Workers.run` raises."""
    results = [each.result for each in ran]
    # Only the last batch counts: earlier batches shaped masks while other items of this request still waited.
    shaped_s = sum(each.result.seconds for each in last_batch(ran) if isinstance(each.result, Shaped))
    times.add_ran(ran, shaping_s=shaped_s)
    if shaped_s:
        times.add("masks", shaped_s)
    shaped = [result.masks for result in results if isinstance(result, Shaped)]
    if len(shaped) == len(jobs):
        return shaped

    def shape_some(start: int) -> list[list[Shape]]:
        some: list[list[Shape]] = []
        until = perf_counter() + _TURN_S
        for job, result in islice(zip(jobs, results, strict=True), start, None):
            some.append(result.masks if isinstance(result, Shaped) else job.shape(result))
            if perf_counter() > until:
                break
        return some

    everything: list[list[Shape]] = []
    with times.during("masks"):
        while len(everything) < len(jobs):
            everything += await workers.run(partial(shape_some, len(everything)), share=share)
    return everything
