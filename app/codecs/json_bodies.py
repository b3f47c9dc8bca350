"""Parses JSON of any size without holding the interpreter lock for long.

A parser in C holds this lock, and so blocks the event loop, until it is done. So the values are counted first, and
long strings (pictures, logits, masks) are taken out before the parser runs and put back after it. Does not know
what the fields mean.
"""

import secrets
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

MAX_ITEMS = 1_000_000
"""Values in a body: four times those of 256 prompts with 256 clicks each. Runs of uncompressed masks count too."""
MAX_OBJECTS = 16_384
MAX_STRINGS = 131_072
"""Includes field names."""

_PIECE = 2**20
_LONG = 4096
"""Strings of at least this many bytes are taken out."""
_TOKEN = f"{secrets.token_hex(16)}:"
"""Prefix of the placeholders for strings. It is random, so no client can know it."""


class TooMany(ValueError):
    """The body has more values than any request needs. They are counted before anything is parsed."""


def parse(model: type[Model], body: bytes) -> Model:
    """Parse a body as a model. Raises TooMany, and pydantic's ValidationError."""
    if len(body) < _LONG:
        return model.model_validate_json(body)
    _count(body)
    hollow, strings = _take_out(body)
    parsed = model.model_validate_json(hollow)
    if strings:
        _put_back(parsed, strings)
    return parsed


def _count(body: bytes) -> None:
    for what, byte, most in (
        ("values", b",", MAX_ITEMS),
        ("lists", b"[", 2 * MAX_ITEMS),  # compressed RLE has this character, too
        ("objects", b"{", MAX_OBJECTS),
        ("strings", b'"', 2 * MAX_STRINGS),
    ):
        found = 0
        for at in range(0, len(body), _PIECE):
            found += body.count(byte, at, at + _PIECE)
            if found > most:
                raise TooMany(f"more than {most} {what} in one body")


def _take_out(body: bytes) -> tuple[bytes, list[str]]:
    """Return the body with a short placeholder for each long string, and these strings."""
    parts: list[bytes] = []
    strings: list[str] = []
    done = 0
    for start, end in _strings(body):
        if end - start < _LONG:
            continue
        content = body[start:end]
        # Strings with escapes or non-ASCII letters are rare. They stay, for the parser to decode.
        if b"\\" in content or not content.isascii():
            continue
        parts += [body[done:start], f"{_TOKEN}{len(strings)}".encode()]
        strings.append(content.decode("ascii"))
        done = end
    parts.append(body[done:])
    return b"".join(parts), strings


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the content of each string; in broken JSON, as far as it can be followed."""
    at = 0
    while (quote := body.find(b'"', at)) >= 0:
        start = end = quote + 1
        while (end := body.find(b'"', end)) >= 0 and _is_escaped(body, end):
            end += 1
        if end < 0:
            return
        yield start, end
        at = end + 1


def _is_escaped(body: bytes, at: int) -> bool:
    backslashes = 0
    while body[at - 1 - backslashes : at - backslashes] == b"\\":
        backslashes += 1
    return backslashes % 2 == 1


def _put_back(value: BaseModel, strings: list[str]) -> None:
    for name, inner in value:
        if isinstance(inner, str) and inner.startswith(_TOKEN):
            setattr(value, name, strings[int(inner.removeprefix(_TOKEN))])
        elif isinstance(inner, BaseModel):
            _put_back(inner, strings)
        elif isinstance(inner, list):
            for each in inner:
                if not isinstance(each, BaseModel):
                    break
                _put_back(each, strings)
