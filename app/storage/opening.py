"""Open the store from the settings, and connect it to the metrics.

Does not know what the store does.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryFile
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


_STAYS_SO = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
}
"""Why a folder cannot be written that no waiting mends. A disk that is full or fails may work again."""


class CacheDirError(Exception):
    """SAM2_CACHE_DIR cannot be used. The message says why, and what to do."""


class CacheUrlError(Exception):
    """SAM2_CACHE_URL cannot be used. The message says why, and what to do."""


class SharingError(Exception):
    """SAM2_REGISTER_URL cannot be used. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What embeddings may take of the two kinds of memory, and tracks."""

    device_bytes: int
    host_bytes: int
    """0 if the device is the host."""
    track_bytes: int | None = None
    """What was left of a GPU for tracks, which may be less than their setting. None: the setting alone counts."""


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
        model=segmenter.name,
        fingerprint=segmenter.fingerprint,
        adopt=adopt_with_room,
        on_hit=lambda tier: metrics.cache_hits.labels(tier).inc(),
        on_evict=lambda tier: metrics.evictions.labels(tier).inc(),
        on_disk_failure=metrics.disk_failures.inc,
        bucket=bucket,
        sharing=sharing,
    )
    for tier in (DEVICE, HOST, DISK):
        metrics.cache_bytes.labels(tier).set_function(partial(store.tiers.used_bytes, tier))
        metrics.cache_images.labels(tier).set_function(partial(store.tiers.num_images, tier))
    await store.open()
    return store


def check_folder(settings: Settings) -> None:
    """See that this user may write in SAM2_CACHE_DIR, and what an earlier server made there.

    Raises CacheDirError, but not for a disk that is full or fails: that costs no request (disk_trouble.py).
    """
    if (folder := settings.cache_path) is None:
        return
    place = folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        for name in ("embeddings", "uploads", "tracks", "videos", "videos/files"):
            if (place := folder / name).exists():
                with TemporaryFile(dir=place):
                    pass
        for name in ("register.sqlite", "videos/register.sqlite"):
            if (place := folder / name).exists():
                place.open("r+b").close()
    except OSError as error:
        if error.errno in _STAYS_SO:
            raise CacheDirError(
                f"SAM2_CACHE_DIR={settings.cache_dir}: {place} cannot be written: {error.strerror}. Give the whole "
                "folder to the user that runs the server, or set another one, or none: then embeddings and names "
                "are kept in memory only."
            ) from error


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
