"""Replies that tell how far a long work is: a line of JSON for each step, and the result or an error last.

Lines come from servers that are not trusted: limited in size, and nothing after the result. Does not know what the
work is, and when to retry.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import httpx
from tqdm import tqdm

from sam2_client.error_replies import error_of_line, unexpected
from sam2_client.errors import Sam2Error

MEDIA_TYPE = "application/x-ndjson"

OnStep: TypeAlias = Callable[[float, int], object]
"""Is called with how far the work is, 0..1, and how many masks are found, near duplicates included. What it raises
ends the call, and the server's work."""

_MOST_STEP_BYTES = 4096
"""Longer lines are results."""


def is_lines(response: httpx.Response) -> bool:
    """Return whether the body of a reply is lines of JSON."""
    media_type: str = response.headers.get("Content-Type", "").partition(";")[0]
    return response.is_success and media_type.strip().lower() == MEDIA_TYPE


class StepLines:
    """Takes the pieces of a body as they come. Reports its steps, and keeps its last line."""

    def __init__(self, response: httpx.Response, on_step: OnStep) -> None:
        self._response = response
        self._on_step = on_step
        self._unfinished: list[bytes] = []
        self._result: bytes | None = None
        self.has_begun = False
        """Whether a line has come. The request is not repeated then: the server has worked on it."""

    def add(self, piece: bytes) -> None:
        """Add the next piece. Raises UnexpectedReply for lines that are neither steps nor a result."""
        first, *others = piece.split(b"\n")
        self._unfinished.append(first)
        for other in others:
            self._take(b"".join(self._unfinished))
            self._unfinished = [other]

    def result(self) -> bytes:
        """Return the result's line, after the last piece. Raises UnexpectedReply, and the error in its place."""
        self._take(b"".join(self._unfinished))
        if self._result is None:
            raise self._unexpected("it ended before its result")
        if len(self._result) > _MOST_STEP_BYTES and not self._result.startswith(b'{"error"'):
            return self._result  # parsed once only, where its content is read
        value = parsed(self._result, self._response)
        if "error" in value:
            raise error_of_line(value, self._response)
        return self._result

    def _take(self, line: bytes) -> None:
        line = line.strip()
        if not line:
            return
        self.has_begun = True
        if self._result is not None:
            raise self._unexpected("its result is not its last line")
        if len(line) > _MOST_STEP_BYTES:
            self._result = line
            return
        value = parsed(line, self._response)
        if "progress" not in value:
            self._result = line
            return
        progress, found = value["progress"], value.get("found")
        if not (_is_number(progress) and 0 <= progress <= 1 and type(found) is int and found >= 0):
            raise self._unexpected(f"{line[:80]!r} is not a step")
        self._on_step(float(progress), found)

    def _unexpected(self, why: str) -> Sam2Error:
        return unexpected(self._response, ValueError(why))


def parsed(line: bytes, response: httpx.Response) -> dict[str, Any]:
    """Read a line. Raises UnexpectedReply for what is not a JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unexpected(response, ValueError(f"{line[:80]!r} is not a line of it"))
    return value


@contextmanager
def watched(progress: bool | OnStep) -> Iterator[OnStep]:
    """Yield what is called at each step: the caller's own function, a bar on standard error, or nothing."""
    if callable(progress):
        yield progress
        return
    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=1.0, disable=not progress, bar_format=form) as bar:

        def show(fraction: float, found: int) -> None:
            bar.set_postfix(found=found, refresh=False)
            bar.update(fraction - bar.n)

        yield show


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
