"""A folder and a bucket to keep embeddings in, alike for tests. Does not know what is tested."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from app.storage.bucket import Bucket
from app.storage.disk_trouble import DiskTrouble
from app.storage.embedding_files import EmbeddingFiles
from app.storage.embedding_objects import EmbeddingObjects
from app.storage.kept_embeddings import KeptEmbeddings
from model.types import Embedding

MODEL = "1" * 64


@dataclass
class Folder:
    """A folder."""

    folder: Path
    kind = EmbeddingFiles
    name = "SAM2_CACHE_DIR"

    def kept(
        self,
        *,
        fingerprint: str = MODEL,
        capacity: int = 2**20,
        on_evict: Callable[[], None] = lambda: None,
    ) -> EmbeddingFiles:
        """Return the files of a model."""
        return EmbeddingFiles(
            self.folder,
            fingerprint=fingerprint,
            capacity_bytes=capacity,
            trouble=DiskTrouble(self.folder),
            on_evict=on_evict,
        )

    def files(self) -> list[Path]:
        """Return all files."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    @staticmethod
    def grow_old(path: Path, seconds: float) -> None:
        """Make a file as old as that."""
        os.utime(path, (time.time() - seconds, time.time() - seconds))

    @staticmethod
    def damage(path: Path, data: bytes) -> None:
        """Give a file another content."""
        path.write_bytes(data)

    def close(self) -> None:
        """Do nothing."""


@dataclass
class InBucket:
    """A bucket, whose objects are files that a test may damage."""

    bucket: Bucket
    files: Callable[[], list[Path]]
    grow_old: Callable[[Path, float], None]
    kind = EmbeddingObjects
    name = "SAM2_CACHE_URL"
    made: list[EmbeddingObjects] = field(default_factory=list)

    def kept(
        self,
        *,
        fingerprint: str = MODEL,
        capacity: int = 2**20,
        on_evict: Callable[[], None] = lambda: None,
    ) -> EmbeddingObjects:
        """Return the objects of a model."""
        kept = EmbeddingObjects(
            self.bucket,
            fingerprint=fingerprint,
            capacity_bytes=capacity,
            on_evict=on_evict,
        )
        self.made.append(kept)
        return kept

    def damage(self, path: Path, data: bytes) -> None:
        """Give an object another content, of which the store knows the length."""
        path.write_bytes(data)
        self.grow_old(path, 0)

    def close(self) -> None:
        """End the threads that remove."""
        for each in self.made:
            each.removals.close(patience_s=20)


Place = Folder | InBucket


def embedding(value: float = 1.0, *, cells: int = 4) -> Embedding:
    """An embedding of `cells` * 128 bytes with one value."""
    rows = torch.full((cells, 8), value)
    return Embedding(rows, torch.zeros(cells, 4, 2), torch.zeros(cells, 4, 4, 1), (), height=40, width=60)


def write(files: KeptEmbeddings, content: str, value: float = 1.0, *, cells: int = 4) -> None:
    """Write an embedding."""
    made = files.write_beside(content, embedding(value, cells=cells))
    assert made is not None
    made.appear()
    made.settle()
