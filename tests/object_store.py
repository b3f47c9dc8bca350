"""A real S3-compatible server for tests, in a folder and on a port of its own: once for all tests of a process.

nanio keeps its objects in files, so they survive `kill`, and checks signatures.
"""

import copy
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from app.storage.bucket import Bucket
from app.storage.disk_trouble import DiskTrouble
from tests.server import free_port

KEYS = ("the-key-id", "the-secret-key-of-the-tests")
_START_S = 60


class ObjectStore:
    """A server and its buckets."""

    def __init__(self, folder: Path) -> None:
        self.data, self._log = folder / "data", folder / "log"
        self.data.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._numbers = count()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if self._process is not None:
            return
        variables = os.environ | {"NANIO_ACCESS_KEY": KEYS[0], "NANIO_SECRET_KEY": KEYS[1]}
        command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--no-access-log"]
        command += ["--port", str(self.port), "--data-dir", str(self.data)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                httpx.get(self.url, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"nanio does not answer:\n{self._log.read_text()}")

    def kill(self) -> None:
        """End it at once. Its objects stay."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def new_bucket(self) -> str:
        """Make an empty bucket, and return its URL with a prefix."""
        name = f"bucket-{next(self._numbers)}"
        (self.data / name).mkdir()
        return f"s3://{name}/some/prefix"

    def remove_bucket(self, url: str) -> None:
        """Remove a bucket with all that is in it."""
        shutil.rmtree(self._folder(url))

    def files(self, url: str) -> list[Path]:
        """Return the files of a bucket's objects."""
        found = (Path(folder) / name for folder, _, names in os.walk(self._folder(url)) for name in names)
        return sorted(path for path in found if ".nanio" not in str(path))  # walk: folders vanish under it

    def keys(self, url: str) -> list[str]:
        """Return the keys of a bucket's objects, below the prefix of its URL."""
        return [str(path.relative_to(self._folder(url) / "some" / "prefix")) for path in self.files(url)]

    def grow_old(self, path: Path, seconds: float) -> None:
        """Make an object as old as that, by its file: what nanio noted elsewhere is removed."""
        for note in self.data.rglob(f"*{path.name}*"):
            if ".nanio" in str(note):
                note.unlink()
        os.utime(path, (time.time() - seconds, time.time() - seconds))

    def environment(self) -> dict[str, str]:
        """Return AWS's variables for this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEYS[0],
            "AWS_SECRET_ACCESS_KEY": KEYS[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _folder(self, url: str) -> Path:
        return self.data / url.removeprefix("s3://").partition("/")[0]


@contextmanager
def running_store() -> Iterator[ObjectStore]:
    """Yield a server that runs."""
    with TemporaryDirectory(prefix="sam2-nanio-") as folder:
        store = ObjectStore(Path(folder))
        try:
            store.start()
            yield store
        finally:
            store.kill()


@contextmanager
def opened_bucket(url: str) -> Iterator[Bucket]:
    """Yield a bucket, which is closed at the end."""
    bucket = Bucket(url, on_request=lambda *_: None)
    try:
        yield bucket
    finally:
        bucket.close()


def sibling(bucket: Bucket, url: str) -> Bucket:
    """Return another bucket with the same connections, which are slow to prepare."""
    other = copy.copy(bucket)
    other.url = url
    other._bucket, other._prefix = url.removeprefix("s3://").split("/", 1)
    other._prefix += "/"
    other._paused_until = 0.0
    other.trouble = DiskTrouble(url, setting="SAM2_CACHE_URL")
    return other
