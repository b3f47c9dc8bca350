"""Sections http, busy and memory: our server in a process of its own, loaded from another.

Knows no peers: what others serve SAM 2 with is not on PyPI.
"""

from functools import partial
from statistics import median

from model.types import Prompt
from tests.bench import load, machine
from tests.bench.load import Load, Measured, Stream
from tests.bench.report import Row
from tests.bench.sides import Ours
from tests.bench.timing import Effort, percentile, summarise, take_turns
from tests.bench.traffic import clickers, embed_own_pictures, jpeg_of_a_megabyte, tiny_bitmap
from tests.bench.workbench import Workbench

CLIENTS = (1, 4, 16, 64)
BATCH = 16


def http(bench: Workbench) -> list[Row]:
    """Clicks of 1 to 64 clients in turns with the in-process click, and the cached upload of a 1 MB JPEG."""
    server = bench.server
    ids = embed_own_pictures(bench.server, 2 if bench.quick else 16)
    runner = bench.runner("auto")
    picture = bench.pictures[0]
    in_process = Ours(runner, runner.encode([picture] * BATCH), name="ours")
    prompt = Prompt(points=((500.0, 375.0),), labels=(1,))
    loads = {n: Load(server.port, 1.0 if bench.quick else 5.0, clickers(n, ids)) for n in CLIENTS}
    _warm_up(loads)
    upload = Stream("upload", "/embed", "image/jpeg", (jpeg_of_a_megabyte(),))
    load.run(Load(server.port, 0.0, (upload,)))

    over_http: dict[int, list[Measured]] = {n: [] for n in CLIENTS}
    lone: list[float] = []
    batch: list[float] = []
    uploads: list[float] = []
    for _ in range(2 if bench.quick else 5):
        for n, clicks in loads.items():
            over_http[n].append(load.run(clicks)["click"])
        effort = Effort(loads[1].seconds, least=5)
        times = take_turns({"lone": partial(in_process.answer, 0, [prompt])}, effort)
        lone += times["lone"]
        batch += take_turns({"batch": partial(in_process.crowd, [prompt] * BATCH)}, effort)["batch"]
        uploads += load.run(Load(server.port, loads[1].seconds / 2, (upload,)))["upload"].latencies

    rows = [
        _latency_row("http", f"{n} clients, {len(ids)} pictures", found) for n, found in over_http.items()
    ]
    rows.append(_row("http", "in-process click", _statistics(lone)))
    rows.append(
        _row("http", f"in-process batch of {BATCH}", _statistics(batch) | {"per_s": BATCH / median(batch)})
    )
    first = [latency for found in over_http[1] for latency in found.latencies]
    rows.append(
        _row("http", "cost over the in-process click", {"p50_ms": 1000 * (median(first) - median(lone))})
    )
    share = median(found.per_second for found in over_http[BATCH]) / (BATCH / median(batch))
    rows.append(_row("http", "16 clients, share of the in-process batch's rate", {"ratio": share}))
    rows.append(_row("http", "cached upload of a 1 MB JPEG", _statistics(uploads)))
    return rows


def busy(bench: Workbench) -> list[Row]:
    """Clicks of one client while another uploads new pictures without pause, and with nobody else."""
    server = bench.server
    ids = embed_own_pictures(bench.server, 2 if bench.quick else 16)
    seconds = 8.0 if bench.quick else 40.0
    (clicker,) = clickers(1, ids)
    pictures = tuple(tiny_bitmap(i) for i in range(2000))
    uploader = Stream("embed", "/embed", "image/bmp", pictures)
    _warm_up({1: Load(server.port, 0.5, (clicker,))})
    idle = load.run(Load(server.port, seconds / 2, (clicker,)))["click"]
    found = load.run(Load(server.port, seconds, (clicker, uploader)))
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
    """What a cached picture takes, by the server's count and by its resident size, and the most it ever took."""
    server = bench.server
    embed_own_pictures(bench.server, 2 if bench.quick else 16)
    before = machine.resident_mib(server.pid)
    count = 4 if bench.quick else 12
    ids = [server.embed(tiny_bitmap(1_000_000 + i)) for i in range(count)]
    growth = (machine.resident_mib(server.pid) - before) / count
    counted = int(str(server.get(f"/images/{ids[0]}")["bytes"]))
    return [
        _row("memory", "one cached picture, as counted", {"MiB": counted / 2**20}),
        _row("memory", f"one cached picture, growth of the resident size over {count}", {"MiB": growth}),
        _row("memory", "peak resident size of the server", {"MiB": machine.peak_resident_mib(server.pid)}),
        _row("memory", "start of the process to the first 200 of /readyz", {"s": server.start_seconds}),
    ]


def _warm_up(loads: dict[int, Load]) -> None:
    for warm in loads.values():
        load.run(Load(warm.port, 0.2, warm.streams))


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
