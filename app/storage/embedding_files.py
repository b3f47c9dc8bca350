"""Embeddings and uploaded pictures as files in one folder, limited in bytes. A file is whole or does not exist.

    embeddings/FINGERPRINT/CONTENT.safetensors
    uploads/CONTENT

Several servers may share the folder. Everything here is slow and belongs in worker threads. Does not know about
image names.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from app.storage.disk_trouble import DiskTrouble
from app.storage.staged_file import StagedFile, is_partial, is_stale
from app.storage.surplus import surplus
from model.checkpoints.embedding_bytes import BrokenEmbedding, from_bytes, to_bytes
from model.types import Embedding

log = logging.getLogger(__name__)

RESCAN_S = 60.0
"""Seconds between two scans of the folder, which count the files of other servers too."""

_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    used: float


class EmbeddingFiles:
    """The files of one model in a folder. Files of other models are only counted, and are removed first.

    A file's modification time is its last use. Beyond `capacity_bytes` the least recently used files are removed,
    in the order of surplus.py.
    """

    readers = 2
    writers = 1

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        capacity_bytes: int,
        trouble: DiskTrouble,
        on_evict: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._embeddings, self._uploads = folder / "embeddings", folder / "uploads"
        self._fingerprint = fingerprint
        self._mine = self._embeddings / fingerprint[:32]
        self._capacity_bytes = capacity_bytes
        self._trouble = trouble
        self._on_evict = on_evict
        self.used_bytes = self.num_embeddings = 0
        """Counts of the last scan plus the writes since then. The bytes include uploads."""
        self._looked = 0.0
        self._inode, self._is_lost = 0, False
        self._unreadable = set[Path]()
        """Files that are there and could not be read: who has what they should hold writes them anew."""

    def read(self, content: str) -> Embedding | None:
        """Return the embedding of a content; None if there is none. A broken file is logged and removed."""
        path = self._embedding_path(content)
        data = self._read(path)
        if data is None:
            return None
        try:
            return from_bytes(data, self._note(content))
        except BrokenEmbedding as error:
            self._remove_broken(path, str(error))
            return None

    def read_upload(self, content: str) -> bytes | None:
        """Return the picture file of a content, which begins with the file's SHA-256 (names.py)."""
        path = self._uploads / content
        data = self._read(path)
        if data is not None and hashlib.sha256(data).hexdigest() != content[:64]:
            self._remove_broken(path, "its SHA-256 does not match its name")
            return None
        return data

    def write_beside(self, content: str, embedding: Embedding) -> StagedFile | None:
        """Write an embedding next to its final path; None if it already exists. Raises OSError."""
        return self._write_beside(
            self._embedding_path(content), lambda: to_bytes(embedding.to_host(), self._note(content))
        )

    def write_upload_beside(self, content: str, upload: bytes) -> StagedFile | None:
        """Write a picture file next to its final path; None if it already exists. Raises OSError."""
        return self._write_beside(self._uploads / content, lambda: upload)

    def remove(self, content: str) -> None:
        """Remove the upload and the embeddings of every model. A failure is logged."""
        try:
            places = [self._uploads / content, *(each / f"{content}{_SUFFIX}" for each in self._models())]
        except OSError as error:
            self._trouble.report(f"the files of {content} cannot be removed", error)
            return
        for place in places:
            self._remove(place)

    def held(self, contents: Collection[str]) -> set[str]:
        """Return those contents that have an embedding here."""
        return {content for content in contents if self._embedding_path(content).exists()}

    def were_removed(self) -> bool:
        """Whether somebody has removed the folder since the last call. No server does."""
        self._notice_loss()
        was_lost, self._is_lost = self._is_lost, False
        return was_lost

    def touch(self, contents: Collection[str]) -> None:
        """Record a use of each content that is here."""
        for content in contents:
            for path in (self._embedding_path(content), self._uploads / content):
                try:
                    os.utime(path)
                except OSError:
                    continue  # not here, or owned by another user: then it is removed a little earlier

    def trim(self) -> None:
        """Remove files beyond the capacity. Scans the folder only if it may be full, or after RESCAN_S."""
        if self.used_bytes <= self._capacity_bytes and monotonic() - self._looked < RESCAN_S:
            return
        self._looked = monotonic()
        try:
            self._trim()
        except OSError as error:
            self._trouble.report("old files cannot be removed", error)

    def _trim(self) -> None:
        uploads = _files(self._uploads)
        mine = _files(self._mine)
        others = [file for folder in self._models() if folder != self._mine for file in _files(folder)]
        self.used_bytes = sum(file.size for file in (*uploads, *mine, *others))
        self.num_embeddings = len(mine) + len(others)
        for file in surplus(uploads, mine, others, capacity_bytes=self._capacity_bytes):
            if not self._remove(file.path):
                continue  # the next run has others in its place
            self.used_bytes -= file.size
            if file.path.suffix == _SUFFIX:
                self.num_embeddings -= 1
                self._on_evict()

    def _embedding_path(self, content: str) -> Path:
        return self._mine / f"{content}{_SUFFIX}"

    def _note(self, content: str) -> dict[str, str]:
        return {"content": content, "fingerprint": self._fingerprint}

    def _models(self) -> list[Path]:
        try:
            return list(self._embeddings.iterdir())
        except FileNotFoundError:
            return []

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble.report(f"{path.name} cannot be read", error)
            self._unreadable.add(path)
            return None

    def _remove_broken(self, path: Path, why: str) -> None:
        log.error("Removing %s and continuing without it: %s.", path, why)
        self._remove(path)

    def _remove(self, path: Path) -> bool:
        """Remove a file, if it is there. Returns whether it is gone; a failure is logged."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._trouble.report(f"{path} cannot be removed", error)
            return False
        return True

    def _notice_loss(self) -> None:
        try:
            inode = self._mine.stat().st_ino
        except FileNotFoundError:
            inode = 0
        except OSError:
            return  # the disk fails, and has what it had when it works again
        if self._inode not in (0, inode):
            log.error("%s was removed; creating it again with what is in memory.", self._mine)
            self._is_lost = True
        self._inode = inode

    def _write_beside(self, place: Path, make: Callable[[], bytes]) -> StagedFile | None:
        if place in self._unreadable:
            self._unreadable.discard(place)
        elif place.exists():
            return None
        self._notice_loss()
        # Pictures are private: only this user may read them.
        for folder in (self._folder, place.parent.parent, place.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = make()
        made = StagedFile.written(place, data)
        self.used_bytes += len(data)
        self.num_embeddings += place.suffix == _SUFFIX
        return made


def _files(folder: Path) -> list[_File]:
    """Return the whole files, least recently used first. Removes partial files of killed servers."""
    found = []
    for entry in _scan(folder):
        try:
            state = entry.stat()
            if not is_partial(entry.name):
                found.append(_File(Path(entry.path), state.st_size, state.st_mtime))
            elif is_stale(state.st_mtime):
                Path(entry.path).unlink()
        except FileNotFoundError:
            continue  # another server removed it
    return sorted(found, key=lambda file: file.used)


def _scan(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return
