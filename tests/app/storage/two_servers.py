"""Two servers that share a folder and a PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.settings import Settings
from tests.fakes import Served, serving


@asynccontextmanager
async def two(
    url: str, folder: Path, *, pictures_per_minute: float = 0, deadline_s: float = 30
) -> AsyncIterator[tuple[Served, Served]]:
    """Two servers that share a folder and a database."""
    settings = Settings(
        workers=2,
        cache_dir=str(folder),
        register_url=url,
        rate_pictures_per_minute=pictures_per_minute,
        deadline_s=deadline_s,
    )
    async with serving(settings) as one, serving(settings) as other:
        yield one, other


async def names(served: Served) -> list[str]:
    return [each["image_id"] for each in (await served.client.get("/images")).json()["images"]]
