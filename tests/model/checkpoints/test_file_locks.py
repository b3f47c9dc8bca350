"""Locks by a file, also on file systems that have none."""

import errno
import os
import threading
from pathlib import Path

import pytest

from model.checkpoints.file_locks import NoLocks, lock


def test_one_has_the_lock_until_its_file_is_closed(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with place.open("w") as second:
        with place.open("w") as first:
            assert lock(first)
            assert not lock(second)
        assert lock(second)


def test_who_waits_gets_it(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with place.open("w") as first, place.open("w") as second:
        assert lock(first)
        waiter = threading.Thread(target=lock, args=(second,), kwargs={"waits": True})
        waiter.start()
        first.close()
        waiter.join()
        with place.open("w") as third:
            assert not lock(third)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("waits", [False, True])
def test_a_file_system_without_locks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, waits: bool
) -> None:
    """As Lustre does, and NFS mounted without them."""
    monkeypatch.setattr("fcntl.flock", _refusing(code))
    with (tmp_path / "lock").open("w") as file, pytest.raises(NoLocks):
        lock(file, waits=waits)


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", _refusing(errno.EIO))
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="Input/output") as caught:
        lock(file)
    assert not isinstance(caught.value, NoLocks)


def _refusing(code: int) -> object:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return flock
