"""Prompts of a search shared out among the cores: some at a time to begin with, then one at a time.

Not all prompts have masks, so what remains of a prompt once that is known goes to whichever core is free. Does not
know what is computed.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import torch

from model.cpu.apart import Between, Task, divided, run_all
from model.types import Embedding, Prediction, Prompt

T = TypeVar("T")
Jobs: TypeAlias = Sequence[tuple[Embedding, Prompt]]

TOGETHER = 4
"""Prompts whose tokens share operations: these are short, and one prompt's take a sixth of its time. What is known
of each prompt takes 2 MiB until its masks are drawn."""


def share_out(
    jobs: Jobs,
    begin: Callable[[Jobs, Between], list[Callable[[], Prediction]]],
    finish: Callable[[int, Prediction], T],
    *,
    between: Between,
) -> list[T]:
    """Return what `finish` makes of each prompt's place and prediction, in order.

    `begin` returns for each of some prompts what completes its prediction. All run on any thread.
    """
    results: dict[int, T] = {}

    def complete(place: int, predict: Callable[[], Prediction], pause: Between) -> Iterable[Task]:
        pause()
        results[place] = finish(place, predict())
        return ()

    def begin_some(places: range, pause: Between) -> Iterable[Task]:
        some = begin([jobs[place] for place in places], pause)
        return [partial(complete, place, predict) for place, predict in zip(places, some, strict=True)]

    threads = torch.get_num_threads()
    parts = threads * -(-len(jobs) // (threads * TOGETHER))
    run_all([partial(begin_some, range(len(jobs))[part]) for part in divided(len(jobs), parts)], between)
    return [results[place] for place in range(len(jobs))]
