"""What runs the devices that SAM2_DEVICES names; without that setting nothing of an engine is imported.

Does not know the engine, but for its name in an error.
"""

from types import TracebackType
from typing import Protocol, Self

from app.cluster import ray_environment
from app.cluster.chosen_devices import Chosen, ClusterError
from app.cluster.devices import Devices
from app.settings import Settings


class Machine(Protocol):
    """Runs devices while it is entered."""

    def __enter__(self) -> Self:
        """Start what the devices run on. Raises ClusterError."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all that was started."""

    async def connect(self) -> Devices:
        """Start the devices, and return them when they are ready."""


def machine_for(settings: Settings) -> Machine | None:
    """Return what will run the devices; None if this process has the one device. Raises ClusterError."""
    if not settings.devices:
        return None
    ray_environment.prepare(upload_mib=settings.max_upload_mib, gpus=Chosen.of(settings.devices).gpus)
    try:
        from app.cluster.one_machine import OneMachine  # here, because Ray is large and few need it
    except ImportError as error:
        raise ClusterError(
            "SAM2_DEVICES requires the extra 'cluster', which is not installed: "
            f"pip install '.[cluster]' in the source tree ({error})"
        ) from error
    return OneMachine(settings)
