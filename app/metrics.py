"""The names of all counters and histograms, in one place.

Each app has a registry of its own, so that two apps in one process do not mix their figures.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What the server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sam2_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "sam2_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "sam2_stage_seconds",
            "Time of one stage of a request.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "sam2_batch_size", "Items in one batch.", ["queue"], buckets=_SIZES, registry=self.registry
        )
        self.rejections = Counter(
            "sam2_rejections", "Requests that got an error, by its code.", ["code"], registry=self.registry
        )
        self.cache_lookups = Counter(
            "sam2_cache_lookups",
            "Uploads whose embedding was there (hit), being made (joined) or not (miss).",
            ["outcome"],
            registry=self.registry,
        )
        self.evictions = Counter("sam2_evictions", "Embeddings evicted.", registry=self.registry)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Export a figure that is read when it is scraped."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record the stages of one request."""
        for stage, duration in seconds.items():
            self.stage_seconds.labels(stage).observe(duration)

    def observe_batch(self, queue: str, size: int, seconds: float) -> None:
        """Record one batch of a queue."""
        self.batch_size.labels(queue).observe(size)
        self.stage_seconds.labels(f"{queue}_batch").observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
