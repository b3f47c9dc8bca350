"""A short working day of uploads, clicks, lists, downloads and deletions. Nothing grows that should not."""

import asyncio
import json
import math
import random
from time import perf_counter

from tests.fakes import picture
from tests.soak.effort import Effort
from tests.soak.process import REAL_MODEL, Server, known_answers, serving
from tests.soak.verdict import Finding, at_most, enough, none
from tests.soak.wire import Client

NAME = "mixed"
_CLIENTS = 6
_WARM_UP = 0.4
_WARM_UP_REQUESTS = 400
"""At least: on a busy machine, a second and a half is too short for each pool to have all its threads."""
_LATE_THREADS = 3
"""That pools begin after a short warm-up, when they are first as busy as they can be. A leak has one a request."""
_MOST_WARM_UP_S = 120.0
_SETTLE_S = 2.0
"""Time for connections to close and worker threads to finish."""


def check(effort: Effort) -> list[Finding]:
    """Run for one hour, with the model."""
    seconds = effort.seconds(full=3600, quick=120)
    settings = {
        "cache_dir": str(effort.folder / "cache"),
        "device_cache_mib": "64",  # full within seconds
        "host_cache_mib": "64",
        "disk_cache_mib": "256",
        "keep_uploads": "true",
        "deadline_s": "120",  # a machine with few cores is slow
    }
    with serving(REAL_MODEL, effort.folder, **settings) as server:
        return asyncio.run(run(server, seconds))


def check_shortly(effort: Effort) -> list[Finding]:
    """Run a short form without the model, for CI."""
    settings = {"cache_dir": str(effort.folder / "cache"), "device_cache_mib": "1", "disk_cache_mib": "8"}
    with serving(known_answers(), effort.folder, **settings) as server:
        return asyncio.run(run(server, effort.seconds(full=10, quick=4), late_threads=_LATE_THREADS))


async def run(server: Server, seconds: float, *, late_threads: int = 0) -> list[Finding]:
    """Run the load. Compare the server's figures after warm-up with those at the end."""
    wrong: list[str] = []
    done = [0] * _CLIENTS
    is_warm, ends = asyncio.Event(), math.inf

    async def work(number: int) -> None:
        visitor, chance = Client(server.port), random.Random(number)  # noqa: S311
        held: list[str] = []
        while perf_counter() < ends:
            try:
                await _one_thing(visitor, chance, held, number, wrong)
            except OSError as error:
                wrong.append(repr(error))
            done[number] += 1
            if sum(done) >= _WARM_UP_REQUESTS:
                is_warm.set()
        visitor.close()

    working = [asyncio.create_task(work(number)) for number in range(_CLIENTS)]
    await asyncio.sleep(_WARM_UP * seconds)
    await asyncio.wait_for(is_warm.wait(), _MOST_WARM_UP_S)
    ends = perf_counter() + (1 - _WARM_UP) * seconds
    memory_mib, threads = server.memory_mib(), server.threads()
    descriptors = server.descriptors()
    await asyncio.gather(*working)
    after_mib, after_threads = server.memory_mib(), server.threads()
    await asyncio.sleep(_SETTLE_S)
    drift = 100 * (after_mib - memory_mib) / memory_mib
    return [
        enough(NAME, "requests", sum(done), int(seconds)),
        none(NAME, "unexpected replies", wrong),
        at_most(NAME, f"drift of {memory_mib:.0f} MiB after warm-up", drift, 2, unit=" %"),
        at_most(NAME, "threads more than after warm-up", after_threads - threads, late_threads),
        at_most(NAME, "file descriptors more than after warm-up", server.descriptors() - descriptors, 0),
    ]


async def _one_thing(
    visitor: Client, chance: random.Random, held: list[str], number: int, wrong: list[str]
) -> None:
    def expect(status: int, *statuses: int) -> None:
        if status not in statuses:
            wrong.append(f"{what}: {status}")

    what = chance.choices(
        ("upload", "click", "many", "list", "download", "delete", "broken"), (4, 40, 4, 2, 1, 2, 2)
    )[0]
    if what == "upload" or not held:
        name = f"{number}-{chance.randrange(10**9)}"
        data = picture(chance.randrange(50, 400), chance.randrange(50, 400), shade=chance.randrange(256))
        expect((await visitor.embed(data, name)).status, 200)
        held.append(name)
        return
    name = chance.choice(held)
    match what:
        case "click":
            # 404: its embedding was evicted
            expect((await visitor.click(name, chance.uniform(0, 50), chance.uniform(0, 50))).status, 200, 404)
        case "many":
            boxes = [{"box": [1, 2, chance.randrange(5, 50), 40]} for _ in range(8)]
            body = {"image_id": name, "prompts": boxes, "mask_format": chance.choice(("png", "polygons"))}
            expect((await visitor.ask("POST", "/decode", json.dumps(body).encode())).status, 200, 404)
        case "list":
            expect((await visitor.ask("GET", "/images?limit=50")).status, 200)
        case "download":
            expect((await visitor.ask("GET", f"/images/{name}/embedding")).status, 200, 404)
        case "delete":
            held.remove(name)
            expect((await visitor.ask("DELETE", f"/images/{name}")).status, 204)
        case _:
            expect((await visitor.embed(chance.randbytes(500))).status, 422)
