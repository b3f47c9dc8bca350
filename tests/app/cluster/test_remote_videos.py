"""Videos on several devices behind a Front: uploads in parts, devices that die, and frames from any of them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from app.cluster import remote_videos
from app.cluster.parts import InParts, Parts
from tests.app.cluster.fronts import encodes, front
from tests.app.routes.test_videos import CLIP, MP4, pixels_of, upload
from tests.app.routes.track_requests import click, lines, numbers
from tests.fakes import error, until
from tests.small_videos import FRAMES, number_of


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.asking._FIRST_PAUSE_S", 0)
    monkeypatch.setattr(remote_videos, "PART_BYTES", -(-len(CLIP) // 4))  # four parts


async def test_a_large_file_travels_in_parts_and_none_is_left(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        reply = await upload(served.client)
        assert reply.json()["video_id"] == hashlib.sha256(CLIP).hexdigest()
        assert [method for method, _ in devices.asked] == ["part"] * 4 + ["videos.add"]
        (owner,) = {device for _, device in devices.asked}
        assert devices._answering[owner].parts._begun == {}
        frame = await served.client.get(f"/videos/{reply.json()['video_id']}/frames/3")
        assert number_of(pixels_of(frame)) == 3
        assert {device for _, device in devices.asked} == {owner}


@pytest.mark.parametrize("dying", [[1], [2, 2, 1], [2, 2, 2, 1], [2, 2, 2, 2, 1], [2, 1, 1]])
async def test_a_device_that_dies_during_an_upload_costs_no_error(tmp_path: Path, dying: list[int]) -> None:
    async with front(folder=tmp_path) as (served, devices):
        devices.dying = list(dying)
        reply = await upload(served.client, video_id="clip")
        assert reply.status_code == 200, reply.text
        assert reply.json()["frames"] == FRAMES
        assert len(devices.dead) == dying.count(1)
        (living, *_) = set(range(3)) - devices.dead
        assert devices._answering[living].parts._begun == {}


async def test_a_file_that_is_no_video_is_refused_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        assert error(await upload(served.client, CLIP[:-100])) == (422, "invalid_video")
        assert devices.asked == []  # its name would be its digest, before which it is looked at
        assert error(await upload(served.client, CLIP[:-100], video_id="clip")) == (422, "invalid_video")
        assert all(not each.parts._begun for each in devices._answering)


async def test_all_devices_know_a_video_and_track_it(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        await upload(served.client, video_id="clip")
        devices.dead.add(devices.asked[-1][1])
        listed = (await served.client.get("/videos")).json()["videos"]
        assert [each["video_id"] for each in listed] == ["clip"]
        frame = await served.client.get("/videos/clip/frames/7", headers={"Accept": "image/png"})
        assert number_of(pixels_of(frame)) == 7
        for track in "abc":
            await served.post("/tracks", {"video_id": "clip", "track_id": track})
            await click(served, track, point_coords=[[10, 10]])
            assert numbers(await lines(served, track, to=2)) == [0, 1, 2]
        assert encodes(devices) == 3
        clicked = await served.click(frame.headers["x-sam2-image-id"], 10, 10)
        assert error(clicked) == (404, "image_not_found")  # it is not embedded
        first = await served.client.get("/videos/clip/frames/0")
        assert (await served.click(first.headers["x-sam2-image-id"], 10, 10)).status_code == 200
        await served.client.delete("/videos/clip")
        devices.dead.clear()
        assert error(await served.client.get("/videos/clip")) == (404, "video_not_found")


async def test_a_body_is_held_once_beside_the_form_that_it_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pickled for a call is no larger than a part."""
    async with front(folder=tmp_path, devices=1) as (served, devices):
        largest = []
        ask = devices.ask

        async def watched(key: str, call: Any) -> Any:
            data = call.arguments.get("data")
            largest.append(len(data) if isinstance(data, bytes) else 0)
            return await ask(key, call)

        monkeypatch.setattr(devices, "ask", watched)
        reply = await served.client.post("/videos?video_id=clip", content=CLIP, headers=MP4)
        assert reply.status_code == 200
        assert 0 < max(largest) <= remote_videos.PART_BYTES


async def test_parts_come_in_order_also_twice_and_old_ones_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts()
    assert not parts.take("a", 3, b"def")
    assert parts.take("a", 0, b"abc")
    for _ in range(2):
        assert parts.take("a", 3, b"def")
    assert parts.whole(InParts("a", 6)) == b"abcdef"
    assert parts.whole(InParts("a", 6)) is None
    assert parts.take("b", 0, b"abc")
    assert parts.whole(InParts("b", 4)) is None
    assert parts.take("b", 0, b"abc")
    assert not parts.take("b", 4, b"ef")
    assert parts._begun == {}
    monkeypatch.setattr("app.cluster.parts.KEPT_S", 0.001)
    assert parts.take("c", 0, b"abc")
    await until(lambda: parts._begun == {})  # nothing else comes
    assert parts.whole(InParts("c", 3)) is None
