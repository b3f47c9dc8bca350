"""Finds the members of a JSON object or list without parsing them, however large they are.

For bodies of which a few fields are wanted and the rest may be megabytes: what is skipped costs one pass over its
bytes, becomes no object and counts towards no limit. Another thread gets the interpreter after each millisecond.
Whether the skipped parts are JSON is not checked, except that their brackets and quotes pair up. Does not know what
the fields mean.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from time import sleep
from typing import Any, TypeAlias

import numpy as np

from app.codecs.json_bodies import Repeated, TooMany
from app.codecs.long_text import HAND_OVER_S

View: TypeAlias = memoryview
"""Part of a body. Slices share its memory."""

MOST_MEMBERS = 131_072
"""Members of one object or list."""

_PIECE = 2**18
"""Bytes looked at in one step, which takes about half a millisecond."""
_SHORT = 4096
"""Bytes for which the set-up of a step of numpy, 0.2 ms, and the sleep after it would cost more than an expression:
a list of 100,000 small objects took two minutes."""
_LONGEST_NAME = 2**16
"""Bytes of a field's name as it is written. It is read in one step, of two milliseconds at most."""
_SPACE = b" \t\r\n"
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"{[")] = 1
_STEPS[list(b"}]")] = -1
_WANTED = bytes(byte in b'{[]}"\\' for byte in range(256))
"""For bytes.translate, which takes a twentieth of the time of numpy's indexing."""
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+("?)|[{}\[\],]', re.DOTALL)
"""A string, whose group is empty if it has no end; a bracket; a comma."""
_NAME = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*+")[ \t\r\n]*:')


class NotJson(ValueError):
    """The text is not JSON, or not the kind of value that is asked for. The message says what is wrong."""


def fields(text: View) -> dict[str, View]:
    """Return the values of an object by name. Raises NotJson, TooMany and Repeated."""
    found: dict[str, View] = {}
    for member in _members(text, b"{}"):
        match = _NAME.match(member[:_LONGEST_NAME])
        if match is None:
            raise NotJson(f"a field of an object has no name, or one of more than {_LONGEST_NAME} bytes")
        name = str(_parse(match.group(1)))
        if name in found:
            raise Repeated(name)
        found[name] = member[match.end() :]
    return found


def items(text: View) -> list[View]:
    """Return the values in a list. Raises NotJson and TooMany."""
    return list(_members(text, b"[]"))


def value(text: View, *, most_bytes: int) -> Any:
    """Parse a value whole. Raises NotJson, also for one of more than `most_bytes`."""
    if len(text) > most_bytes:
        raise NotJson(f"a value of {len(text)} bytes, where at most {most_bytes} are expected")
    return _parse(bytes(text))


def _parse(text: bytes) -> Any:
    try:
        found = _DECODER.decode(text.decode())
        if isinstance(found, str):
            found.encode()  # half of a pair of surrogates cannot be sent on
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error) or "it is nested too deeply") from error
    return found


def _refuse(constant: str) -> None:
    raise NotJson(f"{constant} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
"""json.loads would make one for each value."""


def is_null(text: View) -> bool:
    """Whether a value is null."""
    return len(text) < _PIECE and bytes(text).strip(_SPACE) == b"null"


def _members(text: View, kind: bytes) -> Iterator[View]:
    start, end = _trimmed(text)
    if end - start < 2 or text[start] != kind[0] or text[end - 1] != kind[1]:
        raise NotJson("an object is expected" if kind == b"{}" else "a list is expected")
    inner = text[start + 1 : end - 1]
    commas = [-1]
    for comma in _commas_of_short(bytes(inner)) if len(inner) <= _SHORT else _commas(inner):
        commas.append(comma)
        if len(commas) > MOST_MEMBERS:
            raise TooMany(f"more than {MOST_MEMBERS} members in one object or list")
    commas.append(len(inner))
    for before, after in pairwise(commas):
        member = inner[before + 1 : after]
        first, last = _trimmed(member)
        if first < last:
            yield member[first:last]
        elif len(commas) > 2:
            raise NotJson("a comma without a value")


def _trimmed(text: View) -> tuple[int, int]:
    start, end = 0, len(text)
    while start < end and text[start] in _SPACE:
        start += 1
    while start < end and text[end - 1] in _SPACE:
        end -= 1
    return start, end


def _commas(text: View) -> Iterator[int]:
    """Yield the positions of commas that lie in no string and in no brackets. Raises NotJson."""
    depth, inside, escapes = 0, False, False
    for begin in range(0, len(text), _PIECE):
        piece = bytes(text[begin : begin + _PIECE])
        if inside and b'"' not in piece and b"\\" not in piece:  # of a picture, say
            escapes = False
            continue
        codes = np.frombuffer(piece, np.uint8)
        at = np.flatnonzero(np.frombuffer(piece.translate(_WANTED), np.bool_))
        at, escapes = _without_escapes(codes, at, escaped=escapes)
        kinds = codes[at]
        quotes = kinds == _QUOTE
        within = (np.cumsum(quotes, dtype=np.int64) + inside) % 2 == 1  # after each of these characters
        steps = np.where(within, 0, _STEPS[kinds])
        depths = np.cumsum(steps, dtype=np.int64) + depth
        if (depths < 0).any():
            raise NotJson("a bracket is closed that was not opened")
        # Gaps in which a comma would separate members: before the first of these characters, and after each.
        starts = at[(depths == 0) & ~within] + 1
        ends = np.append(at, len(piece))[1:][(depths == 0) & ~within]
        if depth == 0 and not inside:
            first = int(at[0]) if len(at) else len(piece)
            starts, ends = np.insert(starts, 0, 0), np.insert(ends, 0, first)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            comma = piece.find(b",", start, end)
            while comma >= 0:
                yield begin + comma
                comma = piece.find(b",", comma + 1, end)
        if len(at):
            depth, inside = int(depths[-1]), bool(within[-1])
        sleep(HAND_OVER_S)
    if depth or inside:
        raise NotJson("it ends within a string" if inside else "a bracket is not closed")


def _commas_of_short(text: bytes) -> Iterator[int]:
    """Yield what `_commas` yields, in one pass without set-up and without a sleep."""
    depth = 0
    for mark in _MARK.finditer(text):
        kind = text[mark.start()]
        if kind == _QUOTE:
            if not mark.group(1):
                raise NotJson("it ends within a string")
        elif kind != _COMMA:
            depth += 1 if kind in b"{[" else -1
            if depth < 0:
                raise NotJson("a bracket is closed that was not opened")
        elif not depth:
            yield mark.start()
    if depth:
        raise NotJson("a bracket is not closed")


def _without_escapes(codes: Any, at: Any, *, escaped: bool) -> tuple[Any, bool]:
    """Drop backslashes and escaped quotes. `escaped`: the first byte is. Return whether the next one is, too."""
    backslashes = at[codes[at] == _BACKSLASH]
    if not len(backslashes) and not escaped:
        return at, False
    # In a run of backslashes every second one is escaped itself, so a run of odd length escapes what follows.
    if escaped:
        backslashes = np.insert(backslashes, 0, -1)
    starts = backslashes[np.insert(np.diff(backslashes) != 1, 0, True)]
    ends = backslashes[np.append(np.diff(backslashes) != 1, True)] + 1
    odd = ends[(ends - starts) % 2 == 1]
    kept = at[codes[at] != _BACKSLASH]
    return kept[~np.isin(kept, odd)], bool(len(odd)) and int(odd[-1]) == len(codes)
