"""Which files go when there are too many: the order in which embeddings and uploads are evicted.

Does not know where the files are.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Sized(Protocol):
    """A file or an object."""

    @property
    def size(self) -> int:
        """Its bytes."""


F = TypeVar("F", bound=Sized)


def surplus(uploads: Sequence[F], mine: Sequence[F], others: Sequence[F], *, capacity_bytes: int) -> list[F]:
    """Return the files to remove. Each kind is given in the order in which it goes: `mine` are this model's.

    Uploads go after embeddings, because embeddings can be made again from them. But uploads beyond half of the
    capacity go before the embeddings of this model.
    """
    used = sum(file.size for file in (*uploads, *mine, *others))
    if used <= capacity_bytes:
        return []
    goal = capacity_bytes * 15 // 16  # so that not every write looks at all files again
    excess = sum(file.size for file in uploads) - capacity_bytes // 2
    too_many = 0
    while excess > 0:
        excess -= uploads[too_many].size
        too_many += 1
    going = []
    for file in (*others, *uploads[:too_many], *mine, *uploads[too_many:]):
        if used <= goal:
            break
        going.append(file)
        used -= file.size
    return going
