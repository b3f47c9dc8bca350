"""Batches of mixed prompts: those of one kind share forwards, and each prediction is finished in its place.

Does not know what makes a kind, or how prompts are decoded.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from model.types import Embedding, Prediction, Prompt

T = TypeVar("T")
Jobs: TypeAlias = Sequence[tuple[Embedding, Prompt]]
Finish: TypeAlias = Callable[[int, Prediction], T]
"""Gets the place of a job among its jobs, and the prediction for it."""


def in_groups(
    jobs: Jobs, kinds: Sequence[Hashable], run: Callable[[Jobs, Finish[T]], list[T]], finish: Finish[T]
) -> list[T]:
    """Run the jobs of each kind together. Return what `finish` returns for each, in order."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        groups[kind].append(place)
    results: dict[int, T] = {}
    for places in groups.values():
        done = run([jobs[place] for place in places], partial(_finish_at, places, finish))
        results.update(zip(places, done, strict=True))
    return [results[place] for place in range(len(jobs))]


def in_chunks(
    jobs: Jobs,
    decode_alike: Callable[[Jobs], list[Prediction]],
    finish: Finish[T],
    *,
    most: int,
    pause: Callable[[], None],
) -> list[T]:
    """Decode at most so many jobs at once, and pause before each time."""
    results: list[T] = []
    for start in range(0, len(jobs), most):
        pause()
        predictions = enumerate(decode_alike(jobs[start : start + most]), start)
        results += [finish(place, prediction) for place, prediction in predictions]
    return results


def as_it_is(_: int, prediction: Prediction) -> Prediction:
    """Finish a prediction that is wanted unchanged."""
    return prediction


def _finish_at(places: Sequence[int], finish: Finish[T], place: int, prediction: Prediction) -> T:
    return finish(places[place], prediction)
