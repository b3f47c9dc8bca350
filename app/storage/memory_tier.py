"""Embeddings in one kind of memory, least recently used out first.

Knows nothing of where they go.
"""

from collections import OrderedDict
from collections.abc import Iterator

from model.types import Embedding


class MemoryTier:
    """Embeddings within `capacity_bytes`; the newest is kept even where it alone is larger."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._embeddings: OrderedDict[str, Embedding] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        """Embeddings held."""
        return len(self._embeddings)

    def __contains__(self, content: object) -> bool:
        """Whether a content is held; not a use of it."""
        return content in self._embeddings

    def __iter__(self) -> Iterator[str]:
        """Contents, least recently used first."""
        return iter(self._embeddings)

    def peek(self, content: str) -> Embedding | None:
        """What is held; not a use of it."""
        return self._embeddings.get(content)

    def get(self, content: str) -> Embedding | None:
        """What is held; a use of it."""
        embedding = self._embeddings.get(content)
        if embedding is not None:
            self._embeddings.move_to_end(content)
        return embedding

    def add(self, content: str, embedding: Embedding) -> list[tuple[str, Embedding]]:
        """Hold an embedding. What has to give way for it, coldest first."""
        self.pop(content)
        self._embeddings[content] = embedding
        self.used_bytes += embedding.nbytes
        evicted = []
        while self.used_bytes > self.capacity_bytes and len(self._embeddings) > 1:
            evicted.append(self.pop_coldest())
        return evicted

    def pop(self, content: str) -> Embedding | None:
        """Hold it no more."""
        embedding = self._embeddings.pop(content, None)
        if embedding is not None:
            self.used_bytes -= embedding.nbytes
        return embedding

    def pop_coldest(self) -> tuple[str, Embedding]:
        """Let the least recently used go. Raises KeyError where nothing is held."""
        content, embedding = self._embeddings.popitem(last=False)
        self.used_bytes -= embedding.nbytes
        return content, embedding
