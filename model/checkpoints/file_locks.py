"""Locks that processes have by a file. Does not know what is in it."""

import errno
import sys
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems say that have none, such as Lustre and NFS as many clusters mount them."""


class NoLocks(OSError):
    """The file system has no locks, so another process may be at the same."""


def lock(file: IO[Any], *, waits: bool = False) -> bool:
    """Lock a file until it is closed: False if another process has it locked, and this one does not wait.

    Raises OSError, and of its kinds NoLocks.
    """
    if sys.platform == "win32":
        raise NoLocks(errno.ENOSYS, "this system has no locks")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocks(error.errno, error.strerror) from error
        raise
    return True
