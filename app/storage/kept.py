"""Where embeddings outlive the process: in a bucket, in a folder, or nowhere; and what of it waits to be removed.

Does not know about image names.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.storage.disk_trouble import DiskTrouble
from app.storage.embedding_files import EmbeddingFiles
from app.storage.embedding_objects import EmbeddingObjects
from app.storage.kept_embeddings import KeptEmbeddings
from app.storage.removals import Removals
from app.storage.tiers import CLOSE_S
from app.storage.written import WhileNamed

if TYPE_CHECKING:  # it imports boto3
    from app.storage.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Kept:
    """Embeddings and uploads of one model. A folder removes at once, and has no `removals`."""

    files: KeptEmbeddings | None = None
    trouble: DiskTrouble | None = None
    removals: Removals | None = None

    @classmethod
    def in_place(
        cls,
        bucket: "Bucket | None",
        folder: Path | None,
        *,
        fingerprint: str,
        capacity_bytes: int,
        trouble: DiskTrouble | None,
        on_evict: Callable[[], None],
    ) -> Self:
        """Return those of a bucket or, without one, of a folder, whose trouble is reported to `trouble`."""
        if bucket is not None:
            objects = EmbeddingObjects(
                bucket,
                fingerprint=fingerprint,
                capacity_bytes=capacity_bytes,
                on_evict=on_evict,
            )
            return cls(objects, bucket.trouble, objects.removals)
        if folder is None or trouble is None:
            return cls()
        files = EmbeddingFiles(
            folder,
            fingerprint=fingerprint,
            capacity_bytes=capacity_bytes,
            trouble=trouble,
            on_evict=on_evict,
        )
        return cls(files, trouble)

    async def wait_removed(self, contents: Collection[str]) -> None:
        """Wait until it has been tried to remove these contents, for at most removals.WAIT_S."""
        if self.removals is not None:
            await self.removals.wait(contents)

    def spare_named(self, while_named: WhileNamed) -> None:
        """Remove nothing from a bucket that has a name when its turn has come. Call it on the event loop."""
        if self.removals is not None:
            self.removals.spare_named(while_named)

    async def was_lost(self) -> bool:
        """Whether somebody has removed the folder since the last call. A bucket has no folder."""
        return isinstance(self.files, EmbeddingFiles) and await asyncio.to_thread(self.files.were_removed)

    def retry_removals(self) -> None:
        """Remove what a bucket that failed still has."""
        if self.removals is not None:
            self.removals.retry()

    async def close(self) -> None:
        """Finish what is being removed, for at most CLOSE_S."""
        if (removals := self.removals) is not None:
            await asyncio.to_thread(lambda: removals.close(patience_s=CLOSE_S))
