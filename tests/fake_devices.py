"""Devices of a cluster in this process, without an engine. All that travels to them is pickled on the way."""

import asyncio
import pickle
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from app.cluster.calls import Answer, Answering, Call, FrameStep, Step, answer, answer_in_steps
from app.segmenter import Segmenter
from app.service.local import LocalSegmentation
from app.service.segmentation import DeviceState, FrontState
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.start_tracing import start_tracing

T = TypeVar("T")


class Lost(ConnectionError):
    """A device that died."""


class FakeDevices:
    """Implements Devices (app/cluster/devices.py). A key's device is the first living one from its hash on."""

    def __init__(self, settings: Settings, *segmenters: Segmenter) -> None:
        self.services = [
            LocalSegmentation(settings, Metrics(), load=_loader(segmenter)) for segmenter in segmenters
        ]
        self.dead: set[int] = set()
        self.asked: list[tuple[str, int]] = []
        """Method and device of every call."""
        self.dying: list[int] = []
        """For each of the next calls, the steps after which its device dies; a call has one step."""
        self.is_draining = False
        self.fronts: tuple[FrontState, ...] = ()
        """Who has asked lately how a device is."""
        self._traces = start_tracing()
        self._answering = [Answering(each, str(i), self._traces) for i, each in enumerate(self.services)]

    async def connect(self) -> "FakeDevices":
        """Load all models."""
        await asyncio.gather(*(service.start() for service in self.services))
        return self

    def owner(self, key: str) -> int:
        """Return the device of a key."""
        count, first = len(self.services), zlib.crc32(key.encode())
        living = [each % count for each in range(first, first + count) if each % count not in self.dead]
        if not living:
            raise Lost("all of them")
        return living[0]

    async def ask(self, key: str, call: Call) -> Answer:
        """See Devices."""
        chosen = self._choose(key, call)
        found = await answer(self._answering[chosen], _travelled(call))
        if self.dying and self.dying.pop(0) == 1:
            self.dead.add(chosen)
            raise Lost(chosen)
        return _travelled(found)

    async def ask_in_steps(self, key: str, call: Call) -> AsyncGenerator[Step | FrameStep | Answer, None]:
        """See Devices."""
        chosen = self._choose(key, call)
        lives = self.dying.pop(0) if self.dying else 1_000_000
        async with aclosing(answer_in_steps(self._answering[chosen], _travelled(call))) as steps:
            async for step in steps:
                if lives == 0:
                    self.dead.add(chosen)
                    raise Lost(chosen)
                lives -= 1
                yield _travelled(step)

    async def states(self, *, patience_s: float) -> list[DeviceState]:
        """See Devices."""
        states = [service.state(name=str(i)) for i, service in self._living()]
        return [_travelled(replace(each, fronts=self.fronts)) for each in states]

    async def figures(self, *, patience_s: float) -> list[tuple[str, bytes]]:
        """See Devices."""
        return [(str(i), service.metrics.render()) for i, service in self._living()]

    def drain(self) -> None:
        """See Devices."""
        self.is_draining = True

    async def close(self) -> None:
        """See Devices."""
        await asyncio.gather(*(service.close() for service in self.services))
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def _choose(self, key: str, call: Call) -> int:
        chosen = self.owner(key)
        self.asked.append((call.method, chosen))
        return chosen

    def _living(self) -> list[tuple[int, LocalSegmentation]]:
        return [(i, service) for i, service in enumerate(self.services) if i not in self.dead]


def _loader(segmenter: Segmenter) -> Callable[[], Segmenter]:
    return lambda: segmenter


def _travelled(value: T) -> T:
    copy: T = pickle.loads(pickle.dumps(value))  # noqa: S301
    return copy
