"""Sections http, busy and memory: our server in its own process, with load from another process.

Does not know about peers: other servers of SAM 2 are not on PyPI.
"""

import copy
from functools import partial
from itertools import cycle
from statistics import median

from model.types import Prompt
from tests.bench import machine
from tests.bench.load import Load, Measured, Stream, run
from tests.bench.report import Row
from tests.bench.sides import Ours
from tests.bench.timing import Effort, percentile, summarise, take_turns
from tests.bench.traffic import (
    clickers,
    embed_own_pictures,
    jpeg_of_a_megabyte,
    own_picture,
    places,
    tiny_bitmap,
)
from tests.bench.workbench import Workbench

CLIENTS = (1, 4, 16, 64)
BATCH = 16


def http(bench: Workbench) -> list[Row]:
    """Time clicks of 1 to 64 clients, in turns with clicks in process, and the cached upload of a 1 MB JPEG."""
    port = bench.server.port
    ids = embed_own_pictures(bench.server, 2 if bench.quick else 16)
    seconds, rounds = (1.0, 1) if bench.quick else (5.0, 5)
    runner = bench.runner("auto")
    embedding = runner.encode([own_picture(0)])[0]
    in_process = Ours(runner, [copy.deepcopy(embedding) for _ in range(BATCH)], name="ours")
    prompts = cycle([Prompt(points=(place,), labels=(1,)) for place in places(0)])
    batch = partial(in_process.crowd, [next(prompts) for _ in range(BATCH)])
    loads = {count: Load(port, seconds, clickers(count, ids)) for count in CLIENTS}
    upload = Stream("upload", "/embed", "image/jpeg", (jpeg_of_a_megabyte(),))
    for load in (loads[1], loads[BATCH], Load(port, 0.0, (upload,))):  # warm up: the first request is slower
        run(Load(port, 0.2, load.streams))

    served: dict[int, list[Measured]] = {count: [] for count in CLIENTS}
    clicks: list[list[float]] = []
    for _ in range(4 * rounds):
        served[1].append(run(Load(port, 1.0, loads[1].streams))["click"])
        clicks.append(
            take_turns({"click": lambda: in_process.answer(0, [next(prompts)])}, Effort(1.0))["click"]
        )
    batches: list[float] = []
    uploads: list[float] = []
    for _ in range(rounds):
        for count in CLIENTS[1:]:
            served[count].append(run(loads[count])["click"])
        batches += take_turns({"batch": batch}, Effort(seconds))["batch"]
        uploads += run(Load(port, seconds / 2, (upload,)))["upload"].latencies

    batch_rate = BATCH / median(batches)
    costs = [1000 * (median(s.latencies) - median(c)) for s, c in zip(served[1], clicks, strict=True)]
    share = median(measured.per_second for measured in served[BATCH]) / batch_rate
    return [
        *(
            _latency_row("http", f"{count} clients, {len(ids)} pictures", found)
            for count, found in served.items()
        ),
        _row("http", "in-process click", _statistics([second for slice_ in clicks for second in slice_])),
        _row("http", f"in-process batch of {BATCH}", _statistics(batches) | {"per_s": batch_rate}),
        _row(
            "http",
            "cost over the in-process click",
            {"p50_ms": median(costs), "least_ms": min(costs), "most_ms": max(costs)},
        ),
        _row("http", "16 clients, share of the in-process batch's rate", {"ratio": share}),
        _row("http", "cached upload of a 1 MB JPEG", _statistics(uploads)),
    ]


def busy(bench: Workbench) -> list[Row]:
    """Time clicks of one client alone, and while another client uploads new pictures without pause."""
    server = bench.server
    ids = embed_own_pictures(bench.server, 2 if bench.quick else 16)
    seconds = 8.0 if bench.quick else 40.0
    (clicker,) = clickers(1, ids)
    pictures = tuple(tiny_bitmap(i) for i in range(2000))
    uploader = Stream("embed", "/embed", "image/bmp", pictures)
    run(Load(server.port, 0.5, (clicker,)))
    idle = run(Load(server.port, seconds / 2, (clicker,)))["click"]
    found = run(Load(server.port, seconds, (clicker, uploader)))
    ratio = percentile(found["click"].latencies, 95) / percentile(idle.latencies, 95)
    return [
        _latency_row("busy", "clicks, nobody else", [idle]),
        _latency_row("busy", "clicks while embedding", [found["click"]]),
        _row(
            "busy",
            "pictures embedded meanwhile",
            {"n": len(found["embed"].latencies), "per_s": found["embed"].per_second},
        ),
        _row("busy", "p95 while embedding over idle p95", {"ratio": ratio}),
    ]


def memory(bench: Workbench) -> list[Row]:
    """Measure a cached picture's memory as the server counts it, the server's peak memory, and its start time."""
    server = bench.server
    ids = embed_own_pictures(bench.server, 1)
    counted = int(str(server.get(f"/images/{ids[0]}")["bytes"]))
    return [
        _row("memory", "one cached picture, as counted", {"MiB": counted / 2**20}),
        _row("memory", "peak resident size of the server", {"MiB": machine.peak_resident_mib(server.pid)}),
        _row("memory", "start of the process to the first 200 of /readyz", {"s": server.start_seconds}),
    ]


def _statistics(seconds: list[float]) -> dict[str, float]:
    summary = summarise(seconds)
    return {
        "n": summary.n,
        "p50_ms": summary.median_ms,
        "p95_ms": summary.p95_ms,
        "p99_ms": 1000 * percentile(seconds, 99),
    }


def _latency_row(section: str, case: str, found: list[Measured]) -> Row:
    latencies = [latency for measured in found for latency in measured.latencies]
    return _row(section, case, _statistics(latencies) | {"per_s": median(m.per_second for m in found)})


def _row(section: str, case: str, values: dict[str, float]) -> Row:
    return Row(section, case, "ours", values)
