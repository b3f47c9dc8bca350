"""Looks at the Devices from time to time. Does not know about requests."""

import asyncio
import logging
import math
from dataclasses import fields
from time import monotonic
from typing import TypeVar

from app.cluster.devices import Devices
from app.errors import NotReady
from app.service.segmentation import DeviceState, ModelCard
from app.settings import Settings
from app.storage.opening import CacheLimits
from app.telemetry.cluster_metrics import ClusterMetrics

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
"""Time in which a Device says how it is."""
_EVERY_S = 1.0
_FORGOTTEN_S = 10.0
"""With no Device ready for so long, none is."""

T = TypeVar("T", DeviceState, CacheLimits)


def _complete(received: T) -> T:
    """Return it with a default for each field that a Device of a version before did not know.

    Unpickled, such a field has no value. Raises TypeError where there is no default.
    """
    known = {
        each.name: getattr(received, each.name) for each in fields(received) if hasattr(received, each.name)
    }
    return type(received)(**known)


class Watch:
    """The newest states of all Devices, and what is the same for all of them."""

    def __init__(self, figures: ClusterMetrics, settings: Settings) -> None:
        self._figures = figures
        self._own = self.settings = settings
        """Of this server, with what counts at the Devices as one of them has it."""
        self.states: list[DeviceState] = []
        self.limits: CacheLimits
        """Of one Device. Exists once one has been ready."""
        self._card: ModelCard | None = None
        self._seen_at = -math.inf
        self._looked_at = math.inf
        """The first time."""
        self._told = 0, 0
        self._away_since: float | None = None
        """Since when none has been ready, if that was logged."""

    @property
    def has_seen_one(self) -> bool:
        """Whether a Device has been ready."""
        return self._card is not None

    @property
    def are_apart(self) -> bool:
        """Whether there are several Devices, of which one does not know what another one was sent."""
        return len(self.states) > 1 and not all(state.keeps_files for state in self.states)

    def model(self) -> ModelCard:
        """Return the model. Raises NotReady if no Device has been ready lately."""
        if self._card is None:
            raise NotReady("No device is ready yet; /readyz says when one is.", retry_after_s=2)
        if monotonic() - self._seen_at > _FORGOTTEN_S:
            raise NotReady("No device answers; they are being restarted. Try again later.", retry_after_s=5)
        return self._card

    async def keep_looking(self, devices: Devices) -> None:
        """Look until cancelled. No fault may end it: this server would not be ready again."""
        told = ""
        while True:
            try:
                await self.look(devices)
            except Exception as error:  # a bug, or a Device of another version
                if told != repr(error):  # once, not each second
                    log.exception("What Devices say of themselves is not understood")
                told = repr(error)
            await asyncio.sleep(_EVERY_S)

    async def look(self, devices: Devices) -> None:
        """Ask all Devices how they are."""
        self._looked_at = min(self._looked_at, monotonic())
        why = "none answers"
        try:
            found = await devices.states(patience_s=_PATIENCE_S)
        except Exception as error:  # the engine may be restarting anything; `_log` tells when it lasts
            found, why = [], f"{why} ({error})"
        self.states, ready = [_complete(state) for state in found], 0
        for state in self.states:
            if state.problem or state.model is None or state.limits is None:
                continue
            ready += 1
            if self._card is None:
                log.info("Ready: %s", state.model.name)
            self._card, self.limits, self._seen_at = state.model, _complete(state.limits), monotonic()
            is_off = {"video": "off"} if self._own.video == "off" else {}
            self.settings = self._own.model_copy(update=state.settings | is_off)
        self._figures.devices.set(len(self.states))
        self._figures.ready_devices.set(ready)
        self._log(ready, why)

    def _log(self, ready: int, why: str) -> None:
        """Say what has changed, and once that requests are refused, which nobody else may log."""
        problems = "; ".join(
            f"{each.name} on {each.node}: {each.problem}" for each in self.states if each.problem
        )
        if self._told != (counts := (ready, len(self.states))):
            self._told = counts
            log.info("Devices that are ready: %d of %d%s", *counts, f" ({problems})" if problems else "")
        now, since = monotonic(), max(self._looked_at, self._seen_at)
        if ready and self._away_since is not None:
            log.warning("A device is ready again, after %.0f s", now - self._away_since)
            self._away_since = None
        elif not ready and self._away_since is None and now - since > _FORGOTTEN_S:
            log.warning(
                "No device has been ready for %.0f s, so requests get 503: %s", now - since, problems or why
            )
            self._away_since = since


async def figures_of(devices: Devices) -> list[tuple[str, bytes]]:
    """Return the names and metrics of those that answer. A Front's own are wanted most when there are none."""
    try:
        return await devices.figures(patience_s=_PATIENCE_S)
    except Exception as error:  # the engine may be restarting anything
        log.info("No device tells its metrics: %s", error)
        return []
