"""Which Device answered a key last: when another one does, it has had to load the picture. Does not know why."""

from collections import OrderedDict

_REMEMBERED = 20_000
"""Keys, some megabytes. One that is forgotten counts as new."""


class Moves:
    """The Devices of the keys that were asked for lately."""

    def __init__(self, *, most: int = _REMEMBERED) -> None:
        self._most = most
        self._answered: OrderedDict[str, str] = OrderedDict()

    def has_moved(self, key: str, device: str) -> bool:
        """Remember who has answered. Return whether somebody else did the last time."""
        before = self._answered.pop(key, device)
        self._answered[key] = device
        if len(self._answered) > self._most:
            self._answered.popitem(last=False)
        return before != device
