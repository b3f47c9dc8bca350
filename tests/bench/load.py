"""A load generator: clients with one keep-alive connection each. Every client sends its requests one by one.

Runs as a separate process (`python -m tests.bench.load`). It reads a plan as JSON from standard input and writes
JSON to standard output. It uses only the standard library, and does little between a reply and the next request,
because its own time is part of every latency. Does not know about pictures, except where a JPEG file takes a
comment.
"""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from time import perf_counter


class UnexpectedReply(Exception):
    """A reply is not 200. The run would measure how fast the server rejects requests."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One client. It sends its bodies in turn, over and over."""

    name: str
    """Streams with the same name are reported together."""
    path: str
    content_type: str
    bodies: tuple[bytes, ...]
    first_number: int | None = None
    """If given, bodies are JPEG files, and each is sent with a number in a comment, counted from this one. So no
    file is sent twice, but the pixels stay the same."""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    pause_s: float = 0.0
    """Between a reply and the next request."""


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that run concurrently for `seconds`. Requests that began by then are waited for, and count."""

    port: int
    seconds: float
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of all streams with one name."""

    latencies: list[float]
    """Seconds from the first byte sent to the last byte received."""
    seconds: float
    """From the start of the first request to the end of the last reply."""

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return len(self.latencies) / self.seconds


def run(load: Load, *, processes: int = 1) -> dict[str, Measured]:
    """Run a load, with its streams divided among separate processes. Return the results by name of stream."""
    plans = [Load(load.port, load.seconds, load.streams[i::processes]) for i in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in plans
    ]  # fmt: skip
    try:
        for process, plan in zip(running, plans, strict=True):
            assert process.stdin is not None
            process.stdin.write(_written(plan))
            process.stdin.close()
            process.stdin = None
        replies = [process.communicate() for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, said) in zip(running, replies, strict=True):
        if process.returncode:
            raise UnexpectedReply(said.strip().splitlines()[-1] if said else "the load generator died")
    found: dict[str, list[Measured]] = {}
    for text, _ in replies:
        for name, measured in json.loads(text).items():
            found.setdefault(name, []).append(Measured(**measured))
    return {name: together(parts) for name, parts in found.items()}


def together(parts: Sequence[Measured]) -> Measured:
    """Combine results: all latencies, and a time for which the rates of the parts add up."""
    latencies = [latency for part in parts for latency in part.latencies]
    return Measured(latencies, len(latencies) / sum(part.per_second for part in parts))


def numbered(jpeg: bytes, number: int) -> bytes:
    """Return the same picture as a different file: with a comment of eight digits after the first marker."""
    return b"%b\xff\xfe\x00\x0a%08d%b" % (jpeg[:2], number, jpeg[2:])


def _written(load: Load) -> str:
    plan = asdict(load)
    for stream in plan["streams"]:
        stream["bodies"] = [base64.b64encode(body).decode("ascii") for body in stream["bodies"]]
    return json.dumps(plan)


async def drive(load: Load) -> dict[str, Measured]:
    """Run a load in this event loop. Raises UnexpectedReply for the first reply that is not 200."""
    connections = [await asyncio.open_connection("127.0.0.1", load.port) for _ in load.streams]
    end = perf_counter() + load.seconds
    clients = [
        asyncio.create_task(_repeat(stream, reader, writer, end=end))
        for stream, (reader, writer) in zip(load.streams, connections, strict=True)
    ]
    try:
        spans = await asyncio.gather(*clients)
    finally:
        for client in clients:
            client.cancel()
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()
    return {name: _measured(load.streams, spans, name) for name in {stream.name for stream in load.streams}}


Span = tuple[float, float]
"""Times at which a request began and its reply was complete."""


def _measured(streams: Sequence[Stream], spans: Sequence[list[Span]], name: str) -> Measured:
    mine = [
        span
        for stream, of_stream in zip(streams, spans, strict=True)
        if stream.name == name
        for span in of_stream
    ]
    return Measured([end - begin for begin, end in mine], max(e for _, e in mine) - min(b for b, _ in mine))


async def _repeat(
    stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, end: float
) -> list[Span]:
    spans = []
    for request in _requests(stream):
        begin = perf_counter()
        writer.write(request)
        status, body = await read_reply(reader)
        now = perf_counter()
        if status != 200:
            raise UnexpectedReply(
                f"{stream.method} {stream.path}: {status} {body[:300].decode(errors='replace')}"
            )
        spans.append((begin, now))
        if now >= end:
            break
        if stream.pause_s:
            await asyncio.sleep(stream.pause_s)
    return spans


def _requests(stream: Stream) -> Iterator[bytes]:
    """Yield the requests of a client, endlessly. They are built beforehand if they have no numbers."""
    if stream.first_number is None:
        yield from cycle([as_sent(stream, body) for body in stream.bodies])
    else:
        for number, body in enumerate(cycle(stream.bodies), stream.first_number):
            yield as_sent(stream, numbered(body, number))


def as_sent(stream: Stream, body: bytes) -> bytes:
    """Return a request of a stream, head and body."""
    more = "".join(f"{name}: {value}\r\n" for name, value in stream.headers)
    head = (
        f"{stream.method} {stream.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {stream.content_type}\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of the next reply."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return int(status_line.split()[1]), await reader.readexactly(int(headers["content-length"]))


def main() -> None:
    """Read a plan, run it, write the results."""
    plan = json.load(sys.stdin)
    streams = tuple(
        Stream(**{**stream, "bodies": tuple(base64.b64decode(body) for body in stream["bodies"])})
        for stream in plan["streams"]
    )
    measured = asyncio.run(drive(Load(plan["port"], plan["seconds"], streams)))
    json.dump({name: asdict(of_name) for name, of_name in measured.items()}, sys.stdout)


if __name__ == "__main__":
    main()
