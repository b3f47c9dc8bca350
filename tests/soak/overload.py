"""Ten times the load that the server can take: admitted requests are in time, a polite client is not affected."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from time import perf_counter

from tests.fakes import picture
from tests.server import ROOT
from tests.soak.effort import Effort
from tests.soak.process import Server, known_answers, serving
from tests.soak.verdict import Finding, at_most, enough, none
from tests.soak.wire import Client, Reply, client, percentile

NAME = "overload"
DEADLINE_S = 5.0
TIMES_TOO_MUCH = 10
_ENCODE_MS, _DECODE_MS, _BATCH = 100.0, 80.0, 4
_FLOOD_KEY, _POLITE_KEY = "flood-0123456789abcdef", "polite-0123456789abcdef"
_IDLE_S = 10.0
_PAUSE_S = 0.2
"""Pause between the clicks of the polite client, like a person's."""
_CONNECTIONS = 400
_WARM_UP = 0.25
"""Fraction of the flood after which memory must be flat."""


def check(effort: Effort) -> list[Finding]:
    """Run for 5 minutes."""
    seconds = effort.seconds(full=300, quick=30)
    settings = {
        "api_keys": f"flood:{_FLOOD_KEY},polite:{_POLITE_KEY}",
        "deadline_s": str(DEADLINE_S),
        "batch_prompts": str(_BATCH),
        "max_waiting_images": "16",
        "max_waiting_prompts": "64",
        "max_prompts": "64",
        "device_cache_mib": "1",  # 32 embeddings: full before memory is measured
    }
    with serving(
        known_answers(encode_ms=_ENCODE_MS, decode_ms=_DECODE_MS), effort.folder, **settings
    ) as server:
        return asyncio.run(_check(server, seconds))


async def _check(server: Server, seconds: float) -> list[Finding]:
    async with client(server.port, key=_POLITE_KEY) as polite:
        image_id = str((await polite.embed(picture())).json()["image_id"])
        idle = await _click_politely(polite, image_id, until=perf_counter() + _IDLE_S)
        flood = subprocess.Popen(  # noqa: ASYNC220  # Popen returns at once
            [sys.executable, "-m", "tests.soak.overload", str(server.port), str(seconds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        began = perf_counter()
        busy = await _click_politely(polite, image_id, until=began + _WARM_UP * seconds)
        warm_mib = server.memory_mib()
        busy += await _click_politely(polite, image_id, until=began + seconds)
        memory_mib = server.memory_mib()
        output, _ = await asyncio.to_thread(flood.communicate, timeout=120)
    said = json.loads(output)
    statuses = {
        kind: {int(status): number for status, number in sorted(counted.items())}
        for kind, counted in said["statuses"].items()
    }
    idle_ms, busy_ms = (1000 * percentile([reply.seconds for reply in some], 0.95) for some in (idle, busy))
    refused_polite = [f"{reply.status} {reply.body[:150]!r}" for reply in busy if reply.status != 200]
    offered = said["device_s_offered"] / seconds
    return [
        Finding(
            NAME,
            "10 times the load that the server can take",
            f"{offered:.1f} times",
            offered > 0.8 * TIMES_TOO_MUCH,
        ),
        *(_some_answered(kind, counted) for kind, counted in statuses.items()),
        at_most(NAME, "slowest answered request of the flood", said["slowest_s"], DEADLINE_S + 1, unit=" s"),
        none(NAME, "lost connections", said["lost"]),
        enough(NAME, "clicks of the polite client", len(busy), int(seconds)),
        none(NAME, "rejected clicks of the polite client", refused_polite),
        at_most(NAME, f"its p95 relative to {idle_ms:.0f} ms idle", busy_ms / idle_ms, 3, unit=" times"),
        at_most(NAME, "growth of memory after warm-up", memory_mib - warm_mib, 0.02 * warm_mib, unit=" MiB"),
    ]


def _some_answered(kind: str, statuses: dict[int, int]) -> Finding:
    return Finding(
        NAME,
        f"the flood's {kind}: some answered, the rest 503 or 429",
        ", ".join(f"{number} x {status}" for status, number in statuses.items()),
        statuses.keys() <= {200, 429, 503} and 200 in statuses and len(statuses) > 1,
    )


async def _click_politely(polite: Client, image_id: str, *, until: float) -> list[Reply]:
    replies = []
    while perf_counter() < until:
        replies.append(await polite.click(image_id))
        await asyncio.sleep(_PAUSE_S)
    return replies


async def flood(port: int, seconds: float) -> dict[str, object]:
    """Send uploads and clicks at a steady rate, half of the device's time each, without waiting for replies."""
    statuses: dict[str, Counter[int]] = {"uploads": Counter(), "clicks": Counter()}
    lost: list[str] = []
    slowest_s = 0.0
    free = [Client(port, key=_FLOOD_KEY) for _ in range(_CONNECTIONS)]
    under_way: set[asyncio.Task[None]] = set()
    sent = Counter[str]()
    async with client(port, key=_FLOOD_KEY) as first:
        await first.embed(picture(shade=1), "flooded")

    async def one(number: int, *, upload: bool) -> None:
        nonlocal slowest_s
        visitor = free.pop()
        try:
            if upload:
                reply = await visitor.embed(picture(60 + number % 1000, 40 + number // 1000))
            else:
                reply = await visitor.click("flooded")
            statuses["uploads" if upload else "clicks"][reply.status] += 1
            if reply.status == 200:
                slowest_s = max(slowest_s, reply.seconds)
        except OSError as error:
            lost.append(repr(error))
        finally:
            free.append(visitor)

    uploads_per_s = TIMES_TOO_MUCH / 2 / (_ENCODE_MS / 1000)
    clicks_per_s = TIMES_TOO_MUCH / 2 / (_DECODE_MS / 1000 / _BATCH)
    began = perf_counter()
    while (elapsed := perf_counter() - began) < seconds:
        for kind, per_s in (("uploads", uploads_per_s), ("clicks", clicks_per_s)):
            while sent[kind] < per_s * elapsed and free:
                sent[kind] += 1
                task = asyncio.create_task(one(sent[kind], upload=kind == "uploads"))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.sleep(0)  # so that the task takes its connection
        await asyncio.sleep(0.005)
    await asyncio.gather(*under_way)
    for visitor in free:
        visitor.close()
    offered_s = sent["uploads"] * _ENCODE_MS / 1000 + sent["clicks"] * _DECODE_MS / 1000 / _BATCH
    return {"statuses": statuses, "slowest_s": slowest_s, "lost": lost[:10], "device_s_offered": offered_s}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(flood(int(sys.argv[1]), float(sys.argv[2])))))
