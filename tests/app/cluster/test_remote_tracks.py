"""Tracks on several devices behind a Front: whose they are, devices that die, and what the next one still knows."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cluster.calls import Answer, Answering, Call, answer, answer_in_steps
from app.codecs.answers import MaskOptions
from app.errors import ShuttingDown
from app.service.track_values import Range
from model.video.values import Direction
from tests.app.cluster.fronts import encodes, front
from tests.app.routes.track_requests import CLICK, begin, click, lines, numbers
from tests.fake_devices import FakeDevices
from tests.fakes import Served, error, picture, serving, until


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.asking._FIRST_PAUSE_S", 0)
    monkeypatch.setattr("app.storage.arriving._PAUSE_S", 0.005)


@asynccontextmanager
async def followed(folder: Path, frames: int = 5, **fields: Any) -> AsyncIterator[tuple[Served, FakeDevices]]:
    """Run a Front before three devices, and begin the track `walk` with a click on frame 0."""
    async with front(folder=folder) as (served, devices):
        await begin(served, frames, track_id="walk", **fields)
        assert (await click(served, "walk")).status_code == 200
        yield served, devices


def asked_of_tracks(devices: FakeDevices) -> list[tuple[str, int]]:
    """Return methods and devices of the calls of tracks."""
    return [(method, device) for method, device in devices.asked if method.startswith("tracks.")]


async def undisturbed(**fields: Any) -> list[dict[str, Any]]:
    """Return the lines of a propagation of such a track in one process."""
    async with serving() as served:
        await begin(served, 5, track_id="walk")
        await click(served, "walk")
        return await lines(served, "walk", **fields)


async def test_all_calls_of_a_track_meet_one_device_and_tracks_are_spread(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        owners = set()
        for _ in range(6):
            devices.asked.clear()
            track = await begin(served, 2)
            assert len(track) == 32
            await click(served, track)
            assert numbers(await lines(served, track)) == [0, 1]
            await served.client.get(f"/tracks/{track}")
            await served.client.delete(f"/tracks/{track}")
            (owner,) = {device for _, device in asked_of_tracks(devices)}
            owners.add(owner)
        assert len(owners) > 1


async def test_frames_that_other_devices_have_just_embedded_are_not_embedded_again(tmp_path: Path) -> None:
    async with followed(tmp_path, frames=9) as (served, devices):
        assert numbers(await lines(served, "walk")) == list(range(9))
        assert encodes(devices) == 9


async def test_a_list_says_what_the_devices_of_the_tracks_have_done(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, _devices):
        for name in "abcdef":
            await begin(served, 2, track_id=name)
            await click(served, name)
            await lines(served, name)
        found = (await served.client.get("/tracks")).json()["tracks"]
        assert [each["track_id"] for each in found] == list("fedcba")
        assert all(each["done"] == [[0, 1]] and each["bytes"] for each in found)


@pytest.mark.parametrize("dying", [[1], [1, 1]])
async def test_a_device_that_dies_of_a_prompt_costs_no_error_and_the_prompt_counts_once(
    tmp_path: Path, dying: list[int]
) -> None:
    async with followed(tmp_path) as (served, devices):
        await click(served, "walk", object=2, frame=1)
        devices.dying = list(dying)
        again = await click(served, "walk", object=2, frame=1, point_coords=[[40, 20]])
        assert again.status_code == 200, again.text
        assert len(devices.dead) == len(dying)
        found = (await served.client.get("/tracks/walk")).json()["objects"]
        assert [len(prompts) for each in found for prompts in each["prompts"].values()] == [1, 2]
    async with serving() as alone:
        await begin(alone, 5, track_id="walk")
        await click(alone, "walk")
        await click(alone, "walk", object=2, frame=1)
        expected = await click(alone, "walk", object=2, frame=1, point_coords=[[40, 20]])
        assert again.json() == expected.json()


async def test_a_device_that_dies_of_a_new_track_leaves_no_conflict(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        await served.embed(picture(), "f0")
        devices.dying = [1]
        reply = await served.post("/tracks", {"frames": ["f0"], "track_id": "walk"})
        assert (reply.status_code, reply.json()["track_id"]) == (200, "walk")
        assert error(await served.post("/tracks", {"frames": ["f0"], "track_id": "walk"})) == (
            409,
            "track_id_conflict",
        )


@pytest.mark.parametrize("after", [0, 1, 3, 4])
async def test_a_first_propagation_goes_on_at_another_device(tmp_path: Path, after: int) -> None:
    async with followed(tmp_path) as (served, devices):
        devices.dying = [1_000_000, after]  # the description asks first
        assert await lines(served, "walk", direction="both") == await undisturbed(direction="both")
        assert len(devices.dead) == 1
        assert [method for method, _ in asked_of_tracks(devices)[-2:]] == ["tracks.propagate"] * 2


async def test_one_that_needs_what_is_gone_says_what_to_do_and_the_next_one_does(tmp_path: Path) -> None:
    async with followed(tmp_path) as (served, devices):
        await lines(served, "walk", to=1)
        devices.dying = [1_000_000, 1]
        found = await lines(served, "walk", **{"from": 2})
        assert [each.get("frame") for each in found] == [2, None]
        assert found[-1]["error"]["code"] == "not_ready"
        assert "propagate again" in found[-1]["error"]["message"]
        assert await lines(served, "walk") == await undisturbed()


async def test_a_device_that_dies_before_the_first_frame_costs_nothing(tmp_path: Path) -> None:
    async with followed(tmp_path) as (served, devices):
        await lines(served, "walk", to=1)
        devices.dying = [1_000_000, 0]
        assert numbers(await lines(served, "walk", **{"from": 2})) == [2, 3, 4]


async def test_one_request_for_all_goes_on_at_another_device(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        await begin(served, 5)
        body = {"frames": [f"f{number}" for number in range(5)], "prompts": [CLICK]}
        devices.dying = [3]
        reply = await served.post("/propagate", body)
        assert len(devices.dead) == 1
        assert [json.loads(line) for line in reply.text.splitlines()] == await undisturbed()


async def test_a_device_that_is_being_stopped_hands_its_tracks_over(tmp_path: Path) -> None:
    async with followed(tmp_path) as (served, devices):
        (owner,) = {device for _, device in asked_of_tracks(devices)}
        devices.services[owner].drain()
        assert numbers(await lines(served, "walk")) == [0, 1, 2, 3, 4]
        assert (await click(served, "walk", frame=2)).status_code == 200


async def test_what_is_deleted_at_one_device_is_deleted_at_the_one_that_followed_it(tmp_path: Path) -> None:
    async with followed(tmp_path) as (served, devices):
        (owner,) = {device for _, device in asked_of_tracks(devices)}
        devices.dead.add(owner)
        assert (await served.client.delete("/tracks/walk")).status_code == 204
        devices.dead.clear()
        assert error(await served.client.get("/tracks/walk")) == (404, "track_not_found")
        await begin(served, 2, track_id="walk")  # of other frames, and without a prompt
        devices.dead.add(owner)
        assert (await served.client.get("/tracks/walk")).json()["frames"] == 2
        assert (await click(served, "walk", object=7)).status_code == 200
        devices.dead.clear()
        said = (await served.client.get("/tracks/walk")).json()
        assert (said["frames"], [each["object"] for each in said["objects"]]) == (2, [7])


async def test_who_leaves_ends_the_work_at_the_device() -> None:
    async with front(devices=1) as (served, devices):
        await begin(served, 5, track_id="walk")
        await click(served, "walk")
        served.segmenter.gate.clear()
        following = asyncio.create_task(lines(served, "walk"))
        state = await devices.services[0].tracks.states.find("walk", tenant="")
        await until(lambda: state.goes_on_at.get(Direction.FORWARD) == 1)  # which needs the device
        following.cancel()
        await asyncio.wait([following])
        served.segmenter.gate.set()
        await until(lambda: not state.lock.locked())
        assert not state.is_propagating
        assert numbers(await lines(served, "walk")) == [1, 2, 3, 4]


async def test_a_frame_is_begun_when_the_one_before_was_taken() -> None:
    async with front(devices=1) as (served, _devices):
        await begin(served, 5, track_id="walk")
        await click(served, "walk")
        stream = served.app.state.service.tracks.propagate("walk", **wanted_by_a_route(), tenant="", share="")
        assert (await anext(stream)).frame == 0
        for _ in range(20):
            await asyncio.sleep(0)
        said = (await served.client.get("/tracks/walk")).json()
        await stream.aclose()
        assert said["done"] == [[0, 0]]


def wanted_by_a_route() -> dict[str, Any]:
    return {"wanted": Range(), "options": MaskOptions(), "non_overlapping": False}


async def test_devices_that_share_no_folder_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    async with front() as (served, devices):
        await until(lambda: len(served.app.state.service._watch.states) == 3)

        def is_told(reply: httpx.Response, code: str) -> None:
            assert error(reply) == (404, code)
            assert "share no folder" in reply.text

        for number in range(6):
            await served.embed(picture(shade=number), f"f{number}")
        frames = {"frames": [f"f{number}" for number in range(6)]}
        is_told(await served.post("/tracks", frames), "image_not_found")
        image, name = await alone_at_one(served, devices)
        await served.post("/tracks", {"frames": [image], "track_id": name})
        devices.dead.add(devices.asked[-1][1])
        await until(lambda: len(served.app.state.service._watch.states) == 2)
        is_told(await served.client.get(f"/tracks/{name}"), "track_not_found")


async def alone_at_one(served: Served, devices: FakeDevices) -> tuple[str, str]:
    """Return ids of a picture and for a track that belong to one device."""
    for number in range(50):
        if devices.owner(f"/f{number % 6}") == devices.owner(f"held:/track/t{number}"):
            return f"f{number % 6}", f"t{number}"
    raise AssertionError


async def test_a_front_that_is_stopped_ends_its_propagations_with_an_error_in_words() -> None:
    async with front(devices=1) as (served, devices):
        await begin(served, 5, track_id="walk")
        await click(served, "walk")
        service = served.app.state.service
        stream = service.tracks.propagate("walk", **wanted_by_a_route(), tenant="", share="")
        assert (await anext(stream)).frame == 0
        service.drain()
        assert devices.is_draining
        with pytest.raises(ShuttingDown):
            await anext(stream)
        assert not (await devices.services[0].tracks.states.find("walk", tenant="")).is_propagating


async def test_a_track_that_kills_every_device_is_an_error_in_words(tmp_path: Path) -> None:
    async with followed(tmp_path) as (served, devices):
        devices.dying = [1_000_000] + [0] * 9
        assert error(await served.post("/tracks/walk/propagate", {})) == (503, "not_ready")


async def test_deadlines_are_those_of_other_calls(tmp_path: Path) -> None:
    async with front(folder=tmp_path, devices=1, deadline_s=0.2) as (served, _devices):
        await begin(served, 2, track_id="walk")
        await click(served, "walk")
        served.segmenter.gate.clear()
        assert error(await click(served, "walk")) == (504, "deadline_exceeded")
        assert error(await served.post("/tracks/walk/propagate", {})) == (504, "deadline_exceeded")
        served.segmenter.gate.set()


async def test_a_bug_on_the_way_is_told_as_one_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with followed(tmp_path) as (served, devices):
        for service in devices.services:
            monkeypatch.setattr(service.tracks._propagation, "run", None)
        assert error(await served.post("/tracks/walk/propagate", {})) == (500, "internal_error")
        assert "DeviceBug" in caplog.text


class Spans:
    """What a device would send of traces."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def end_call(self, context: Any, name: str, *_: Any, attributes: dict[str, str], **__: Any) -> None:
        self.names.append(f"{context['traceparent']} {name} {attributes['sam2.request_id']}")


