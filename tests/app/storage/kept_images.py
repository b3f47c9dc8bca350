"""Settings for a server that stores its images in a folder, and helpers that wait until they are stored."""

import asyncio
from pathlib import Path

from app.settings import Settings
from tests.fakes import Served, until


def settings(
    folder: Path, *, keep_uploads: bool = False, image_ttl_s: float = 0, device_cache_mib: int = 64
) -> Settings:
    """Settings of a server with a cache folder."""
    return Settings(
        workers=2,
        cache_dir=str(folder),
        keep_uploads=keep_uploads,
        image_ttl_s=image_ttl_s,
        device_cache_mib=device_cache_mib,
    )


async def on_disk(served: Served, image_id: str) -> None:
    """Wait until the image's embedding is on the disk."""
    async with asyncio.timeout(20):
        while "disk" not in (await served.client.get(f"/images/{image_id}")).json()["tiers"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def saved(served: Served) -> None:
    """Wait until all writes are done."""
    await until(lambda: not served.service.store.tiers._tasks)
