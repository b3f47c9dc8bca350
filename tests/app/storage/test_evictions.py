"""Embeddings that are evicted or deleted, and requests that still get their answer."""

from app.settings import Settings
from tests.app.requests_under_way import block, start
from tests.fakes import FakeSegmenter, error, picture, serving


async def test_memory_for_embeddings_is_bounded_and_the_least_recently_used_goes_first() -> None:
    # 120 * 120 cells of 8 + 4 * 2 + 4 * 4 floats of 4 bytes: 1.8 MB
    async with serving(Settings(device_cache_mib=4, workers=2), FakeSegmenter(embedding_side=120)) as served:
        for name in ("a", "b"):
            await served.embed(picture(shade=ord(name)), name)
        assert (await served.click("a")).status_code == 200  # now b is the least recently used
        await served.embed(picture(shade=ord("c")), "c")
        found = {name: (await served.click(name)).status_code for name in "abc"}
        assert found == {"a": 200, "b": 404, "c": 200}
        assert served.service.store.tiers.device.used_bytes <= 4 * 2**20
        listed = (await served.client.get("/images")).json()["images"]
        assert [(image["image_id"], image["tiers"]) for image in listed] == [
            ("c", ["device"]),
            ("b", []),  # its name is still known
            ("a", ["device"]),
        ]
        assert 'sam2_evictions_total{tier="device"} 1.0' in (await served.client.get("/metrics")).text
        again = await served.embed(picture(shade=ord("b")), "b")
        assert (again.status_code, again.json()["cached"]) == (200, False)
        assert (await served.click("b")).status_code == 200


async def test_an_embedding_larger_than_all_memory_is_kept_until_the_next() -> None:
    async with serving(Settings(device_cache_mib=1, workers=2), FakeSegmenter(embedding_side=120)) as served:
        for name in ("a", "b"):
            assert (await served.embed(picture(shade=ord(name)), name)).status_code == 200
            assert (await served.click(name)).status_code == 200
        assert (await served.click("a")).status_code == 404


async def test_an_embedding_that_is_evicted_before_its_caller_hears_of_it_is_kept_for_it() -> None:
    async with serving() as served:
        served.segmenter.gate.clear()
        (upload,) = start(served.embed(picture(), "truck"))
        await served.segmenter.wait_until_entered()
        ((content, encoding),) = served.service._encodings._running.items()
        encoding.task.add_done_callback(lambda _: served.service.store.tiers.drop(content))
        served.segmenter.gate.set()
        assert (await upload).status_code == 200
        assert (await served.click("truck")).status_code == 200


async def test_a_picture_that_is_deleted_while_it_is_clicked_is_still_answered() -> None:
    async with serving() as served:
        blocking = await block(served)
        assert (await served.client.delete("/images/blocked")).status_code == 204
        assert error(await served.click("blocked")) == (404, "image_not_found")
        served.segmenter.gate.set()
        assert (await blocking).status_code == 200
