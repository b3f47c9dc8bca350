"""Reads the bodies of replies from servers that are not trusted: limited in size, never decompressed.

Does not know what the replies mean.
"""

import httpx

from sam2_client.error_replies import asked, error_of_transport
from sam2_client.errors import UnexpectedReply
from sam2_client.step_lines import OnStep, StepLines, is_lines

MAX_REPLY_BYTES = 512 * 2**20
"""The most that one reply may hold: ten times an embedding in float32, or the masks of thousands of prompts."""


class Body:
    """Collects the pieces of a reply's body. Raises UnexpectedReply if it is compressed or too large.

    With `on_step`, the body may be lines: each step is reported as it comes, and the body is the result's line.
    """

    def __init__(self, response: httpx.Response, on_step: OnStep | None) -> None:
        self._response = response
        self._pieces: list[bytes] = []
        self._size = 0
        refuse_compressed(response)
        self._lines = StepLines(response, on_step) if on_step is not None and is_lines(response) else None

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        self._size += len(piece)
        if self._size > MAX_REPLY_BYTES:
            raise _unexpected(self._response, f"it is larger than {MAX_REPLY_BYTES // 2**20} MiB")
        if self._lines is None:
            self._pieces.append(piece)
        else:
            self._lines.add(piece)

    def broken(self, error: httpx.RequestError) -> Exception:
        """Return what to raise for a connection that broke. After the first line it is no httpx.RequestError, so
        that the request is not repeated.
        """
        return error_of_transport(error) if self._lines is not None and self._lines.has_begun else error

    def response(self) -> httpx.Response:
        """Return the complete response. Raises Sam2Error if its last line is an error."""
        content = b"".join(self._pieces) if self._lines is None else self._lines.result()
        return httpx.Response(
            self._response.status_code,
            headers=self._response.headers,
            content=content,
            request=self._response.request,
        )


def read(response: httpx.Response, *, on_step: OnStep | None = None) -> httpx.Response:
    """Read a streamed response. Raises Sam2Error, and httpx.RequestError from httpx."""
    body = Body(response, on_step)
    try:
        for piece in response.iter_bytes():
            body.add(piece)
    except httpx.RequestError as error:
        raise body.broken(error) from error.__cause__
    return body.response()


async def aread(response: httpx.Response, *, on_step: OnStep | None = None) -> httpx.Response:
    """As `read`, for asyncio."""
    body = Body(response, on_step)
    try:
        async for piece in response.aiter_bytes():
            body.add(piece)
    except httpx.RequestError as error:
        raise body.broken(error) from error.__cause__
    return body.response()


def refuse_compressed(response: httpx.Response) -> None:
    """Raise UnexpectedReply for a compressed body, which nobody requested: a kilobyte may become a gigabyte."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise _unexpected(response, f"it is compressed ({encoding[:40]})")


def _unexpected(response: httpx.Response, why: str) -> UnexpectedReply:
    return UnexpectedReply(
        f"{asked(response)}: this is not a reply of a SAM 2 service ({why})",
        status=response.status_code,
    )
