"""A Front before several fake devices."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from app.main import create_app
from app.settings import Settings
from tests.fake_devices import FakeDevices
from tests.fakes import FakeSegmenter, Served, until


@asynccontextmanager
async def front(
    devices: int = 3,
    *,
    folder: Path | None = None,
    models: Sequence[str] = (),
    of_devices: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Served, FakeDevices]]:
    """Run a Front before some devices: of these models, or all of one. They may have other settings than it has."""
    given = {"workers": 2, "cache_dir": str(folder) if folder else ""} | settings
    wanted = Settings(**given)
    segmenters = [FakeSegmenter() for _ in range(devices)]
    for segmenter, model in zip(segmenters, models, strict=False):
        segmenter.name, segmenter.fingerprint = model, sha256(model.encode()).hexdigest()
    fake = FakeDevices(Settings(**given | (of_devices or {})), *segmenters)
    app = create_app(wanted, connect=fake.connect)
    app.state.fake_devices = fake
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await until(lambda: app.state.service.is_loaded)
            try:
                yield Served(app, client, segmenters[0]), fake
            finally:
                for segmenter in segmenters:
                    segmenter.gate.set()


def encodes(devices: FakeDevices) -> int:
    """Return how many pictures were encoded in all."""
    return sum(len(service._segmenter.encoded) for service in devices.services)  # type: ignore[union-attr]
