"""Embeddings and uploaded pictures as objects of a bucket, limited in bytes. An object is whole or does not exist.

    embeddings/FINGERPRINT/CONTENT.safetensors
    uploads/CONTENT

Many servers share the bucket. It has no rename: an object can be seen before it is known that its content has a
name, and is removed if it has none. It has no time of last use either, and writing one could bring back what
another server deletes: those written first go first. Everything here is slow and belongs in worker threads.
Does not know about image names.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from app.storage.removals import Removals
from app.storage.surplus import surplus
from model.checkpoints.embedding_bytes import BrokenEmbedding, from_bytes, to_bytes
from model.types import Embedding

if TYPE_CHECKING:  # it imports boto3
    from app.storage.bucket import Bucket

log = logging.getLogger(__name__)

RESCAN_S = 300.0
"""Seconds between two listings, which count the objects of other servers too. One request for 1000 objects."""

FEW = 16
"""Contents that are looked up one by one; for more, a listing is cheaper."""

LOOK_S = 10.0
"""Least seconds between two listings for that: of many objects each takes seconds, and many clients may ask."""

_EMBEDDINGS, _UPLOADS, _SUFFIX = "embeddings/", "uploads/", ".safetensors"


@dataclass(frozen=True, slots=True)
class InPlace:
    """An object that was just written, and can be seen already."""

    bucket: "Bucket"
    key: str
    content: str
    removals: Removals

    def appear(self) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing: the bucket has it."""

    def discard(self) -> None:
        """Remove it, later if the bucket fails now."""
        try:
            self.bucket.delete(self.key)
        except OSError:
            self.removals.add(self.content, at_once=False)


