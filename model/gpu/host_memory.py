"""Host memory for copies from and to a device: blocks that are taken once, and used again and again.

Does not know what kind of memory it is. Copies are asynchronous only to and from pinned memory, and torch's
allocator for that has two traits that do not suit a server. It never gives memory back. And a block that a thread
frees has an event recorded on every stream that copied to it: if that stream is being captured at that moment,
the next allocation fails (tests/bench/probes/race_probe.py). So nothing is freed here before the end.
"""

import logging
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from math import prod

import torch
from torch import Tensor

from model.gpu.device import Mark

log = logging.getLogger(__name__)

SMALLEST_BLOCK = 4096
MOST_RESULT_BYTES = 256 * 2**20
"""Four of the largest results, of 64 prompts with three masks each, and many small ones. A slow client may hold any
number of them: the rest goes to ordinary memory."""

PIECE_BYTES = 8 * 2**20
"""A picture of 2 megapixels is one piece. Copying a piece within the host takes about as long as to the device."""


class BlockSource:
    """Takes new blocks by `allocate`, until that raises RuntimeError: then says so, once, and gives no more."""

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        """`allocate` makes a number of bytes a tensor (bytes,), uint8."""
        self._allocate: Callable[[int], Tensor] | None = allocate

    def take(self, nbytes: int) -> Tensor | None:
        """A new block, or None."""
        if self._allocate is None:
            return None
        try:
            return self._allocate(nbytes)
        except RuntimeError as error:
            self._allocate = None
            log.warning(
                "The system gives no more pinned memory; copies to and from the GPU are slower. %s", error
            )
            return None


class ResultBlocks:
    """Memory for results, of which threads hold views for as long as they like. Blocks are powers of two."""

    def __init__(self, source: BlockSource, *, most_bytes: int = MOST_RESULT_BYTES) -> None:
        self._source = source
        self._left_bytes = most_bytes
        # A deque's operations are atomic, and results are dropped on any thread.
        self._free: defaultdict[int, deque[Tensor]] = defaultdict(deque)

    def lend(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor whose block is free again once it and all its views, NumPy's too, are dropped.

        In ordinary memory, to which copies are slower, where no block is left.
        """
        nbytes = prod(shape) * dtype.itemsize
        block = self._take(1 << (max(nbytes, SMALLEST_BLOCK) - 1).bit_length())
        if block is None:
            return torch.empty(shape, dtype=dtype)
        owner = block.numpy()  # a new object each time, on which every view depends
        weakref.finalize(owner, self._free[len(block)].append, block).atexit = False
        return torch.from_numpy(owner[:nbytes]).view(dtype).view(shape)

    def _take(self, size: int) -> Tensor | None:
        """A free block of `size` bytes, a new one, or a larger one."""
        for fitting in (size, None, *sorted(self._free)):
            if fitting is None:
                if (block := self._new(size)) is not None:
                    return block
            elif fitting >= size and self._free[fitting]:
                return self._free[fitting].pop()
        return None

    def _new(self, size: int) -> Tensor | None:
        block = self._source.take(size) if size <= self._left_bytes else None
        self._left_bytes -= size if block is not None else 0
        return block


class Staging:
    """Two blocks through which uploads of one stream go, piece by piece. For one thread."""

    def __init__(self, source: BlockSource, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._source = source
        self._piece_bytes = piece_bytes
        self._blocks: deque[tuple[Tensor, Mark | None]] = deque()

    def pieces(
        self, array: Tensor, into: Tensor, mark: Callable[[], Mark]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of bytes, staged and where to, that are the contents of a contiguous `array` and their places.

        The caller launches a copy of each before it asks for the next; `mark` returns a mark behind that copy.
        """
        sources = array.reshape(-1).view(torch.uint8).split(self._piece_bytes)
        targets = into.view(-1).view(torch.uint8).split(self._piece_bytes)
        for source, target in zip(sources, targets, strict=True):
            block, copied = self._blocks.popleft() if len(self._blocks) == 2 else (self._new(), None)
            if copied is not None:
                copied.wait()
            staged = block[: len(source)].copy_(source)
            yield staged, target
            self._blocks.append((block, mark()))

    def _new(self) -> Tensor:
        block = self._source.take(self._piece_bytes)
        return block if block is not None else torch.empty(self._piece_bytes, dtype=torch.uint8)
