"""Finds what the values of a label config stand for in the data of a task: $image, $pages[0].url, /files/?d=$path.

As Label Studio's editor reads them. Does not know which of them are pictures.
"""

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from app.codecs import json_members
from app.codecs.json_members import View, fields, items

Steps: TypeAlias = tuple[str, ...]

_REFERENCE = re.compile(r"\$([\w\[\].{}]+)", re.ASCII)
_STEP = re.compile(r"[^.\[\]]+")
_MOST_STEPS = 8
"""Each takes a look at all that lies below it, which may be megabytes."""
_MOST_INSERTED = 8 * 2**10
"""Bytes of a value that becomes part of a text."""


class TaskData:
    """The data of one task. What is looked into is looked through once. Raises as json_members.py."""

    def __init__(self, text: View) -> None:
        self._members: dict[Steps, Mapping[str, View]] = {(): fields(text)}

    def find(self, value: str) -> View | None:
        """Return the JSON that a value stands for. None if it is not there, or null."""
        name = value.removeprefix("$")
        if value != name and (name in self._members[()] or _REFERENCE.fullmatch(value)):
            return self._at(name)
        found = {name: self._at(name) for name in _REFERENCE.findall(value)}
        texts = {name: _inserted(part) for name, part in found.items() if part is not None}
        if not texts or None in texts.values() or len(texts) < len(found):
            return None
        return memoryview(json.dumps(_REFERENCE.sub(lambda match: texts[match[1]] or "", value)).encode())

    def length(self, value: str) -> int:
        """Return how many members the list or object has that a value stands for; 0 for anything else."""
        return len(self._inside(_steps(value.removeprefix("$"))))

    def _at(self, name: str) -> View | None:
        found = self._members[()].get(name)
        if found is None and (steps := _steps(name)):
            found = self._inside(steps[:-1]).get(steps[-1])
        return None if found is None or json_members.is_null(found) else found

    def _inside(self, steps: Steps) -> Mapping[str, View]:
        """Return the members of what lies there, by their names or numbers."""
        known = self._members.get(steps)
        if known is None:
            text = self._inside(steps[:-1]).get(steps[-1])
            self._members[steps] = known = _members(text) if text is not None else {}
        return known


def is_list(text: View) -> bool:
    """Whether a JSON value is a list."""
    return bytes(text[:_MOST_INSERTED]).lstrip().startswith(b"[")


def _members(text: View) -> Mapping[str, View]:
    if is_list(text):
        return {str(number): item for number, item in enumerate(items(text))}
    return fields(text) if bytes(text[:_MOST_INSERTED]).lstrip().startswith(b"{") else {}


def _steps(path: str) -> Steps:
    steps = tuple(_STEP.findall(path))
    return steps if len(steps) <= _MOST_STEPS else ()


def _inserted(part: View) -> str | None:
    value = json_members.value(part, most_bytes=_MOST_INSERTED)
    return str(value) if isinstance(value, str | int | float) else None
