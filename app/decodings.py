"""Predictions on their way to masks at the picture's own size: in a worker thread, or at once on the device's.

Knows nothing of names, queues and JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from app.answers import MaskAnswer, MaskOptions, answer
from app.batching import Ran
from app.device import DeviceThread
from app.errors import ServiceError
from app.shares import Workers
from app.stages import StageTimes
from model.types import Embedding, Prediction, Prompt


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt on one picture, and how its masks come back."""

    embedding: Embedding
    prompt: Prompt
    options: MaskOptions
    logit_bytes: int
    """See answers.py."""
    alone: bool
    """Whether its request has no other."""

    def shape(self, prediction: Prediction) -> list[MaskAnswer]:
        """The masks of what the model predicts."""
        return answer(
            prediction,
            height=self.embedding.height,
            width=self.embedding.width,
            options=self.options,
            logit_bytes=self.logit_bytes,
        )


@dataclass(frozen=True, slots=True)
class Shaped:
    """The masks of a lone job, and the seconds that shaping them took."""

    masks: list[MaskAnswer]
    seconds: float


Decode: TypeAlias = Callable[[Sequence[tuple[Embedding, Prompt]]], Sequence[Prediction | ServiceError]]


class DecodeBatch:
    """What the Batcher of prompts runs, on the device thread: `decode`, and the masks of a lone click at once.

    A hand-over to a worker and back takes 0.3 ms of a click. It is for those who wait for the device meanwhile, and
    for what takes longer than run lengths do; where there is nobody and nothing of it, it is saved.
    """

    def __init__(self, decode: Decode, *, device: DeviceThread) -> None:
        self._decode = decode
        self._device = device

    def __call__(self, jobs: Sequence[Job]) -> Sequence[Prediction | Shaped | ServiceError]:
        """Results in the order of the jobs. Raises what `decode` does."""
        outcomes = self._decode([(job.embedding, job.prompt) for job in jobs])
        outcome, job = outcomes[0], jobs[0]
        if (
            len(jobs) > 1
            or isinstance(outcome, ServiceError)
            or not (job.alone and job.options.are_quick)
            or not self._device.nobody_waits()
        ):
            return outcomes
        started = perf_counter()
        return [Shaped(job.shape(outcome), perf_counter() - started)]


async def shape_all(
    jobs: Sequence[Job],
    ran: Sequence[Ran[Prediction | Shaped]],
    *,
    workers: Workers,
    share: str,
    times: StageTimes,
) -> list[list[MaskAnswer]]:
    """The masks of all jobs of a request, and the stages that they went through. Raises what `Workers.run` does."""
    first = ran[0].result
    if isinstance(first, Shaped):
        times.add_ran(ran, shaping_s=first.seconds)
        times.add("masks", first.seconds)
        return [first.masks]
    times.add_ran(ran)
    predictions = [each.result for each in ran if not isinstance(each.result, Shaped)]
    with times.during("masks"):
        return await workers.run(
            lambda: [job.shape(each) for job, each in zip(jobs, predictions, strict=True)], share=share
        )
