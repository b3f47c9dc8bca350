"""Reads the bodies of replies from servers that are not trusted: limited in size, never decompressed.

Does not know what the replies mean.
"""

import httpx

from sam2_client.errors import UnexpectedReply

MAX_REPLY_BYTES = 512 * 2**20
"""The most that one reply may hold: ten times an embedding in float32, or the masks of thousands of prompts."""


class Body:
    """Collects the pieces of a reply's body. Raises UnexpectedReply if it is compressed or too large."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces: list[bytes] = []
        self._size = 0
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":  # not requested; a kilobyte may decompress to a gigabyte
            raise _unexpected(response, f"it is compressed ({encoding[:40]})")

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        self._size += len(piece)
        if self._size > MAX_REPLY_BYTES:
            raise _unexpected(self._response, f"it is larger than {MAX_REPLY_BYTES // 2**20} MiB")
        self._pieces.append(piece)

    def response(self) -> httpx.Response:
        """Return the complete response."""
        return httpx.Response(
            self._response.status_code,
            headers=self._response.headers,
            content=b"".join(self._pieces),
            request=self._response.request,
        )


def read(response: httpx.Response) -> httpx.Response:
    """Read a streamed response. Raises UnexpectedReply, and httpx.RequestError from httpx."""
    body = Body(response)
    for piece in response.iter_bytes():
        body.add(piece)
    return body.response()


async def aread(response: httpx.Response) -> httpx.Response:
    """As `read`, for asyncio."""
    body = Body(response)
    async for piece in response.aiter_bytes():
        body.add(piece)
    return body.response()


def _unexpected(response: httpx.Response, why: str) -> UnexpectedReply:
    return UnexpectedReply(
        f"{response.request.method} {response.request.url}: this is not a reply of a SAM 2 service ({why})",
        status=response.status_code,
    )
