"""Downloads of embeddings: who waits for a turn holds none."""

import asyncio
import threading
from typing import Any

import pytest

from app.service import local
from app.service.embedding_export import pack
from app.settings import Settings
from tests.fakes import LONG_S, picture, serving, until


async def test_a_download_that_waits_holds_no_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that fetched a hundred at once had the server hold a hundred, beside those of the cache."""
    gate = threading.Event()

    def gated(*embedding: Any, **form: Any) -> bytes:
        assert gate.wait(LONG_S)
        return pack(*embedding, **form)

    monkeypatch.setattr(local, "pack", gated)
    async with serving(Settings(workers=2)) as served:
        for shade in range(5):
            await served.embed(picture(shade=shade), str(shade))
        found = list[str]()
        find = served.service.find

        async def noting(image_id: str, **whose: Any) -> Any:
            found.append(image_id)
            return await find(image_id, **whose)

        monkeypatch.setattr(served.service, "find", noting)
        asked = [asyncio.create_task(served.client.get(f"/images/{name}/embedding")) for name in range(5)]
        await until(lambda: len(served.service._exports._waiting) == 1 and len(found) == 2)
        assert sum(map(len, served.service._exports._waiting.values())) == 3
        gate.set()
        assert [reply.status_code for reply in await asyncio.gather(*asked)] == [200] * 5
        assert len(found) == 5
