"""The names of all counters, gauges and histograms, in one place.

Each app has a registry of its own, so that two apps in one process do not mix their figures. Labels have few
values: templates of routes and codes, never an id, a path or anything else that a client makes up.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from resource import getpagesize
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.version import VERSION

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

QUEUES = ("decode", "encode")
TIERS = ("device", "host", "disk")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Model(Protocol):
    """What is told of a model: segmenter.py's Segmenter has it."""

    @property
    def name(self) -> str:
        """The variant."""

    @property
    def dtype_name(self) -> str:
        """Its precision."""

    @property
    def device_name(self) -> str:
        """Where it runs."""

    def memory_bytes(self) -> int | None:
        """Memory of the device that this process holds; None where that is the host's."""


class Metrics:
    """What the server counts. Beside these, process_* has memory, descriptors and start of the process on Linux."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "sam2_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "sam2_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.received_bytes = Counter(
            "sam2_received_bytes", "Bytes of request bodies.", ["route"], registry=registry
        )
        self.sent_bytes = Counter("sam2_sent_bytes", "Bytes of reply bodies.", ["route"], registry=registry)
        self.rejections = Counter(
            "sam2_rejections", "Requests that got an error, by its code.", ["code"], registry=registry
        )
        self.stage_seconds = Histogram(
            "sam2_stage_seconds",
            "Time of one stage of a request; *_batch: of one batch.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "sam2_batch_size", "Items in one batch.", ["queue"], buckets=_SIZES, registry=registry
        )
        self.waiting_prompts = Gauge("sam2_waiting_prompts", "Prompts in the queue.", registry=registry)
        self.waiting_images = Gauge("sam2_waiting_images", "Pictures not embedded yet.", registry=registry)
        self.cache_lookups = Counter(
            "sam2_cache_lookups",
            "Uploads whose embedding was there (hit), being made (joined) or not (miss).",
            ["outcome"],
            registry=registry,
        )
        self.cache_hits = Counter(
            "sam2_cache_hits", "Embeddings found, by the tier that held them.", ["tier"], registry=registry
        )
        self.evictions = Counter(
            "sam2_evictions", "Embeddings that had to leave a tier.", ["tier"], registry=registry
        )
        self.cache_bytes = Gauge(
            "sam2_cache_bytes", "Bytes of embeddings; on disk of uploads too.", ["tier"], registry=registry
        )
        self.cache_images = Gauge("sam2_cache_images", "Embeddings.", ["tier"], registry=registry)
        self.out_of_memory = Counter(
            "sam2_out_of_memory",
            "Batches that did not fit into the device's memory.",
            ["queue"],
            registry=registry,
        )
        self.device_memory_bytes = Gauge(
            "sam2_device_memory_bytes",
            "Memory of the GPU that this process holds; on a CPU its resident memory.",
            registry=registry,
        )
        self.ready = Gauge("sam2_ready", "1 where /readyz says 200.", registry=registry)
        self.build = Gauge(
            "sam2_build_info",
            "Always 1; says what runs.",
            ["version", "model", "dtype", "device"],
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        """Export at 0 what has known labels: a rate over what appears with its first event misses that event."""
        for queue in QUEUES:
            self.batch_size.labels(queue)
            self.out_of_memory.labels(queue)
        for tier in TIERS:
            self.cache_hits.labels(tier)
            self.evictions.labels(tier)
        for outcome in ("hit", "joined", "miss"):
            self.cache_lookups.labels(outcome)

    def describe(self, model: Model) -> None:
        """Say what runs, once it does, and watch the memory of its device."""
        self.build.labels(VERSION, model.name, model.dtype_name, model.device_name).set(1)

        def held() -> float:
            on_device = model.memory_bytes()
            return resident_bytes() if on_device is None else on_device

        self.device_memory_bytes.set_function(held)

    def watch_readiness(self, check: Callable[[], object]) -> None:
        """Export 1 while `check` raises nothing."""

        def read() -> float:
            try:
                check()
            except Exception:  # `check` raises why it is not ready, and /readyz tells; here that is a 0
                return 0
            return 1

        self.ready.set_function(read)

    def observe_batch(self, queue: str, size: int, seconds: float) -> None:
        """Record one batch of a queue."""
        self.batch_size.labels(queue).observe(size)
        self.stage_seconds.labels(f"{queue}_batch").observe(seconds)

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record the stages of one request."""
        for stage, duration in seconds.items():
            self.stage_seconds.labels(stage).observe(duration)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Memory of this process that is not swapped out; NaN where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
    except OSError:
        return float("nan")
