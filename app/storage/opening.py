"""Open the store from the settings, and connect it to the metrics.

Does not know what the store does.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from app.errors import Overloaded
from app.segmenter import Segmenter
from app.settings import Settings
from app.storage.store import EmbeddingStore, StoreLimits
from app.storage.tiers import DEVICE, DISK, HOST
from app.telemetry.metrics import Metrics
from model.errors import DeviceOutOfMemory
from model.types import Embedding

if TYPE_CHECKING:
    from app.storage.bucket import Bucket
    from app.storage.sharing import Sharing


class CacheUrlError(Exception):
    """SAM2_CACHE_URL cannot be used. The message says why, and what to do."""


class SharingError(Exception):
    """SAM2_REGISTER_URL cannot be used. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What embeddings may take of the two kinds of memory."""

    device_bytes: int
    host_bytes: int
    """0 if the device is the host."""


async def open_store(
    settings: Settings,
    segmenter: Segmenter,
    metrics: Metrics,
    *,
    limits: CacheLimits,
    adopt: Callable[[Embedding], Awaitable[Embedding]],
    bucket: "Bucket | None" = None,
    sharing: "Sharing | None" = None,
) -> EmbeddingStore:
    """Open the store of a model's embeddings. `adopt` moves one to the model's device."""

    async def adopt_with_room(embedding: Embedding) -> Embedding:
        while True:
            try:
                return await adopt(embedding)
            except DeviceOutOfMemory as error:
                # The error's frames hold the outcome, which holds it: a cycle that keeps a place on the device.
                error.__traceback__ = error.__context__ = None
                if not await store.tiers.make_room():
                    what = "The device memory for embeddings is full, and all of them are in use. Try again later."
                    raise Overloaded(what, retry_after_s=1) from error

    store = EmbeddingStore(
        StoreLimits(
            device_bytes=limits.device_bytes,
            host_bytes=limits.host_bytes,
            disk_bytes=settings.disk_cache_mib * 2**20,
            folder=settings.cache_path,
            ttl_s=settings.image_ttl_s,
        ),
        fingerprint=segmenter.fingerprint,
        adopt=adopt_with_room,
        on_hit=lambda tier: metrics.cache_hits.labels(tier).inc(),
        on_evict=lambda tier: metrics.evictions.labels(tier).inc(),
        on_disk_failure=metrics.disk_failures.inc,
        bucket=bucket,
        sharing=sharing,
    )
    for tier in (DEVICE, HOST, DISK):
        metrics.cache_hits.labels(tier)
        metrics.evictions.labels(tier)
        metrics.cache_bytes.labels(tier).set_function(partial(store.tiers.used_bytes, tier))
        metrics.cache_images.labels(tier).set_function(partial(store.tiers.num_images, tier))
    await store.open()
    return store


def bucket_by(settings: Settings, metrics: Metrics) -> "Bucket | None":
    """Return the bucket of SAM2_CACHE_URL, not yet asked for anything; None without it. Raises CacheUrlError."""
    if not settings.cache_url:
        return None
    try:
        from app.storage.bucket import Bucket  # here, because few need boto3
        from app.storage.bucket_errors import BucketError
    except ImportError as error:
        what = f"SAM2_CACHE_URL needs the extra 's3': pip install '.[s3]' ({error})"
        raise CacheUrlError(what) from error
    try:
        return Bucket(settings.cache_url, on_request=metrics.observe_bucket)
    except BucketError as error:
        raise CacheUrlError(f"SAM2_CACHE_URL={settings.cache_url}: {error}") from error


def check_bucket(settings: Settings) -> None:
    """Write, read, list and delete a small object in the bucket of SAM2_CACHE_URL. Raises CacheUrlError."""
    bucket = bucket_by(settings, Metrics())
    if bucket is None:
        return
    try:
        bucket.probe()
    except OSError as error:
        raise CacheUrlError(f"SAM2_CACHE_URL={settings.cache_url}: {error}") from error
    finally:
        bucket.close()


def sharing_by(settings: Settings) -> "Sharing | None":
    """Return what servers share by SAM2_REGISTER_URL, not yet open; None without it.

    Raises SharingError, which says what is missing.
    """
    url = settings.register_url.get_secret_value()
    if not url:
        return None
    try:
        from app.storage.sharing import Sharing  # here, because few need PostgreSQL's driver
    except ImportError as error:
        what = f"SAM2_REGISTER_URL needs the extra 'postgres': pip install '.[postgres]' ({error})"
        raise SharingError(what) from error
    try:
        return Sharing(url)
    except ValueError as error:
        raise SharingError(str(error)) from None
