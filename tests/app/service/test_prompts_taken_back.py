"""Prompts that are taken back: of frames that are gone, in tracks that remember nothing, first and last ones."""

from pathlib import Path

from app.settings import Settings
from tests.app.routes.track_requests import CLICK, begin, click, lines, numbers
from tests.fakes import Served, serving


async def order(served: Served) -> list[int]:
    """Return the objects as the track is described, in order."""
    return [each["object"] for each in (await served.client.get("/tracks/walk")).json()["objects"]]


async def test_the_prompt_of_a_lost_frame_can_be_taken_back(tmp_path: Path) -> None:
    """After a restart too, when nothing is remembered: the frame is not needed to forget what was said of it."""
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    async with serving(settings) as served:
        await begin(served, 3, track_id="walk")
        for fields in ({}, {"frame": 1}, {"object": 2}):
            await click(served, "walk", **fields)
    async with serving(settings) as served:
        await served.client.delete("/images/f0")
        assert (await served.post("/tracks/walk/propagate", {})).status_code == 404
        reply = await served.client.delete("/tracks/walk/objects/1/prompts/0")
        assert (reply.status_code, reply.json()) == (200, {"dropped": None})
        reply = await served.client.delete("/tracks/walk/objects/2/prompts/0")
        assert "Object 2 is dropped: without its prompt on frame 0" in reply.json()["dropped"]
        found = await lines(served, "walk")
        assert numbers(found) == [1, 2]
        assert [each["object"] for each in found[0]["objects"]] == [1]


async def test_objects_keep_their_order_when_the_first_prompt_is_taken_back(tmp_path: Path) -> None:
    """After a restart too, and in the description."""
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    async with serving(settings) as served:
        await begin(served, 3, track_id="walk")
        for object_id, frame in ((1, 0), (2, 0), (1, 2), (3, 1)):
            await click(served, "walk", object=object_id, frame=frame)
        await served.client.delete("/tracks/walk/objects/1/prompts/0")
        assert await order(served) == [1, 2, 3]
        before = await lines(served, "walk")
        assert [each["object"] for each in before[0]["objects"]] == [1, 2, 3]
    async with serving(settings) as served:
        assert await order(served) == [1, 2, 3]
        assert await lines(served, "walk") == before


async def test_a_track_without_prompts_has_nothing_done() -> None:
    async with serving(Settings(workers=2)) as served:
        await begin(served, 3, track_id="walk")
        for path in ("objects/1", "objects/1/prompts/0"):
            await served.post("/tracks/walk/prompts", CLICK)
            await lines(served, "walk")
            assert (await served.client.get("/tracks/walk")).json()["done"] == [[0, 2]]
            await served.client.delete(f"/tracks/walk/{path}")
            assert (await served.client.get("/tracks/walk")).json()["done"] == []
