"""A thousand clients connect and send nothing, or a byte a second. Other clients are not affected."""

import asyncio
from time import perf_counter

from tests.fakes import picture
from tests.soak.effort import Effort
from tests.soak.process import Server, known_answers, serving
from tests.soak.verdict import Finding, at_most, enough, none
from tests.soak.wire import Client, Reply, client, percentile

NAME = "silent"
_CLIENTS = 1000
_PATIENCE_S = 10.0
_MOST_FILES = 600
"""Fewer than there are clients: silent ones must make room for active ones."""
_HEAD = b"GET /images HTTP/1.1\r\nHost: localhost\r\nX-Never: " + b"x" * 1000
_BODY = (
    b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def check(effort: Effort) -> list[Finding]:
    """Check once with room for all connections, and once with room for about half."""
    seconds = effort.seconds(full=60, quick=20)
    findings = []
    for most_files in (None, _MOST_FILES):
        server = known_answers(decode_ms=10)
        settings = {"deadline_s": str(_PATIENCE_S)}
        with serving(server, effort.folder, most_files=most_files, **settings) as running:
            name = NAME if most_files is None else f"{NAME}, {most_files} files"
            findings += asyncio.run(_check(running, seconds, name=name))
    return findings


async def _check(server: Server, seconds: float, *, name: str) -> list[Finding]:
    async with client(server.port) as visitor:
        image_id = str((await visitor.embed(picture())).json()["image_id"])
        idle = await _clicks(visitor, image_id, until=perf_counter() + 5)
        before = server.descriptors()
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(_CLIENTS)]
        trickling = [asyncio.create_task(_trickle(streams, number)) for number, streams in enumerate(silent)]
        await asyncio.sleep(1)
        most = server.descriptors() - before
        busy, broken = [], []
        end = perf_counter() + seconds
        while perf_counter() < end:  # each on a new connection: new clients are accepted
            try:
                async with client(server.port) as newcomer:
                    busy += await _clicks(newcomer, image_id, until=perf_counter() + 0.2)
            except OSError as error:
                broken.append(repr(error))
        left = server.descriptors() - before
    for task in trickling:
        task.cancel()
    await asyncio.gather(*trickling, return_exceptions=True)
    for _, writer in silent:
        writer.close()
    idle_ms, busy_ms = (1000 * percentile([reply.seconds for reply in some], 0.95) for some in (idle, busy))
    refused = [reply.status for reply in busy if reply.status != 200]
    return [
        enough(name, "silent connections held concurrently", most, 200),
        enough(name, "clicks of other clients", len(busy), int(seconds)),
        none(name, "rejected or lost clicks of other clients", [*refused, *broken]),
        at_most(name, f"their p95 relative to {idle_ms:.0f} ms idle", busy_ms / idle_ms, 3, unit=" times"),
        at_most(name, f"silent connections left after {seconds:g} s", left, 20),
    ]


async def _clicks(visitor: Client, image_id: str, *, until: float) -> list[Reply]:
    replies = []
    while perf_counter() < until:
        replies.append(await visitor.click(image_id))
        await asyncio.sleep(0.02)
    return replies


async def _trickle(streams: Streams, number: int) -> None:
    """Of four clients, two send nothing, one sends a byte of a head each second, and one a byte of a body."""
    _, writer = streams
    if number % 4 < 2:
        return
    said = _HEAD
    if number % 4 == 3:
        writer.write(_BODY)
        said = bytes(1000)
    for byte in said:
        if writer.is_closing():
            return
        writer.write(bytes([byte]))
        await asyncio.sleep(1)
