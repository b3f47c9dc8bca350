"""Writes JSON of any size without holding the interpreter lock for long.

A call of json.dumps holds it until it is done, and so blocks the event loop even from a worker thread: for 6 ms
with an outline of 80 kB. So large values are written in parts. Does not know what the values mean.
"""

import json
from collections.abc import Iterator

_ITEMS = 256
"""Numbers, or points, written in one call: at most 0.3 ms."""
_CHARACTERS = 1 << 16
_POINT = 4
"""Most numbers of a list that counts as one item."""
_NUMBERS = frozenset({int, float, bool, type(None)})


def write_json(value: object) -> bytes:
    """Return what json.dumps does, for values whose fields have strings as names."""
    return b"".join(piece.encode("ascii") for piece in _pieces(value))


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield '"'
        for at in range(0, len(value), _CHARACTERS):
            yield json.dumps(value[at : at + _CHARACTERS])[1:-1]
        yield '"'
    elif isinstance(value, dict):
        yield "{"
        for number, (name, inner) in enumerate(value.items()):
            yield f"{', ' if number else ''}{json.dumps(name)}: "
            yield from _pieces(inner)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for at in range(0, len(value), _ITEMS):
            if at:
                yield ", "
            yield from _items(value[at : at + _ITEMS])
        yield "]"
    else:
        yield json.dumps(value)


def _items(part: list[object] | tuple[object, ...]) -> Iterator[str]:
    """Yield the items of a list, at once if they are numbers or points."""
    if _are_numbers(part) or all(
        isinstance(each, list | tuple) and len(each) <= _POINT and _are_numbers(each) for each in part
    ):
        yield json.dumps(part)[1:-1]
        return
    for number, each in enumerate(part):
        if number:
            yield ", "
        yield from _pieces(each)


def _are_numbers(values: list[object] | tuple[object, ...]) -> bool:
    return _NUMBERS.issuperset(map(type, values))
