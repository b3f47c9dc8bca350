"""Embeddings by image id, least recently used out first.

Embeddings are kept by content, the SHA-256 of the uploaded bytes; an image id is a name for a content, so two names
of one picture share one embedding. Everything here runs on the event loop. Asynchronous where tiers below memory
will read and write files. Knows nothing of HTTP and of how embeddings are made.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import ImageIdConflict, ImageNotFound
from model.types import Embedding


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is known of a stored picture under one of its names."""

    image_id: str
    content: str
    height: int
    width: int
    nbytes: int
    created: float
    """Seconds since 1970, when this name was given."""
    used: float
    """Seconds since 1970, when the embedding was last asked for under any name."""
    tiers: tuple[str, ...]


@dataclass(slots=True)
class _Entry:
    embedding: Embedding
    used: float
    names: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Name:
    content: str
    created: float


class EmbeddingStore:
    """Bounded by `capacity_bytes`; the newest embedding is kept even where it alone is larger.

    A content that is evicted takes its names with it: what is asked for afterwards is not found, and can be
    embedded again. `on_evict` is told of each, `on_hit` of each use.
    """

    def __init__(
        self, *, capacity_bytes: int, on_hit: Callable[[], None], on_evict: Callable[[], None]
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._on_hit = on_hit
        self._on_evict = on_evict
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # by content, least recently used first
        self._names: dict[str, _Name] = {}  # by image id, oldest first

    def __len__(self) -> int:
        """Embeddings held."""
        return len(self._entries)

    async def find(self, content: str) -> Embedding | None:
        """The embedding of a content, which counts as a use of it."""
        entry = self._entries.get(content)
        if entry is None:
            return None
        entry.used = time.time()
        self._entries.move_to_end(content)
        self._on_hit()
        return entry.embedding

    async def get(self, image_id: str) -> Embedding:
        """The embedding that an image id names. Raises ImageNotFound."""
        name = self._names.get(image_id)
        embedding = await self.find(name.content) if name is not None else None
        if embedding is None:
            raise ImageNotFound.for_id(image_id)
        return embedding

    async def put(self, content: str, embedding: Embedding) -> None:
        """Keep an embedding; it must be given a name before anyone can ask for it."""
        self._forget(content)
        self._entries[content] = _Entry(embedding, used=time.time())
        self.used_bytes += embedding.nbytes
        while self.used_bytes > self.capacity_bytes and len(self._entries) > 1:
            self._forget(next(iter(self._entries)))
            self._on_evict()

    def shed(self, share: float) -> int:
        """Forget the coldest embeddings, at least `share` (0..1) of all bytes; how many they were."""
        left, before = (1 - share) * self.used_bytes, len(self._entries)
        while self._entries and self.used_bytes > left:
            self._forget(next(iter(self._entries)))
            self._on_evict()
        return before - len(self._entries)

    def check_name(self, image_id: str, content: str, *, replace: bool) -> None:
        """Raise ImageIdConflict where the id names another content and may not be replaced."""
        name = self._names.get(image_id)
        if name is not None and name.content != content and not replace:
            raise ImageIdConflict(
                f"image_id {image_id!r} already names another picture. Use another id, or send replace=true."
            )

    async def give_name(self, image_id: str, content: str, *, replace: bool) -> bool:
        """Let an image id name a content; false where the content is not held any more.

        Raises ImageIdConflict as `check_name` does.
        """
        self.check_name(image_id, content, replace=replace)
        entry = self._entries.get(content)
        if entry is None:
            return False
        name = self._names.get(image_id)
        if name is None or name.content != content:
            self._drop_name(image_id)
            entry.used = time.time()
            self._names[image_id] = _Name(content, created=entry.used)
            entry.names.add(image_id)
        return True

    async def delete(self, image_id: str) -> None:
        """Forget a name, and the embedding where it was the last one."""
        self._drop_name(image_id)

    async def describe(self, image_id: str) -> ImageRecord:
        """What is known of a picture; not a use of it. Raises ImageNotFound."""
        if image_id not in self._names:
            raise ImageNotFound.for_id(image_id)
        return self._record(image_id)

    async def describe_all(self, *, limit: int, after: str | None) -> list[ImageRecord]:
        """At most `limit` pictures, newest name first, those that follow `after`. Raises ImageNotFound."""
        newest_first = list(reversed(self._names))
        start = 0
        if after is not None:
            if after not in self._names:
                raise ImageNotFound(f"after={after!r} names no stored picture; start again without it.")
            start = newest_first.index(after) + 1
        return [self._record(image_id) for image_id in newest_first[start : start + limit]]

    def _record(self, image_id: str) -> ImageRecord:
        name = self._names[image_id]
        entry = self._entries[name.content]
        return ImageRecord(
            image_id=image_id,
            content=name.content,
            height=entry.embedding.height,
            width=entry.embedding.width,
            nbytes=entry.embedding.nbytes,
            created=name.created,
            used=entry.used,
            tiers=("device",),
        )

    def _forget(self, content: str) -> None:
        entry = self._entries.pop(content, None)
        if entry is not None:
            self.used_bytes -= entry.embedding.nbytes
            for image_id in entry.names:
                del self._names[image_id]

    def _drop_name(self, image_id: str) -> None:
        name = self._names.pop(image_id, None)
        if name is not None:
            names = self._entries[name.content].names
            names.discard(image_id)
            if not names:
                self._forget(name.content)
