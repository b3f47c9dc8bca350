"""What RemoteSegmentation asks of the engine that runs Devices.

Does not know the engine; ray_devices.py does.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from app.cluster.calls import Answer, Call, FrameStep, Step
from app.service.segmentation import DeviceState


class Devices(Protocol):
    """All Devices. A key goes to the same one as long as it lives."""

    async def ask(self, key: str, call: Call) -> Answer:
        """Have a call answered. An empty key goes to any Device. When cancelled, the Device ends the work.

        Raises ConnectionError if the Device is lost. While there is none it waits or, after `drain`, raises
        ShuttingDown.
        """

    def ask_in_steps(self, key: str, call: Call) -> AsyncGenerator[Step | FrameStep | Answer, None]:
        """Have a search or a propagation answered in steps. A Device is a few ahead of those that were taken."""

    async def states(self, *, patience_s: float) -> list[DeviceState]:
        """Return the states of all Devices that answer in time."""

    async def figures(self, *, patience_s: float) -> list[tuple[str, bytes]]:
        """Return the names of all Devices that answer in time, and their metrics."""

    def drain(self) -> None:
        """Wait for no new Device any more: this server stops, and others may find one."""

    async def close(self) -> None:
        """End what was begun for this server."""
