"""Parses JSON of any size without holding the interpreter lock for long.

A parser in C holds this lock, and so blocks the event loop, until it is done. So the values are counted first, and
long strings (pictures, logits, masks) are taken out before the parser runs and put back after it. Does not know
what the fields mean.
"""

import codecs
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic_core import from_json

from app.codecs.long_text import Pieces

Model = TypeVar("Model", bound=BaseModel)

MAX_ITEMS = 1_000_000
"""Values in a body: four times those of 256 prompts with 256 clicks each. Runs of uncompressed masks count too."""
MAX_OBJECTS = 16_384
MAX_STRINGS = 131_072
"""Includes field names."""

_PIECE = 2**18
"""Bytes looked at, or copied, in one call: at most 0.2 ms."""
_LONG = 4096
"""Strings of at least this many bytes are taken out."""
_MOST_PLAIN = 2**23
"""Characters of a string that a field takes as one: masks and logits, which are smaller. A copy takes 3 ms."""
_TOKEN_CHARACTERS = 160
"""Length of what placeholders begin with: more than an id may have, and more than an error quotes of a value."""
_FIELD = re.compile(rb'"[ \t\r\n]*:')
"""What stands behind the name of a field. Some strings hold it too."""
_HOLDERS = (BaseModel, dict, list)
_LONGEST_ESCAPE = 6
"""Bytes of \\u002B, for example."""


class TooMany(ValueError):
    """The body has more values than any request needs. They are counted before anything is parsed."""


class TooLong(ValueError):
    """A string is longer than what is written there can be. It is not looked at."""

    def __init__(self, where: str, size: int) -> None:
        super().__init__(f"{size} characters, where at most {_MOST_PLAIN if where else _LONG} are expected")
        self.where = where


class Repeated(ValueError):
    """An object has a field more than once. The parser keeps the last one and drops the others without a word."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def parse(model: type[Model], body: bytes) -> Model:
    """Parse a body as a model. Raises TooMany, TooLong, Repeated, and pydantic's ValidationError."""
    body = body.removeprefix(codecs.BOM_UTF8)  # RFC 8259 allows to ignore it, and tools on Windows write it
    strings: list[Pieces] = []
    token = _new_token()
    if len(body) >= _LONG:
        check_number(body)
        body, strings = _take_out(body, token)
    parsed = model.model_validate_json(body)
    check_repeats(body, parsed)
    if strings:
        _put_back(parsed, strings, token)
    return parsed


def parse_value(text: str, *, where: str) -> Any:
    """Parse one value of a form, where check_number has counted all. `where` names it in TooLong.

    Raises TooLong, Repeated, and ValueError if it is not JSON.
    """
    body = text.encode()
    if len(body) > _MOST_PLAIN:
        for start, end in _strings(body):
            if end - start > _MOST_PLAIN:
                raise TooLong(where, end - start)
    value = from_json(body)
    check_repeats(body, value)
    return value


def _new_token() -> str:
    """What the placeholders of one body begin with. It is random, so no client can know it, and no id."""
    return f"{secrets.token_hex(16):~<{_TOKEN_CHARACTERS - 1}}:"


def check_repeats(text: bytes, parsed: object) -> None:
    """Check that no object in a JSON text has a field twice. `parsed` is what was read from it, and has all fields.

    Raises Repeated.
    """
    # Counting costs less than a second parser, which runs only where something looks like a field and is none.
    if len(_FIELD.findall(text)) != _count_fields(parsed):
        json.loads(text, object_pairs_hook=_once, parse_int=float)  # float, because int rejects long numbers


def _once(pairs: list[tuple[str, object]]) -> None:
    names = Counter(name for name, _ in pairs)
    for name, times in names.items():
        if times > 1:
            raise Repeated(name)


def _count_fields(value: object) -> int:
    """Count the fields of objects, but for those in lists of lists, which no body has."""
    if isinstance(value, BaseModel):
        fields, count = value.__dict__, 0
        for name in value.model_fields_set:
            count += 1
            if isinstance(field := fields[name], _HOLDERS):
                count += _count_fields(field)
        return count
    if isinstance(value, dict):
        return len(value) + sum(map(_count_fields, value.values()))
    if isinstance(value, list) and value and isinstance(value[0], (BaseModel, dict)):
        return sum(map(_count_fields, value))
    return 0


