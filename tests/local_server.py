"""A server of a test's own, which leaves nothing open: pytest would blame a later test for it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def local_server(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[asyncio.Server]:
    """Serve on a free port of 127.0.0.1. At the end every connection is aborted."""
    writers: list[asyncio.StreamWriter] = []

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(noted, "127.0.0.1", 0, ssl=tls)
    try:
        yield server
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
            with suppress(OSError):  # how the connection ended
                await writer.wait_closed()


def port_of(server: asyncio.Server) -> int:
    """Return the port on which it listens."""
    port: int = server.sockets[0].getsockname()[1]
    return port
