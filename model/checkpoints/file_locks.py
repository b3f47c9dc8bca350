"""Locks that processes have by a file, as far as the file system has any. Does not know what is in it."""

import errno
import sys
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems say that have none, such as Lustre and NFS as many clusters mount them."""


def lock(file: IO[Any], *, waits: bool = False) -> bool:
    """Lock a file until it is closed: False if another process has it locked, and this one does not wait.

    True too where there are no locks: who works there with several processes may do work twice, or lose a change
    that another process makes in the same moment.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
