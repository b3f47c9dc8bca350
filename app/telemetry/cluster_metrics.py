"""Metrics of a Front, and those of its Devices joined with them for one scrape.

Does not know what a Front asks of a Device.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

_MOST_DEVICES = 1000
"""Whose calls are told: those that answered last. Each one that is replaced leaves a name, for ever else."""
_OWN_LABEL = re.compile('(?:(?<=,)|^)device(?==")')


class ClusterMetrics:
    """What only a server with many Devices has."""

    def __init__(self, registry: CollectorRegistry, *, most: int = _MOST_DEVICES) -> None:
        self._most = most
        self._called: OrderedDict[str, None] = OrderedDict()
        self.devices = Gauge("sam2_devices", "Devices that answer.", registry=registry)
        self.ready_devices = Gauge("sam2_ready_devices", "Of these, those that are ready.", registry=registry)
        self.device_calls = Counter(
            "sam2_device_calls", "Calls that a device answered.", ["device"], registry=registry
        )
        self.moved_calls = Counter(
            "sam2_moved_calls",
            "Of these, those that another device answered than the call before on the same picture or name.",
            registry=registry,
        )
        self.asked_again = Counter(
            "sam2_asked_again",
            "Calls that were asked again: a device was lost, or refused them.",
            registry=registry,
        )

    def count_call(self, device: str) -> None:
        """Count a call that a device answered."""
        self.device_calls.labels(device).inc()
        self._called[device] = None
        self._called.move_to_end(device)
        if len(self._called) > self._most:
            self.device_calls.remove(self._called.popitem(last=False)[0])


def merged(own: bytes, of_devices: Sequence[tuple[str, bytes]]) -> bytes:
    """Return metrics in Prometheus's text format: one's own, and those of Devices with a label `device`.

    The format wants all lines of a metric together, so they are sorted by their metric.
    """
    lines: dict[str, list[str]] = {}
    heads: dict[str, list[str]] = {}
    for device, text in (("", own), *of_devices):
        metric = ""
        for line in text.decode().splitlines():
            if line.startswith("# "):
                metric = line.split(" ", 3)[2]
                known = heads.setdefault(metric, [])
                if len(known) < 2 and line not in known:
                    known.append(line)
            elif line:
                lines.setdefault(metric, []).append(_labelled(line, device) if device else line)
    joined = "\n".join(line for name, head in heads.items() for line in (*head, *lines.get(name, ())))
    return f"{joined}\n".encode()


def _labelled(line: str, device: str) -> str:
    """Return a line with the label. One that it has of that name is renamed as Prometheus itself would."""
    name, brace, rest = line.partition("{")
    if brace:
        return f'{name}{{device="{device}",{_OWN_LABEL.sub("exported_device", rest)}'
    name, _, value = line.partition(" ")
    return f'{name}{{device="{device}"}} {value}'
