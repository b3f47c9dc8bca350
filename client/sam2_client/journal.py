"""What a long run has done so far, in a file beside its output, so that a cut run goes on where it was.

A line of JSON says what the run is, and then a line for each thing that is done. A line that was cut is as if it
had never been written. Does not know what is done.
"""

import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from sam2_client.messages import naming

_KIND = "sam2 journal 1"
_START = b'["sam2 journal 1"'
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems say that have no locks, such as Lustre and NFS as many clusters mount them."""


class Journal:
    """Values by key. They stay in the file, so that a large run takes little memory. `with` closes it."""

    def __init__(self, output: Path, run: dict[str, Any]) -> None:
        """Open the journal of this output, or begin it. `run` is all that its values depend on, ready for JSON.

        Raises OSError, and ValueError if the file is not the journal of such a run.
        """
        self.path = output.with_name(f"{output.name}.partial")
        self._places: dict[str, int] = {}
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        with naming(self.path):
            try:
                _lock(self._file, self.path)
                self._open(json.loads(json.dumps(run)))
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):  # it writes once more what a full disk did not take
            self._file.close()
        if not self._places:  # nothing to go on from
            self.path.unlink(missing_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())[1]

    def __setitem__(self, key: str, value: Any) -> None:
        """Add a line. It is in the file when this returns."""
        place = self._end()
        with naming(self.path):
            self._file.write(json.dumps([key, value]).encode() + b"\n")
            self._file.flush()
        self._places[key] = place

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def forget(self, key: str) -> None:
        """Take it for not done. Its line stays until another one with this key follows."""
        self._places.pop(key, None)

    def delete(self) -> None:
        """Delete the file: the run is complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _open(self, run: Any) -> None:
        place = 0
        head: Any = None
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break  # it was cut
            value = _parsed(line)
            if number == 0:
                head = value
            elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
                self._places[value[0]] = place
            place += len(line)
        is_ours = isinstance(head, list) and len(head) == 2 and head[0] == _KIND
        if not is_ours and not (place == 0 and _START.startswith(self._start(len(_START)))):
            raise ValueError(f"{self.path} is not what this command writes while it runs: move it away")
        if is_ours and head[1] != run:
            if self._places:
                self._refuse(head[1], run)
            place = 0
        self._file.truncate(place)
        if place == 0:
            self._end()
            self._file.write(json.dumps([_KIND, run]).encode() + b"\n")
            self._file.flush()

    def _refuse(self, before: Any, run: Any) -> None:
        before = before if isinstance(before, dict) else {}
        other = sorted(name for name in {*before, *run} if before.get(name) != run.get(name))
        raise ValueError(
            f"{self.path} is what a run has done so far that differs in {' and '.join(other)}: finish that run, "
            "or delete the file to begin anew"
        )

    def _start(self, length: int) -> bytes:
        self._file.seek(0)
        return self._file.read(length)

    def _end(self) -> int:
        return self._file.seek(0, 2)


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other runs away until the file is closed. Windows' own locks would keep readers away too: none there."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another run is writing {path}: wait for its end") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
