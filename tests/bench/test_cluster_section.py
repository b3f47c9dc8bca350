"""The section cluster keeps what was measured, reads processes, and counts what clients see. Needs no Ray."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest

from tests.bench import cluster_section, processes, report
from tests.bench.cluster_section import (
    CLICK_S,
    CLIENTS,
    LOAD_CLICK_S,
    LOAD_CLIENTS,
    LOAD_PAUSE_S,
    Alone,
    Part,
    cluster,
    collect,
)
from tests.bench.report import CLUSTER_CLICKS, CLUSTER_FAULT, CLUSTER_LOAD, CLUSTER_PARTS, Row
from tests.bench.unbroken import Clicking
from tests.local_server import local_server, port_of

REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 10\r\n\r\noverloaded"


def failing() -> Iterator[Row]:
    yield Row("cluster", "a click", "Front", {"p50_ms": 2.0})
    raise OSError("the Front is gone")


def test_a_part_that_fails_costs_no_row_of_others_nor_those_that_it_had() -> None:
    last = Row("cluster", "memory, PSS", "Ray", {"MiB": 400.0})
    told: list[str] = []
    rows = collect({"way": failing, "memory": lambda: [last]}, until=monotonic() + 60, tell=told.append)
    assert [(row.case, row.side) for row in rows] == [
        ("a click", "Front"),
        (CLUSTER_FAULT, "way"),
        ("memory, PSS", "Ray"),
    ]
    assert told[0] == "cluster: a click, Front: p50_ms 2\n"
    assert told[1] == "cluster: way failed: OSError: the Front is gone\n"


def test_after_the_limit_no_part_is_begun() -> None:
    rows = collect({"way": failing}, until=monotonic() - 1, tell=lambda _: None)
    assert [(row.side, row.values) for row in rows] == [("way", {"failed": 1})]


def test_a_part_that_failed_is_a_target_that_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def note(parts: dict[str, Part], **_: object) -> list[Row]:
        seen.extend(parts)
        return []

    monkeypatch.setattr(cluster_section, "collect", note)
    cluster(Alone(quick=False, folder=Path()))
    assert tuple(seen) == CLUSTER_PARTS
    targets = {target.side: target for target in report.TARGETS if target.case == CLUSTER_FAULT}
    assert set(targets) == set(CLUSTER_PARTS)
    assert not any(target.is_met_by(1) for target in targets.values())


def test_the_cases_say_what_is_measured() -> None:
    assert f"{1000 * CLICK_S:.0f} ms each, {CLIENTS} clients a device" in CLUSTER_CLICKS
    assert (
        f"{LOAD_CLIENTS} clients, {1000 * LOAD_PAUSE_S:.0f} ms between clicks of {1000 * LOAD_CLICK_S:.0f} ms"
    ) == CLUSTER_LOAD


def test_a_process_and_those_below_it_are_read_and_ended() -> None:
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"  # before it is Python, it takes next to nothing
        (found,) = (each for each in processes.below(os.getpid()) if each.pid == child.pid)
        assert 0.5 < processes.pss_mib(child.pid) < 100
        another = processes.Process(child.pid, found.started + 1)
        assert processes.end([another]) == []  # the number is another process's now
        assert processes.end([found]) == [found]
        assert child.wait(30) == -9
        assert processes.end([found]) == []


def test_the_time_of_a_processor_only_grows() -> None:
    seen = [processes.cpu_s(os.getpid())]
    while seen[-1] == seen[0]:
        seen.append(processes.cpu_s(os.getpid()))
    assert all(after >= before for before, after in pairwise(seen))


class Servers:
    """Two servers on an event loop of their own. The second one goes away once it has had `requests`."""

    def __init__(self, reply: bytes = REPLY, *, requests: int = 10) -> None:
        self.reply = reply
        self._left = requests
        self.ports: list[int] = []
        self._begun, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._begun.wait(10)

    def close(self) -> None:
        """End both."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with local_server(self._answer) as first, local_server(self._answer_until_gone) as self._second:
            self.ports = [port_of(first), port_of(self._second)]
            self._begun.set()
            await self._end.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.reply)
        writer.close()

    async def _answer_until_gone(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self._left -= 1
                if self._left < 0:
                    self._second.close()
                    break
                writer.write(self.reply)
        writer.close()


def clicking(servers: Servers) -> Clicking:
    return Clicking(servers.ports, [b"GET / HTTP/1.1\r\n\r\n"], clients=4, pause_s=0.001)


def test_clients_whose_server_is_gone_ask_the_other_one() -> None:
    servers = Servers()
    with clicking(servers) as clicks:
        while clicks.lost < 2:
            threading.Event().wait(0.002)
    servers.close()
    assert clicks.failures == []
    assert len(clicks.latencies) > 10


def test_an_answer_that_is_no_success_and_no_server_at_all_are_failures() -> None:
    servers = Servers(BUSY)
    with clicking(servers) as clicks:
        pass
    servers.close()
    assert "503 overloaded" in clicks.failures
    with clicking(servers) as clicks:
        pass
    assert "Connect" in clicks.failures[0]