def check_number(*texts: bytes) -> None:
    """Check how many values the JSON texts of one body have together. Raises TooMany."""
    for what, byte, most in (
        ("values", b",", MAX_ITEMS),
        ("lists", b"[", 2 * MAX_ITEMS),  # compressed RLE has this character, too
        ("objects", b"{", MAX_OBJECTS),
        ("strings", b'"', 2 * MAX_STRINGS),
    ):
        found = 0
        for text, at in ((each, at) for each in texts for at in range(0, len(each), _PIECE)):
            first = text.find(byte, at, at + _PIECE)  # a tenth of the time of counting none
            if first < 0:
                continue
            found += text.count(byte, first, at + _PIECE)
            if found > most:
                raise TooMany(f"more than {most} {what} in one body")


def _take_out(body: bytes, token: str) -> tuple[bytes, list[Pieces]]:
    """Return the body with a short placeholder for each long string, and these strings. Raises TooLong."""
    parts: list[bytes] = []
    strings: list[Pieces] = []
    done = 0
    for start, end in _strings(body):
        if end - start < _LONG:
            continue
        if _FIELD.match(body, end):
            raise TooLong("", end - start)
        if (text := _long_text(body, start, end)) is None:
            continue
        parts += [body[done:start], f"{token}{len(strings)}".encode()]
        strings.append(text)
        done = end
    parts.append(body[done:])
    return b"".join(parts), strings


def _long_text(body: bytes, start: int, end: int) -> Pieces | None:
    r"""Return a long string of JSON, from `start` to `end` of a body; None if the parser is to read or refuse it.

    That is for rare ones, with letters beyond ASCII. Escaped line ends and signs are common in base64: PHP writes
    "/" as \/, .NET writes "+" as \u002B. RLE has escaped backslashes.
    """
    pieces: list[str] = []
    at = start
    while at < end:
        piece = body[at : min(at + _PIECE, end)]
        if at + len(piece) < end:  # no escape may be cut
            cut = piece.rfind(b"\\", len(piece) - _LONGEST_ESCAPE + 1)
            piece = piece[:cut] if cut > 0 and not _is_escaped(piece, cut) else piece
        try:
            text = from_json(b'"%b"' % piece)
        except ValueError:
            return None
        if not text.isascii():
            return None
        pieces.append(text)
        at += len(piece)
    return Pieces(tuple(pieces))


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the content of each string; in broken JSON, as far as it can be followed."""
    at = 0
    while (quote := _find_quote(body, at)) >= 0:
        start = end = quote + 1
        while (end := _find_quote(body, end)) >= 0 and _is_escaped(body, end):
            end += 1
        if end < 0:
            return
        yield start, end
        at = end + 1


def _find_quote(body: bytes, start: int) -> int:
    for at in range(start, len(body), _PIECE):
        if (found := body.find(b'"', at, at + _PIECE)) >= 0:
            return found
    return -1


def _is_escaped(body: bytes, at: int) -> bool:
    end, size = at, 16  # growing, because there are usually none, and in a hostile body 64 million
    while piece := body[max(0, end - size) : end]:
        other = piece.rstrip(b"\\")
        end -= len(piece) - len(other)
        if other:
            break
        size = min(4 * size, _PIECE)
    return (at - end) % 2 == 1


def _put_back(value: BaseModel, strings: list[Pieces], token: str) -> None:
    def taken_out(inner: object) -> Pieces | None:
        if isinstance(inner, str) and inner.startswith(token):
            return strings[int(inner[len(token) :])]
        return None

    for name, inner in value:
        if (text := taken_out(inner)) is not None:
            if _takes_pieces(type(value), name):
                value.__dict__[name] = text
            else:  # checked again: the placeholder is shorter than the string
                _check_again(value, name, _whole(text, name))
        elif isinstance(inner, BaseModel):
            _put_back(inner, strings, token)
        elif isinstance(inner, list) and inner and isinstance(inner[0], str):
            found = [taken_out(each) for each in inner]
            if any(found):
                whole = [
                    each if text is None else _whole(text, name)
                    for each, text in zip(inner, found, strict=True)
                ]
                _check_again(value, name, whole)
        elif isinstance(inner, list):
            for each in inner:
                if not isinstance(each, BaseModel):
                    break
                _put_back(each, strings, token)


def _whole(text: Pieces, name: str) -> str:
    if (size := sum(map(len, text.parts))) > _MOST_PLAIN:
        raise TooLong(name, size)
    return str(text)


def _check_again(value: BaseModel, name: str, inner: object) -> None:
    type(value).__pydantic_validator__.validate_assignment(value, name, inner)


@lru_cache(maxsize=256)
def _takes_pieces(model: type[BaseModel], name: str) -> bool:
    def names_them(annotation: Any) -> bool:
        return annotation is Pieces or any(map(names_them, get_args(annotation)))

    return names_them(model.model_fields[name].annotation)
