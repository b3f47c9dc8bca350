"""All counters, gauges and histograms, in one place.

Each app has its own registry, so that two apps in one process do not mix their figures. Labels have few values,
such as route templates and codes; never an id, a path or anything else that a client chooses.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from resource import getpagesize
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.version import VERSION

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

QUEUES = ("decode", "search", "encode", "track")
TIERS = ("device", "host", "disk")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Model(Protocol):
    """The properties of a model that are exported. The Segmenter of segmenter.py has them."""

    @property
    def name(self) -> str:
        """The variant."""

    @property
    def dtype_name(self) -> str:
        """The precision."""

    @property
    def device_name(self) -> str:
        """The device it runs on."""

    def memory_bytes(self) -> int | None:
        """Device memory that this process holds; None if the device uses host memory."""


class Metrics:
    """The metrics of the server. On Linux, process_* adds memory, descriptors and start time of the process."""

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
            "Time of one stage of a request; for *_batch, of one batch.",
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
            "Uploads whose embedding was stored (hit), being made (joined) or neither (miss).",
            ["outcome"],
            registry=registry,
        )
        self.cache_hits = Counter(
            "sam2_cache_hits", "Embeddings found, by the tier that held them.", ["tier"], registry=registry
        )
        self.evictions = Counter(
            "sam2_evictions", "Embeddings evicted from a tier.", ["tier"], registry=registry
        )
        self.cache_bytes = Gauge(
            "sam2_cache_bytes", "Bytes of embeddings; on disk, also of uploads.", ["tier"], registry=registry
        )
        self.cache_images = Gauge("sam2_cache_images", "Embeddings in a tier.", ["tier"], registry=registry)
        self.bucket_seconds = Histogram(
            "sam2_bucket_request_seconds",
            "Time of a request to the bucket of SAM2_CACHE_URL, whether it succeeds or not.",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.bucket_failures = Counter(
            "sam2_bucket_failures",
            "Requests to the bucket of SAM2_CACHE_URL that failed.",
            ["operation"],
            registry=registry,
        )
        self.disk_failures = Counter(
            "sam2_disk_failures", "Operations on SAM2_CACHE_DIR that failed.", registry=registry
        )
        self.video_frames = Counter(
            "sam2_video_frames",
            "Frames of videos that were asked for: decoded, or failed because their data are broken.",
            ["outcome"],
            registry=registry,
        )
        self.video_bytes = Gauge(
            "sam2_video_bytes", "Bytes of video files, on disk or in memory.", registry=registry
        )
        self.tracks = Gauge("sam2_tracks", "Tracks that can be asked for by their id.", registry=registry)
        self.track_bytes = Gauge(
            "sam2_track_bytes", "Bytes that tracks remember of their objects.", registry=registry
        )
        self.tracked_frames = Counter(
            "sam2_tracked_frames",
            "Frames that propagations passed: tracked, or failed because a frame cannot be read.",
            ["outcome"],
            registry=registry,
        )
        self.out_of_memory = Counter(
            "sam2_out_of_memory",
            "Batches that did not fit into device memory.",
            ["queue"],
            registry=registry,
        )
        self.device_memory_bytes = Gauge(
            "sam2_device_memory_bytes",
            "GPU memory that this process holds; on a CPU, its resident memory.",
            registry=registry,
        )
        self.pictures_ahead = Gauge(
            "sam2_pictures_ahead",
            "Pictures of Label Studio's projects that wait to be embedded before anybody clicks on them.",
            registry=registry,
        )
        self.embedded_ahead = Counter(
            "sam2_embedded_ahead",
            "Of these, those that were embedded, had been embedded before (known), or failed.",
            ["outcome"],
            registry=registry,
        )
        self.names_reachable = Gauge(
            "sam2_names_reachable",
            "1 if names can be read and written; 0 while the database of SAM2_REGISTER_URL cannot be used.",
            registry=registry,
        )
        self.names_reachable.set(1)
        self.loop_lag = Histogram(
            "sam2_event_loop_lag_seconds",
            "Delay of a timer on the event loop: how long it stood still.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.longest_loop_lag = Gauge(
            "sam2_event_loop_lag_longest_seconds",
            "The longest of these delays since the start.",
            registry=registry,
        )
        self._longest_lag_s = 0.0
        self.ready = Gauge("sam2_ready", "1 if /readyz returns 200, otherwise 0.", registry=registry)
        self.build = Gauge(
            "sam2_build_info",
            "Always 1; the labels say what runs.",
            ["version", "model", "dtype", "device"],
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        """Export metrics with known labels at 0: a rate over a series that appears later misses its first event."""
        for queue in QUEUES:
            self.batch_size.labels(queue)
            self.out_of_memory.labels(queue)
        for tier in TIERS:
            self.cache_hits.labels(tier)
            self.evictions.labels(tier)
        for outcome in ("hit", "joined", "miss"):
            self.cache_lookups.labels(outcome)
        for outcome in ("decoded", "failed"):
            self.video_frames.labels(outcome)
        for outcome in ("tracked", "failed"):
            self.tracked_frames.labels(outcome)
        for outcome in ("embedded", "known", "failed"):
            self.embedded_ahead.labels(outcome)

    def observe_bucket(self, operation: str, seconds: float, succeeded: bool) -> None:
        """Count a request to the bucket."""
        self.bucket_seconds.labels(operation).observe(seconds)
        failures = self.bucket_failures.labels(operation)
        if not succeeded:
            failures.inc()

    def describe(self, model: Model) -> None:
        """Export the model's properties, once it runs, and the memory of its device."""
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
            except Exception:  # /readyz reports why the server is not ready; here it is only a 0
                return 0
            return 1

        self.ready.set_function(read)

    def watch_names(self, works: Callable[[], bool]) -> None:
        """Export 1 while names that servers share can be used."""
        self.names_reachable.set_function(works)

    def observe_loop_lag(self, seconds: float) -> None:
        """Record how long the event loop stood still."""
        self.loop_lag.observe(seconds)
        if seconds > self._longest_lag_s:
            self._longest_lag_s = seconds
            self.longest_loop_lag.set(seconds)

    def observe_batch(self, queue: str, size: int, seconds: float) -> None:
        """Record one batch of a queue."""
        self.batch_size.labels(queue).observe(size)
        self.stage_seconds.labels(f"{queue}_batch").observe(seconds)

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record the stages of one request."""
        for stage, duration in seconds.items():
            self.stage_seconds.labels(stage).observe(duration)

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Return the bytes of this process that are not swapped out; NaN if the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
    except OSError:
        return float("nan")