class EmbeddingObjects:
    """The objects of one model in a bucket. Objects of other models are only counted, and are removed first.

    Beyond `capacity_bytes` those written first are removed, in the order of surplus.py.
    """

    readers = 8
    writers = 4

    def __init__(
        self,
        bucket: "Bucket",
        *,
        fingerprint: str,
        capacity_bytes: int,
        on_evict: Callable[[], None],
    ) -> None:
        self._bucket = bucket
        self._fingerprint = fingerprint
        self._mine = f"{_EMBEDDINGS}{fingerprint[:32]}/"
        self._capacity_bytes = capacity_bytes
        self._trouble = bucket.trouble
        self._on_evict = on_evict
        self.removals = Removals(self._remove, bucket.trouble)
        self.used_bytes = self.num_embeddings = 0
        """Counts of the last listing plus the writes since then. The bytes include uploads."""
        self._lock = threading.Lock()
        self._known = set[str]()  # contents with an embedding of this model, as of the last listing and since
        self._fresh = set[str]()  # those of them that were written since the last listing began
        self._listing = threading.Lock()
        self._looked = float("-inf")

    def read(self, content: str) -> Embedding | None:
        """Return the embedding of a content; None if there is none. A broken object is logged and removed."""
        key = self._embedding_key(content)
        data = self._read(key)
        if data is None:
            return None
        try:
            return from_bytes(data, self._note(content))
        except BrokenEmbedding as error:
            self._remove_broken(key, str(error))
            return None

    def read_upload(self, content: str) -> bytes | None:
        """Return the picture file of a content, which begins with the file's SHA-256 (names.py)."""
        key = _UPLOADS + content
        data = self._read(key)
        if data is not None and hashlib.sha256(data).hexdigest() != content[:64]:
            self._remove_broken(key, "its SHA-256 does not match its name")
            return None
        return data

    def write_beside(self, content: str, embedding: Embedding) -> InPlace | None:
        """Write an embedding; None if it already exists. Raises OSError."""
        return self._write(
            self._embedding_key(content),
            content,
            lambda: to_bytes(embedding.to_host(), self._note(content)),
        )

    def write_upload_beside(self, content: str, upload: bytes) -> InPlace | None:
        """Write a picture file; None if it already exists. Raises OSError."""
        return self._write(_UPLOADS + content, content, lambda: upload)

    def remove(self, content: str) -> None:
        """Remove the upload and the embeddings of every model, in the background. A failure is logged."""
        self.removals.add(content)

    def held(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have an embedding here, as far as the bucket answers."""
        unknown = set(contents) - self._known
        try:
            if len(unknown) <= FEW:
                found = {each for each in unknown if self._bucket.exists(self._embedding_key(each))}
                with self._lock:
                    self._known |= found
            elif monotonic() - self._looked >= LOOK_S:
                self._look()
        except OSError as error:
            self._trouble.report("the bucket cannot be listed", error)
        return {content for content in contents if content in self._known}

    def touch(self, contents: Collection[str]) -> None:
        """Do nothing: an object has no time of last use."""

    def trim(self) -> None:
        """Remove objects beyond the capacity. Lists the bucket only if it may be full, or after RESCAN_S."""
        is_due = monotonic() - self._looked >= RESCAN_S or self.used_bytes > self._capacity_bytes
        if not is_due or self._bucket.is_paused:
            return
        try:
            self._look()
        except OSError as error:
            self._trouble.report("old objects cannot be removed", error)

    def _look(self) -> None:
        """List the objects, and remove those beyond the capacity. Raises OSError."""
        if not self._listing.acquire(blocking=False):
            return  # another thread does
        try:
            with self._lock:
                self._looked = monotonic()
                self._fresh.clear()
            uploads, embeddings = self._bucket.listing(_UPLOADS), self._bucket.listing(_EMBEDDINGS)
            mine = [each for each in embeddings if each.key.startswith(self._mine)]
            others = [each for each in embeddings if not each.key.startswith(self._mine)]
            going = surplus(uploads, mine, others, capacity_bytes=self._capacity_bytes)
            gone = {each.key for each in going}
            with self._lock:
                self._known = self._fresh | {
                    each.key.removeprefix(self._mine).removesuffix(_SUFFIX)
                    for each in mine
                    if each.key not in gone
                }
            self.used_bytes = sum(each.size for each in (*uploads, *embeddings))
            self.num_embeddings = len(embeddings)
            for each in going:
                self._bucket.delete(each.key)
                self.used_bytes -= each.size
                if each.key.endswith(_SUFFIX):
                    self.num_embeddings -= 1
                    self._on_evict()
        finally:
            self._listing.release()

    def _remove(self, content: str) -> None:
        """Remove all objects of a content. Raises OSError."""
        with self._lock:
            self._known.discard(content)
            self._fresh.discard(content)
        self._bucket.delete(_UPLOADS + content)
        for folder in self._bucket.folders(_EMBEDDINGS):
            self._bucket.delete(f"{folder}{content}{_SUFFIX}")

    def _write(self, key: str, content: str, make: Callable[[], bytes]) -> InPlace | None:
        # What was deleted a moment ago must not be taken for what is written now.
        self.removals.complete(content)
        if self._bucket.exists(key):
            return None
        data = make()
        self._bucket.put(key, data)
        with self._lock:
            self.used_bytes += len(data)
            if key.endswith(_SUFFIX):
                self.num_embeddings += 1
                self._known.add(content)
                self._fresh.add(content)
        return InPlace(self._bucket, key, content, self.removals)

    def _embedding_key(self, content: str) -> str:
        return f"{self._mine}{content}{_SUFFIX}"

    def _note(self, content: str) -> dict[str, str]:
        return {"content": content, "fingerprint": self._fingerprint}

    def _read(self, key: str) -> bytes | None:
        try:
            return self._bucket.get(key)
        except OSError as error:
            self._trouble.report(f"{key} cannot be read", error)
            return None

    def _remove_broken(self, key: str, why: str) -> None:
        log.error("Removing %s/%s and continuing without it: %s.", self._bucket.url, key, why)
        try:
            self._bucket.delete(key)
        except OSError as error:
            self._trouble.report(f"{key} cannot be removed", error)
