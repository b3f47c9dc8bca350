"""Attention of thousands of queries to tens of thousands of keys, with one head, block by block in float32.

FlashAttention (arXiv 2205.14135) by plain products. Values may be narrower than keys, which PyTorch's kernel does
not allow. Exponentials are taken of the scores as they are; where that overflows, which takes scores above 80,
relative to the largest score. They are powers of two, because PyTorch takes twice as long for those of e. Knows
nothing of frames and memories.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.cpu.apart import divided, run_apart
from model.cpu.products import plus_times, times

QUERIES, KEYS = 512, 512
"""In a block: their scores, 1 MiB, stay in a core's cache."""

PAUSE = 4
"""Blocks between two calls of `between`: 6 ms in float32 on one core."""

LEAST_TOTAL = 1e-30
"""The sum of exponentials must be larger: far below, float32 loses digits."""

LOG2_E = math.log2(math.e)
"""A query's scores times this, so that two to their power is e to the power of the scores."""

_Between = Callable[[], None]


def attend(q: Tensor, k: Tensor, values: Tensor, between: _Between) -> Tensor:
    """From q (n, c) to k (m, c) and values (m, d): (n, d). All float32."""
    q = q * (LOG2_E * q.shape[1] ** -0.5)
    parts = divided(len(q), _blocks(len(q)))
    return torch.cat(run_apart([partial(_attend_some, q[part], k, values) for part in parts], between))


def _blocks(count: int) -> int:
    """So many blocks of queries that all threads have as many, but for those of a small map."""
    threads = torch.get_num_threads() if count > QUERIES else 1
    return threads * -(-count // (threads * QUERIES))


def _attend_some(q: Tensor, k: Tensor, values: Tensor, between: _Between) -> Tensor:
    sums, totals = q.new_zeros(len(q), values.shape[1]), q.new_zeros(len(q), 1)
    for i, (keys, block) in enumerate(zip(k.split(KEYS), values.split(KEYS), strict=True)):
        weights = times(q, keys).exp2_()
        totals += weights.sum(1, keepdim=True)
        sums = plus_times(sums, weights, block.T)
        if i % PAUSE == PAUSE - 1:
            between()
    between()
    if is_sound(sums, totals):
        return sums.div_(totals)
    return attend_relatively(q, k, values, between)


def is_sound(sums: Tensor, totals: Tensor) -> bool:
    """Whether sums of exponentials, and of values weighted by them, are within what float32 can say."""
    return bool(totals.amin() > LEAST_TOTAL and totals.isfinite().all() and sums.isfinite().all())


def attend_relatively(q: Tensor, k: Tensor, values: Tensor, between: _Between) -> Tensor:
    """The same for scores of any size, for few q, which are scaled already, times LOG2_E."""
    most = q.new_full((len(q), 1), -torch.inf)
    sums, totals = q.new_zeros(len(q), values.shape[1]), q.new_zeros(len(q), 1)
    for i, (keys, block) in enumerate(zip(k.split(KEYS), values.split(KEYS), strict=True)):
        scores = times(q, keys)
        higher = torch.maximum(most, scores.amax(1, keepdim=True))
        weights, fade = scores.sub_(higher).exp2_(), (most - higher).exp2_()
        totals.mul_(fade).add_(weights.sum(1, keepdim=True))
        sums = plus_times(sums.mul_(fade), weights, block.T)
        most = higher
        if i % PAUSE == PAUSE - 1:
            between()
    return sums.div_(totals)
