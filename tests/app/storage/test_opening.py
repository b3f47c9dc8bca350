"""An embedding that returns from host or disk finds room on the device, or its request gets 503."""

import asyncio
from pathlib import Path

import pytest

from app.settings import Settings
from model.errors import NoFreeSlot
from model.types import Embedding
from tests.fakes import FakeSegmenter, error, picture, serving


class CrowdedSegmenter(FakeSegmenter):
    """Has room for a returning embedding after `full_for` others have left."""

    def __init__(self, *, full_for: int) -> None:
        super().__init__()
        self.full_for = full_for

    def adopt(self, embedding: Embedding) -> Embedding:
        """Fail `full_for` times, then adopt."""
        if self.full_for:
            self.full_for -= 1
            raise NoFreeSlot("all places are held")
        return embedding


@pytest.mark.parametrize(("full_for", "answer"), [(1, 200), (2, 200), (9, 503)])
async def test_the_coldest_leave_for_what_comes_back(tmp_path: Path, full_for: int, answer: int) -> None:
    segmenter = CrowdedSegmenter(full_for=full_for)
    async with serving(Settings(cache_dir=str(tmp_path), workers=2), segmenter) as served:
        for shade, name in enumerate(["truck", "one", "other"]):
            await served.embed(picture(shade=shade), name)
        store = served.service.store
        content = (await store.look_up("truck", tenant="")).content
        while "disk" not in (await store.describe("truck", tenant="")).tiers:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        store.tiers.drop(content)
        reply = await served.click("truck")
        assert reply.status_code == answer
        if answer == 503:
            assert error(reply) == (503, "overloaded")
            assert (await served.click("truck")).status_code == 503
            segmenter.full_for = 0
            assert (await served.click("truck")).status_code == 200
