"""Section doors: what a click costs that a tool sends with the whole picture, and what its body does to others.

Our server with the built-in model, as `make serve` runs it, but with a watch on its event loop. Does not know the
tools' forms.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
from PIL import Image

from tests.bench.builtin_section import SCENES
from tests.bench.door_requests import TOOLS, Click, Tool, decode, large_bodies
from tests.bench.load import Load, Stream, as_sent, numbered, run
from tests.bench.probes.loop_probe import Notes, loop_seconds
from tests.bench.report import Row
from tests.bench.server import RunningServer, serve
from tests.bench.timing import summarise, take_turns
from tests.bench.workbench import Workbench

BODY_MB = 30
WIDTH, HEIGHT = 4000, 3000
_NOISE = 4.0
"""Standard deviation of a camera's noise: with it, a JPEG of 12 megapixels has the usual 4 MB."""
_HEALTH = Stream("health", "/healthz", "text/plain", (b"",), method="GET", pause_s=0.002)
_LOOP_SAMPLES = 5


def doors(bench: Workbench) -> list[Row]:
    """Measure bodies of 30 MB beside /healthz of another client, then first and later clicks through each door."""
    with _pictures() as (kept, address):
        notes = Notes(bench.folder / "loop.notes")
        settings = {"log_level": "warning", "label_studio_url": address, "label_studio_api_key": "legacy"}
        module = ("tests.bench.probes.loop_probe", str(bench.folder / "loop.notes"))
        log = bench.folder / "doors.log"
        with serve(settings, log=log, num_threads=bench.num_threads, module=module) as server:
            model = str(server.get("/model")["model"])
            return [*_holds(bench, server, notes, model), *_clicks(bench, server, kept, model)]


def _holds(bench: Workbench, server: RunningServer, notes: Notes, model: str) -> list[Row]:
    rows = [_alone(bench, server, notes)]
    for name, stream in large_bodies(model, megabytes=BODY_MB).items():
        size_mb = len(stream.bodies[0]) / 1e6
        with Connection(server.port) as connection:
            request = as_sent(stream, stream.bodies[0])
            for _ in range(2):  # the first one embeds
                connection.ask(request)
            costs = [_loop_ms(server.pid, connection, request) for _ in range(_LOOP_SAMPLES)]
        notes.forget()
        found = run(Load(server.port, _seconds(bench), (stream, _HEALTH)), processes=2)
        holds, health = notes.read(), found["health"].latencies
        values = {
            "body MB": size_mb,
            "n": len(found["door"].latencies),
            "p50_ms": 1000 * median(found["door"].latencies),
            "longest hold ms": holds.hold_ms,
            "longest own work ms": holds.work_ms,
            "longest delay ms": holds.delay_ms,
            "loop ms a request": median(costs),
            "/healthz p50 ms": 1000 * median(health),
            "/healthz worst ms": 1000 * max(health),
        }
        rows.append(Row("doors: the event loop", name, "ours", values))
    return rows


def _alone(bench: Workbench, server: RunningServer, notes: Notes) -> Row:
    """What the machine does to a loop that answers /healthz alone: no body can be blamed for so much."""
    notes.forget()
    found = run(Load(server.port, _seconds(bench), (_HEALTH,)), processes=1)
    holds, health = notes.read(), found["health"].latencies
    values = {
        "longest hold ms": holds.hold_ms,
        "longest own work ms": holds.work_ms,
        "longest delay ms": holds.delay_ms,
        "/healthz p50 ms": 1000 * median(health),
        "/healthz worst ms": 1000 * max(health),
    }
    return Row("doors: the event loop", "no body", "the machine", values)


def _seconds(bench: Workbench) -> float:
    return 2.0 if bench.quick else 10.0


def _loop_ms(pid: int, connection: "Connection", request: bytes) -> float:
    """Return the event loop's time of a processor for a request, less that of as long a time without one."""
    before, began = loop_seconds(pid), perf_counter()
    connection.ask(request)
    took, used = perf_counter() - began, loop_seconds(pid) - before
    before = loop_seconds(pid)
    sleep(took)
    return 1000 * (used - (loop_seconds(pid) - before))


def _clicks(bench: Workbench, server: RunningServer, kept: dict[str, bytes], model: str) -> list[Row]:
    """Time the first clicks on new pictures of 12 megapixels, and later ones on one of them, all sides in turns."""
    picture = photograph()
    rows = []
    with Connection(server.port) as connection:
        image_id = server.embed(picture)
        own = Click(picture, WIDTH, HEIGHT, 0.4 * WIDTH, 0.5 * HEIGHT, model)
        kept[own.address] = picture
        ours = decode(image_id, own)
        requests = {"/decode": as_sent(ours, ours.bodies[0])}
        for tool in TOOLS:
            stream = tool.stream(own)
            requests[tool.name] = as_sent(stream, stream.bodies[0])
        calls = {name: partial(connection.ask, request) for name, request in requests.items()}
        later = take_turns(calls, bench.effort(60, quick_seconds=4))
        first = {
            tool.name: [
                _first(connection, tool, own, kept, 1000 * i + number)
                for number in range(2 if bench.quick else 7)
            ]
            for i, tool in enumerate(TOOLS)
        }
    reference = summarise(later["/decode"])
    rows.append(_click_row("/decode", {"later p50 ms": reference.median_ms, "n": reference.n}))
    for tool in TOOLS:
        found = summarise(later[tool.name])
        over_ms = found.median_ms - reference.median_ms
        values: dict[str, float] = {
            "first p50 ms": 1000 * median(first[tool.name]),
            "later p50 ms": found.median_ms,
            "n": found.n,
            "over /decode ms": over_ms,
        }
        if tool.sends_picture:
            megabytes = len(requests[tool.name]) / 1e6
            values |= {"base64 MB": megabytes, "over /decode ms per MB": over_ms / megabytes}
        rows.append(_click_row(tool.name, values))
    return rows


def _click_row(case: str, values: dict[str, float]) -> Row:
    return Row("doors: a click on 12 megapixels", case, "ours", values)


def _first(connection: "Connection", tool: Tool, like: Click, kept: dict[str, bytes], number: int) -> float:
    address = f"/data/upload/1/{number}.jpg"
    kept[address] = numbered(like.picture, number)
    click = Click(kept[address], like.width, like.height, like.x, like.y, like.model, address)
    stream = tool.stream(click)
    request = as_sent(stream, stream.bodies[0])
    began = perf_counter()
    connection.ask(request)
    return perf_counter() - began


class Connection:
    """One keep-alive connection that sends requests as bytes. Raises AssertionError for a reply that is not 200."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request. Return the body of its reply."""
        self._socket.sendall(request)
        status = self._file.readline()
        length = 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._file.read(length)
        assert b" 200 " in status, (status, body[:300])
        return body


@contextmanager
def _pictures() -> Iterator[tuple[dict[str, bytes], str]]:
    """Serve pictures by path, as Label Studio does. Yield them, to be added to, and the address."""
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            data = kept[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield kept, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def photograph() -> bytes:
    """Return a JPEG of 12 megapixels with objects and a camera's noise."""
    with Image.open(Path(SCENES) / "1.jpg") as stored:
        enlarged = stored.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, _NOISE, (HEIGHT, WIDTH, 3)).astype(np.float32)
    file = BytesIO()
    Image.fromarray((np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()
