"""Tracks on the disk: a small JSON file each, by which its prompts survive a restart.

A file is whole or not there. Everything here is slow and belongs in worker threads. Does not know what is in
a file.
"""

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.storage.disk_trouble import DiskTrouble
from app.storage.embedding_files import Beside

log = logging.getLogger(__name__)

_SUFFIX = ".json"


class KeptTracks:
    """Files of tracks in a folder, by tenant and name. Without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._trouble = DiskTrouble(folder) if folder is not None else None

    def save(self, tenant: str, name: str, content: dict[str, Any], *, is_wanted: Callable[[], bool]) -> None:
        """Write a file, or replace it, unless it is not wanted any more by then. A failure is logged."""
        if self._folder is None or self._trouble is None:
            return
        place = self._place(self._folder, tenant, name)
        made = Beside(place.with_name(f".{uuid.uuid4().hex}"), place)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.beside.write_text(json.dumps({"tenant": tenant, "name": name, **content}))
            with self._lock:
                if is_wanted():
                    made.appear()
                else:
                    made.discard()
        except OSError as error:
            self._trouble.report("a track cannot be written", error)
            with suppress(OSError):
                made.discard()
        else:
            self._trouble.over()

    def remove(self, tenant: str, name: str) -> None:
        """Remove a file, if there is one. A failure is logged."""
        if self._folder is None or self._trouble is None:
            return
        try:
            with self._lock:
                self._place(self._folder, tenant, name).unlink(missing_ok=True)
        except OSError as error:
            self._trouble.report("a track cannot be removed", error)

    def load(self) -> list[dict[str, Any]]:
        """Read all files. Damaged ones are left out, with a line in the log."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found: list[dict[str, Any]] = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix != _SUFFIX:
                with suppress(OSError):
                    path.unlink()  # half-written: its server was killed
                continue
            try:
                content = json.loads(path.read_text())
                if path != self._place(self._folder, content["tenant"], content["name"]):
                    raise ValueError("it is not named by what it holds")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("The track in %s cannot be read: %s", path, error)
                continue
            found.append(content)
        return found

    @staticmethod
    def _place(folder: Path, tenant: str, name: str) -> Path:
        digest = hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest()
        return folder / f"{digest}{_SUFFIX}"
