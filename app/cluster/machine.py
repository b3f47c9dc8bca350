"""What runs the devices that SAM2_DEVICES names, or joins those of SAM2_CLUSTER.

Without these settings nothing of an engine is imported. Does not know the engine, but for its name in an error.
"""

import logging
from types import TracebackType
from typing import Protocol, Self

from app.cluster import ray_environment
from app.cluster.chosen_devices import OF_DEVICES_ALONE, Chosen, ClusterError
from app.cluster.devices import Devices
from app.cluster.messages import MESSAGE_BYTES
from app.service.loading import count_gpus
from app.settings import Settings

log = logging.getLogger(__name__)

_MOST_UPLOAD_MIB = MESSAGE_BYTES // 2**20 - 64
"""Of one message, beside prompts with masks."""


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
    if not settings.devices and not settings.cluster:
        return None
    if settings.devices == "all" and count_gpus() == 1:
        log.info("There is one GPU, so this process has it itself")
        return None
    if settings.devices:
        gpus = Chosen.of(settings.devices).gpus
        count = count_gpus() if gpus else 0
        if missing := [number for number in gpus if int(number) >= count]:
            raise ClusterError(
                f"SAM2_DEVICES names GPU {', '.join(missing)}, but torch can use {count} here, numbered from 0. "
                "SAM2_DEVICES=cpu:2 tries it with the CPUs."
            )
        ray_environment.prepare(gpus=gpus)
    else:
        ray_environment.prepare_to_join()
        set_here = {name for name in settings.model_fields_set & OF_DEVICES_ALONE if getattr(settings, name)}
        if set_here:
            log.info(
                "%s: settings of devices, which this server does not use. Theirs are under args where they were "
                "deployed, and in the environment of 'ray start'.",
                ", ".join(f"SAM2_{name.upper()}" for name in sorted(set_here)),
            )
    if settings.max_upload_mib > _MOST_UPLOAD_MIB:
        raise ClusterError(
            f"SAM2_MAX_UPLOAD_MIB={settings.max_upload_mib}, but a Front passes on uploads of "
            f"{_MOST_UPLOAD_MIB} MiB at most. A server with one device, without SAM2_DEVICES and SAM2_CLUSTER, "
            "takes larger ones."
        )
    try:  # here, because Ray is large and few need it
        from app.cluster.joined_cluster import JoinedCluster
        from app.cluster.one_machine import OneMachine
    except ImportError as error:
        raise ClusterError(
            f"{'SAM2_DEVICES' if settings.devices else 'SAM2_CLUSTER'} requires the extra 'cluster', which is not "
            f"installed: pip install '.[cluster]' in the source tree ({error})"
        ) from error
    return OneMachine(settings) if settings.devices else JoinedCluster(settings)
