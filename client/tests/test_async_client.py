"""AsyncClient against the real service without a port. It differs from Client only in `await`."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from client_server import Trouble

import sam2_client
from sam2_client import (
    AsyncClient,
    AsyncImage,
    AsyncTrack,
    AsyncVideo,
    Client,
    Image,
    Prompt,
    Track,
    Video,
)
from tests.fakes import RADII, disc_mask, picture, serving


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[AsyncClient, Trouble]]:
    async with serving() as served:
        trouble = Trouble(served.app)
        transport = httpx.ASGITransport(trouble)
        async with AsyncClient("http://localhost", transport=transport) as client:
            yield client, trouble


async def test_a_click_and_its_refinement(truck: Path) -> None:
    async with connected() as (client, trouble):
        image = await client.embed(truck)
        best, *_ = await image.decode(points=[(30, 20)])
        wanted = disc_mask(30, 20, RADII[2], height=40, width=60)
        assert np.array_equal(best.to_numpy(), wanted)
        trouble.asked.clear()
        (same,) = await image.decode(mask=best)
        assert trouble.asked == ["POST /decode"] * 2
        assert np.array_equal(same.to_numpy(), wanted)


async def test_many_prompts_at_once(truck: Path) -> None:
    async with connected() as (client, _):
        image = await client.embed(truck)
        boxes = [Prompt(box=(x, 0, x + 10, 40)) for x in range(0, 50, 10)]
        for x, (mask,) in zip(range(0, 50, 10), await image.decode_many(boxes), strict=True):
            assert np.array_equal(mask.to_numpy(), disc_mask(x + 5, 20, RADII[1], height=40, width=60))


async def test_what_was_forgotten_is_embedded_again(truck: Path) -> None:
    async with connected() as (client, trouble):
        image = await client.embed(truck, "truck")
        await image.delete()
        assert len(await image.decode(points=[(30, 20)])) == 3
        assert (await client.image("truck")).width == 60
        assert trouble.asked.count("POST /embed") == 2


async def test_a_busy_server_is_asked_again_and_errors_are_exceptions(truck: Path) -> None:
    async with connected() as (client, trouble):
        trouble.replies.append((503, {"Retry-After": "0"}, b""))
        await client.embed(truck)
        assert trouble.asked == ["POST /embed"] * 2
        with pytest.raises(sam2_client.InvalidImage):
            await client.embed(b"no picture")


async def test_embed_many_waits_for_its_turn_as_often_as_it_is_told_to(truck: Path) -> None:
    async with connected() as (client, trouble):
        slowly = b'{"error": {"code": "rate_limited", "message": "Slowly."}}'
        trouble.replies += [(429, {"Retry-After": "0"}, slowly)] * 12
        (result,) = await client.embed_many([truck], progress=False)
        assert result.error is None
        assert trouble.asked == ["POST /embed"] * 13


async def test_waiting_leaves_the_loop_to_others(truck: Path) -> None:
    async with connected() as (client, trouble):
        trouble.replies.append((503, {"Retry-After": "1"}, b""))
        waiting = asyncio.create_task(client.embed(truck))
        while not trouble.asked:  # noqa: ASYNC110  # the server has no event to wait for
            await asyncio.sleep(0.001)
        assert (await client.embed(picture())).width == 60
        assert not waiting.done()
        waiting.cancel()


async def test_embed_many_is_bounded_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources: list[str | bytes] = [picture(60 + shade, 40, shade=shade) for shade in range(8)]
    sources[3:3] = [str(tmp_path / "nowhere.png"), b"no picture"]
    async with connected() as (client, trouble):
        results = await client.embed_many(iter(sources), concurrency=2)
        assert trouble.most_at_once == 2
    assert [result.source for result in results] == sources
    assert [result.image.width if result.image else type(result.error) for result in results] == [
        60, 61, 62, FileNotFoundError, sam2_client.InvalidImage, 63, 64, 65, 66, 67,
    ]  # fmt: skip
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "failed=2" in shown


async def test_one_request_clean_up_and_what_the_server_holds(truck: Path) -> None:
    async with connected() as (client, trouble):
        best, *_ = await client.segment(truck, [(30, 20)], max_hole_area=1, max_sprinkle_area=1)
        assert trouble.asked == ["POST /segment"]
        assert np.array_equal(best.to_numpy(), disc_mask(30, 20, RADII[2], height=40, width=60))
        (image,) = await client.images()
        (same,) = await image.decode(mask=best, max_hole_area=1)
        assert np.array_equal(same.to_numpy(), best.to_numpy())
        with pytest.raises(sam2_client.ValidationFailed, match="max_sprinkle_area"):
            await image.decode_many([Prompt(points=[(30, 20)])], max_sprinkle_area=-1)
        assert (await image.feature_maps())["image_embed"].dtype == np.float32
        assert (await client.model()).name == "fake"
        await client.delete(image.image_id)
        assert await client.images() == []


@pytest.mark.parametrize(
    ("plain", "awaited"),
    [(Client, AsyncClient), (Image, AsyncImage), (Track, AsyncTrack), (Video, AsyncVideo)],
)
def test_both_clients_have_the_same_methods(plain: type, awaited: type) -> None:
    def methods(of: type) -> dict[str, list[tuple[str, object]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(of, inspect.isfunction)
            if name == "__init__" or not name.startswith("_")
        }

    assert methods(plain) == methods(awaited)
    assert len(methods(plain)) > 2
