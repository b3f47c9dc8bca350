"""Embeddings in one kind of memory. The least recently used is evicted first.

Does not know where they go.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator

from model.types import Embedding

log = logging.getLogger(__name__)


class MemoryTier:
    """Embeddings within `capacity_bytes`. The newest is kept even if it alone is larger."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._embeddings: OrderedDict[str, Embedding] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        """The number of embeddings held."""
        return len(self._embeddings)

    def __contains__(self, content: object) -> bool:
        """Whether a content is held. Does not count as a use."""
        return content in self._embeddings

    def __iter__(self) -> Iterator[str]:
        """Iterate over contents, least recently used first."""
        return iter(self._embeddings)

    def peek(self, content: str) -> Embedding | None:
        """Return an embedding, or None. Does not count as a use."""
        return self._embeddings.get(content)

    def get(self, content: str) -> Embedding | None:
        """Return an embedding, or None. Counts as a use."""
        embedding = self._embeddings.get(content)
        if embedding is not None:
            self._embeddings.move_to_end(content)
        return embedding

    def add(self, content: str, embedding: Embedding) -> list[tuple[str, Embedding]]:
        """Add an embedding. Returns the evicted ones, coldest first."""
        self.pop(content)
        self._embeddings[content] = embedding
        self.used_bytes += embedding.nbytes
        evicted = []
        while self.used_bytes > self.capacity_bytes and len(self._embeddings) > 1:
            evicted.append(self.pop_coldest())
        return evicted

    def pop(self, content: str) -> Embedding | None:
        """Remove and return an embedding, or None."""
        embedding = self._embeddings.pop(content, None)
        if embedding is not None:
            self.used_bytes -= embedding.nbytes
        return embedding

    def pop_coldest(self) -> tuple[str, Embedding]:
        """Remove and return the least recently used embedding. Raises KeyError if none is held."""
        content, embedding = self._embeddings.popitem(last=False)
        self.used_bytes -= embedding.nbytes
        return content, embedding


def to_host(embedding: Embedding) -> Embedding | None:
    """Copy an embedding to host memory; None, and a word in the log, where the host has no memory for it."""
    try:
        return embedding.to_host()
    except (RuntimeError, MemoryError) as error:
        log.error("An embedding could not be moved to host memory, and is evicted: %s", error)
        return None