@pytest.mark.parametrize("taken", [1, 9])
async def test_a_propagation_is_one_span_also_if_it_is_left(taken: int) -> None:
    async with serving() as served:
        await begin(served, 3, track_id="walk")
        await click(served, "walk")
        spans = Spans()
        arguments = {"track_id": "walk", **wanted_by_a_route(), "tenant": "", "share": ""}
        call = Call("tracks.propagate", arguments, math.inf, "r1", {"traceparent": "00-1"})
        steps = answer_in_steps(Answering(served.service, "d0", spans), call)
        found = [step async for step, _ in zip_with(steps, range(taken))]
        await steps.aclose()
        assert spans.names == ["00-1 Device tracks.propagate r1"]
        assert isinstance(found[-1], Answer) is (taken == 9)


async def zip_with(steps: AsyncIterator[Any], numbers: range) -> AsyncIterator[tuple[Any, int]]:
    for number in numbers:
        try:
            yield await anext(steps), number
        except StopAsyncIteration:
            return


async def test_what_no_front_asks_is_refused() -> None:
    async with serving() as served:
        device = Answering(served.service, "d0")
        with pytest.raises(ValueError, match=r"tracks\.kind"):
            await answer(device, Call("tracks.kind", {}, 1.0, "r1"))
        with pytest.raises(ValueError, match=r"tracks\.delete"):
            await anext(answer_in_steps(device, Call("tracks.delete", {}, 1.0, "r1")))
