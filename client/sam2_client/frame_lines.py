"""Replies of a line of JSON for each frame of a track.

Lines come from servers that are not trusted: limited in size. Does not know what is in them.
"""

from typing import Any

import httpx

from sam2_client.bodies import refuse_compressed
from sam2_client.error_replies import unexpected
from sam2_client.step_lines import is_lines, parsed

MOST_LINE_BYTES = 64 * 2**20
"""The most that one frame may have: 64 objects with a mask of a megabyte each."""


class FrameLines:
    """Takes the pieces of a body as they come, and returns its lines. Raises UnexpectedReply for others."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._unfinished: list[bytes] = []
        self._size = 0
        if not is_lines(response):
            raise unexpected(response, ValueError("it is not lines of JSON"))
        refuse_compressed(response)

    def add(self, piece: bytes) -> list[dict[str, Any]]:
        """Return the lines that end in the next piece."""
        *ended, rest = piece.split(b"\n")
        found = []
        for part in ended:
            self._keep(part)
            found.append(b"".join(self._unfinished))
            self._unfinished, self._size = [], 0
        self._keep(rest)
        return [parsed(line, self._response) for line in found if line.strip()]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MOST_LINE_BYTES:
            why = f"a line is larger than {MOST_LINE_BYTES // 2**20} MiB"
            raise unexpected(self._response, ValueError(why))
        self._unfinished.append(part)
