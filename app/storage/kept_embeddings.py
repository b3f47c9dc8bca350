"""What the tiers ask of the slowest one, whether it is a folder or a bucket.

Does not know how either works.
"""

from collections.abc import Collection
from typing import Protocol

from app.storage.written import Written
from model.types import Embedding


class KeptEmbeddings(Protocol):
    """Embeddings and uploads by content. Slow: every method belongs in worker threads, and any may call it."""

    used_bytes: int
    num_embeddings: int
    readers: int
    """Reads that are worth doing at once."""
    writers: int
    """Writes that are worth doing at once."""

    def read(self, content: str) -> Embedding | None:
        """Return the embedding of a content; None if there is none or it cannot be read."""

    def read_upload(self, content: str) -> bytes | None:
        """Return the picture file of a content; None if there is none or it cannot be read."""

    def write_beside(self, content: str, embedding: Embedding) -> Written | None:
        """Write an embedding; None if it already exists. Raises OSError."""

    def write_upload_beside(self, content: str, upload: bytes) -> Written | None:
        """Write a picture file; None if it already exists. Raises OSError."""

    def remove(self, content: str) -> None:
        """Remove the upload and the embeddings of every model, soon. A failure is logged."""

    def held(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have an embedding here."""

    def touch(self, contents: Collection[str]) -> None:
        """Record a use of each content that is here."""

    def trim(self) -> None:
        """Remove what is beyond the capacity."""
