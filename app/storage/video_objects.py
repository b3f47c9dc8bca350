"""Video files as objects `videos/CONTENT` of a bucket. Those written first go first.

Everything here is slow and belongs in worker threads. Does not know about the names of videos.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from app.storage.embedding_objects import InPlace
from app.storage.removals import Removals

if TYPE_CHECKING:  # it imports boto3
    from app.storage.bucket import Bucket

log = logging.getLogger(__name__)

USE_S = 60.0
"""Seconds for which a video that was there counts as there: each frame asks, and asking takes a request."""

_VIDEOS = "videos/"


class VideoObjects:
    """The videos of a bucket. Any thread may call it."""

    def __init__(self, bucket: "Bucket") -> None:
        self._bucket, self._trouble = bucket, bucket.trouble
        self.removals = Removals(self._remove, bucket.trouble)
        self._seen: dict[str, float] = {}

    def use(self, content: str) -> bool:
        """Return whether a file is there. True if the bucket fails, because a copy may be open."""
        if monotonic() - self._seen.get(content, -USE_S) < USE_S:
            return True
        try:
            is_there = self._bucket.exists(_VIDEOS + content)
        except OSError as error:
            self._trouble.report("the bucket cannot be asked for a video", error)
            return True
        if is_there:
            self._seen[content] = monotonic()
        else:
            self._seen.pop(content, None)
        return is_there

    def open(self, content: str) -> BinaryIO | None:
        """Open a copy on the local disk, which its close removes; None if there is no file. Raises OSError."""
        key = _VIDEOS + content
        copy = tempfile.TemporaryFile(prefix="sam2-video-")  # noqa: SIM115  # the caller closes it
        try:
            if self._bucket.download(key, copy):
                copy.seek(0)
                if hashlib.file_digest(copy, "sha256").hexdigest() == content[:64]:
                    copy.seek(0)
                    return copy
                log.error("Removing %s/%s: its SHA-256 does not match its name.", self._bucket.url, key)
                self._bucket.delete(key)
        except BaseException:
            copy.close()
            raise
        copy.close()
        return None

    def write_beside(self, content: str, data: bytes) -> InPlace | None:
        """Write a file; None if it is there already. Raises OSError."""
        self.removals.complete(content)
        if self._bucket.exists(_VIDEOS + content):
            return None
        self._bucket.put(_VIDEOS + content, data)
        return InPlace(self._bucket, _VIDEOS + content, content, self.removals)

    def remove(self, content: str) -> None:
        """Remove a file in the background. A failure is logged."""
        self.removals.add(content)

    def trim(self, capacity_bytes: int, on_evict: Callable[[str], None]) -> int:
        """Remove files beyond the capacity. Returns the bytes of the others. Raises OSError."""
        now = monotonic()
        self._seen = {content: seen for content, seen in self._seen.copy().items() if now - seen < USE_S}
        found = self._bucket.listing(_VIDEOS)
        used = sum(each.size for each in found)
        for each in found[:-1]:  # the newest stays, even if it alone is larger
            if used <= capacity_bytes:
                break
            self._bucket.delete(each.key)
            content = each.key.removeprefix(_VIDEOS)
            self._seen.pop(content, None)
            on_evict(content)
            used -= each.size
        return used

    def _remove(self, content: str) -> None:
        self._seen.pop(content, None)
        self._bucket.delete(_VIDEOS + content)
