"""JSON of any size without a long hold on the interpreter: counted first, and parsed without its long strings.

A parser in C holds the interpreter's lock, and so the event loop, until it is done. So long strings (pictures,
logits, masks) are taken out before it runs, and put back after it. Does not know what the fields mean.
"""

import secrets
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

MAX_ITEMS = 1_000_000
"""Values in a body: four times what 256 prompts with 256 clicks each have. Runs of uncompressed masks count too."""
MAX_OBJECTS = 16_384
MAX_STRINGS = 131_072
"""Names of fields included."""

_PIECE = 2**20
_LONG = 4096
"""Bytes from which a string is taken out."""
_TOKEN = f"{secrets.token_hex(16)}:"
"""Begins what stands for a string; nobody else can know it."""


class TooMany(ValueError):
    """More values than any request needs. Found by counting, before anything is parsed."""


def parse(model: type[Model], body: bytes) -> Model:
    """A body as a model. Raises TooMany, and pydantic's ValidationError."""
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
        ("lists", b"[", 2 * MAX_ITEMS),  # also a character of compressed RLE
        ("objects", b"{", MAX_OBJECTS),
        ("strings", b'"', 2 * MAX_STRINGS),
    ):
        found = 0
        for at in range(0, len(body), _PIECE):
            found += body.count(byte, at, at + _PIECE)
            if found > most:
                raise TooMany(f"more than {most} {what} in one body")


def _take_out(body: bytes) -> tuple[bytes, list[str]]:
    """The body with something short in the place of each long string, and these strings."""
    parts: list[bytes] = []
    strings: list[str] = []
    done = 0
    for start, end in _strings(body):
        if end - start < _LONG:
            continue
        content = body[start:end]
        # Rare, and the parser knows what they mean: escapes, and letters beyond ASCII.
        if b"\\" in content or not content.isascii():
            continue
        parts += [body[done:start], f"{_TOKEN}{len(strings)}".encode()]
        strings.append(content.decode("ascii"))
        done = end
    parts.append(body[done:])
    return b"".join(parts), strings


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the content of each string begins and ends. Of broken JSON: as far as it can be followed."""
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
