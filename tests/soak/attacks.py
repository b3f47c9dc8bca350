"""One client attacks; another one's clicks are answered, the event loop never stands still, and memory is bounded.

Each attack meets a fresh server, so that the longest delay of its event loop and its memory are this attack's.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from tests.fakes import picture
from tests.server import ROOT
from tests.soak import attackers
from tests.soak.effort import Effort
from tests.soak.process import Server, known_answers, serving
from tests.soak.verdict import Finding, at_most, enough, none
from tests.soak.wire import Client, Reply, client, percentile

NAME = "attacks"
DEADLINE_S = 10.0
_ATTACKER_KEY, _POLITE_KEY = "attacker-0123456789abcdef", "polite-0123456789abcdef"
_PAUSE_S = 0.1
_LOOP_LAG_MS = 50.0
_CROWDED_LOOP_LAG_MS = 250.0
"""With 64 clients of one key, the loop does not stand still, but has 64 requests to begin before it looks again."""
_SLOWEST_CLICK_S = 1.0
_MEMORY_MIB = 512.0
"""Bodies may take SAM2_MAX_BODIES_MIB (256 by default), and parsing and pictures about as much again."""
_AFTER_SIGTERM_S = 1.5
"""More than `SAM2_DEADLINE_S`; the service promises one second, and the process needs a moment to be seen gone."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one attack did to a server."""

    clicks: Sequence[Reply]
    outcomes: dict[str, int]
    lag_longest_s: float
    lag_p99_s: float
    memory_before_mib: float
    memory_peak_mib: float
    memory_after_mib: float
    stopped_s: float


def check(effort: Effort) -> list[Finding]:
    """Run every attack for half a minute."""
    findings = []
    for attack in attackers.ATTACKS:
        seen = run(attack, effort, seconds=effort.seconds(full=30, quick=8))
        findings += judge(f"{NAME}: {attack.replace('_', ' ')}", seen)
    return findings


def run(attack: str, effort: Effort, *, seconds: float) -> Seen:
    """Run one attack against a server of its own, then stop that server while the attack's work still runs."""
    settings = {
        "api_keys": f"attacker:{_ATTACKER_KEY},polite:{_POLITE_KEY}",
        "deadline_s": str(DEADLINE_S),
        "open_metrics": "true",
    }
    with serving(known_answers(encode_ms=50, decode_ms=5), effort.folder, **settings) as server:
        return asyncio.run(_run(attack, server, seconds))


async def _run(attack: str, server: Server, seconds: float) -> Seen:
    async with (
        client(server.port, key=_ATTACKER_KEY) as attacker,
        client(server.port, key=_POLITE_KEY) as polite,
    ):
        pictures = {"a": picture()} | (
            {"large": attackers.large_picture()} if attack == "large_masks" else {}
        )
        for name, data in pictures.items():
            reply = await attacker.embed(data, name)
            if reply.status != 200:
                raise RuntimeError(f"the picture of the attack was refused: {reply.body[:200]!r}")
        image_id = str((await polite.embed(picture())).json()["image_id"])
        before, memory_before = await _loop_lag(polite), server.memory_mib()
        server.forget_peak_memory()
        attacking = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.soak.attackers", attack, str(server.port), str(seconds), _ATTACKER_KEY),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert attacking.stdout is not None  # it is a pipe
        await attacking.stdout.readline()
        clicks = await _click_politely(polite, image_id, until=perf_counter() + seconds)
        after, peak, memory_after = await _loop_lag(polite), server.peak_memory_mib(), server.memory_mib()
        longest = await _longest_lag(polite)
    stopping = time.monotonic()
    server.process.terminate()
    await asyncio.to_thread(server.process.wait, DEADLINE_S + 60)
    stopped = time.monotonic() - stopping
    output, _ = await asyncio.wait_for(attacking.communicate(), timeout=180)
    counted = {bound: after[bound] - before.get(bound, 0) for bound in after}
    return Seen(
        clicks,
        json.loads(output),
        longest,
        _quantile(counted, 0.99),
        memory_before,
        peak,
        memory_after,
        stopped,
    )


def judge(name: str, seen: Seen) -> list[Finding]:
    """Return what must hold of an attack."""
    failed = [f"{reply.status} {reply.body[:150]!r}" for reply in seen.clicks if reply.status != 200]
    slowest = max((reply.seconds for reply in seen.clicks), default=float("nan"))
    median_ms = 1000 * percentile([reply.seconds for reply in seen.clicks], 0.5)
    outcomes = ", ".join(f"{number} x {outcome}" for outcome, number in sorted(seen.outcomes.items()))
    memory = f"{seen.memory_before_mib:.0f} MiB before, {seen.memory_after_mib:.0f} after; more at the peak"
    return [
        enough(f"{name} ({outcomes})", "requests of the attacker", sum(seen.outcomes.values()), 1),
        none(name, "connections that stay open", ["open"] * seen.outcomes.get("open", 0)),
        enough(name, "clicks of another client", len(seen.clicks), 5),
        none(name, "rejected or lost ones of these", failed),
        at_most(name, f"their slowest (median {median_ms:.0f} ms)", slowest, _SLOWEST_CLICK_S, unit=" s"),
        at_most(
            name,
            f"the event loop's longest delay (p99 {1000 * seen.lag_p99_s:g} ms)",
            1000 * seen.lag_longest_s,
            _CROWDED_LOOP_LAG_MS if "clicks" in name else _LOOP_LAG_MS,
            unit=" ms",
        ),
        at_most(name, memory, seen.memory_peak_mib - seen.memory_before_mib, _MEMORY_MIB, unit=" MiB"),
        at_most(name, "time to stop", seen.stopped_s, DEADLINE_S + _AFTER_SIGTERM_S, unit=" s"),
    ]


async def _click_politely(polite: Client, image_id: str, *, until: float) -> list[Reply]:
    replies = []
    while perf_counter() < until:
        replies.append(await polite.click(image_id))
        await asyncio.sleep(_PAUSE_S)
    return replies


async def _loop_lag(polite: Client) -> dict[float, float]:
    """Return the counts of the histogram of delays by the upper bounds of its buckets, cumulative."""
    text = (await polite.ask("GET", "/metrics")).body.decode()
    found = re.findall(r'^sam2_event_loop_lag_seconds_bucket\{le="(.*?)"\} (\S+)$', text, re.MULTILINE)
    return {float(bound): float(count) for bound, count in found}


async def _longest_lag(polite: Client) -> float:
    text = (await polite.ask("GET", "/metrics")).body.decode()
    return float(re.findall(r"^sam2_event_loop_lag_longest_seconds (\S+)$", text, re.MULTILINE)[0])


def _quantile(cumulative: dict[float, float], share: float) -> float:
    """Return the upper bound of the bucket that holds this share; NaN without observations."""
    total = max(cumulative.values(), default=0)
    return next(
        (bound for bound, count in sorted(cumulative.items()) if total and count >= share * total),
        float("nan"),
    )
