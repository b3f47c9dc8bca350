"""A Front before several devices that share a folder: keys, devices that die, errors and readiness."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from app.cluster.asking import ASKED_AT_MOST
from app.cluster.remote import RemoteSegmentation
from app.errors import NotReady
from app.main import create_app
from app.settings import Settings
from tests.app.cluster.fronts import encodes, front
from tests.fake_devices import FakeDevices
from tests.fakes import error, picture, until

pytestmark = pytest.mark.usefixtures("no_pauses")


async def test_clicks_meet_the_device_that_embedded_the_picture() -> None:
    async with front() as (served, devices):
        names = [f"picture-{i}" for i in range(12)]
        for name in names:
            assert (await served.embed(picture(shade=len(name)), name)).status_code == 200
            assert (await served.click(name)).status_code == 200
        for (_, embedded_at), (_, decoded_at) in zip(devices.asked[::2], devices.asked[1::2], strict=True):
            assert embedded_at == decoded_at
        assert {device for _, device in devices.asked} == {0, 1, 2}


async def test_a_picture_without_a_name_and_its_clicks_meet_too() -> None:
    async with front() as (served, _devices):
        for shade in range(8):
            image_id = (await served.embed(picture(shade=shade))).json()["image_id"]
            assert (await served.click(image_id)).status_code == 200


@pytest.mark.parametrize("dying", [[1], [1, 1]])
async def test_a_device_that_dies_costs_no_error_and_no_second_encode(
    tmp_path: Path, dying: list[int]
) -> None:
    async with front(folder=tmp_path) as (served, devices):
        for i in range(6):
            assert (await served.embed(picture(shade=i), f"p{i}")).status_code == 200
        for service in devices.services:
            await until(lambda tiers=service.store.tiers: not tiers._tasks)  # type: ignore[misc]
        devices.dying = list(dying)
        for i in range(6):
            reply = await served.click(f"p{i}")
            assert reply.status_code == 200, reply.text
        assert len(devices.dead) == len(dying)
        assert encodes(devices) == 6
        figures = (await served.client.get("/metrics")).text
        assert f"sam2_asked_again_total {float(len(dying))}" in figures


async def test_an_upload_is_asked_again_with_its_bytes(tmp_path: Path) -> None:
    async with front(folder=tmp_path) as (served, devices):
        devices.dying = [1]
        assert (await served.embed(picture(), "truck")).status_code == 200
        assert [method for method, _ in devices.asked] == ["embed", "embed"]
        assert (await served.click("truck")).status_code == 200


async def test_it_is_not_asked_for_ever() -> None:
    async with front(devices=ASKED_AT_MOST + 2) as (served, devices):
        devices.dying = [1] * (ASKED_AT_MOST + 2)
        reply = await served.embed(picture(), "poison")
        assert error(reply) == (503, "not_ready")
        assert int(reply.headers["Retry-After"]) > 0
        assert len(devices.dead) == ASKED_AT_MOST
        devices.dying.clear()
        assert (await served.embed(picture(), "other")).status_code == 200


async def test_a_device_that_is_being_stopped_or_hangs_is_passed_by(tmp_path: Path) -> None:
    async with front(folder=tmp_path, devices=2) as (served, devices):
        assert (await served.embed(picture(), "truck")).status_code == 200
        await until(lambda: not any(service.store.tiers._tasks for service in devices.services))
        for i in range(20):
            assert (await served.embed(picture(), f"truck-{i}")).status_code == 200
        devices.services[devices.asked[0][1]].drain()
        for i in range(20):
            assert (await served.click(f"truck-{i}")).status_code == 200
        assert encodes(devices) == 1


async def test_if_no_device_can_answer_the_last_one_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with front(devices=2) as (served, devices):
        for service in devices.services:
            monkeypatch.setattr(
                service, "ready", lambda: _raise(NotReady("No sign of life.", retry_after_s=9))
            )
        reply = await served.click("truck")
        assert error(reply) == (503, "not_ready")
        assert "No sign of life." in reply.text
        assert {device for _, device in devices.asked} == {0, 1}
        monkeypatch.undo()


def _raise(error: Exception) -> None:
    raise error


async def test_a_search_that_loses_its_device_begins_again_and_never_goes_back(tmp_path: Path) -> None:
    async with front(folder=tmp_path, devices=2) as (served, devices):
        await served.embed(picture(), "truck")
        devices.dying = [2]
        lines = (
            await served.client.post(
                "/everything",
                json={"image_id": "truck", "points_per_side": 4},
                headers={"Accept": "application/x-ndjson"},
            )
        ).text.splitlines()
        assert [method for method, _ in devices.asked] == ["embed", "everything", "everything"]
        told = [float(line.split(":")[1].split(",")[0]) for line in lines if "progress" in line]
        assert told == sorted(set(told))
        assert '"masks"' in lines[-1]


async def test_a_device_with_a_full_queue_refuses_as_one_process_does() -> None:
    async with front(devices=1, max_waiting_images=1) as (served, _devices):
        served.segmenter.gate.clear()
        waiting = [asyncio.create_task(served.embed(picture(shade=i), f"p{i}")) for i in range(4)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert error(done.pop().result()) == (503, "overloaded")
        served.segmenter.gate.set()
        await asyncio.gather(*waiting)


async def test_a_bug_of_a_device_is_told_as_one_of_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(devices=1) as (served, devices):
        monkeypatch.setattr(devices.services[0], "describe", None)
        reply = await served.client.get("/images/truck")
        assert error(reply) == (500, "internal_error")
        assert "DeviceBug" in caplog.text


async def test_who_leaves_frees_the_device() -> None:
    async with front(devices=1) as (served, devices):
        served.segmenter.gate.clear()
        asked = asyncio.create_task(served.embed(picture(), "truck"))
        await served.segmenter.wait_until_entered()
        asked.cancel()
        await until(lambda: len(devices.services[0]._encodings) == 0)


async def test_a_reply_names_the_model_of_the_device_that_made_it(tmp_path: Path) -> None:
    models = ["old", "new"]
    async with front(devices=2, folder=tmp_path, models=models, keep_uploads=True) as (served, devices):
        for i in range(8):
            name = f"p{i}"
            embedded = await served.embed(picture(), name)
            owner = devices.asked[-1][1]
            prompt = {"point_coords": [[30, 20]], "point_labels": [1]}
            fields = {"point_coords": "[[30, 20]]", "point_labels": "[1]", "image_id": name}
            replies = [
                embedded,
                await served.post("/decode", {"image_id": name, **prompt}),
                await served.client.post("/segment", files={"image": picture()}, data=fields),
                await served.post("/everything", {"image_id": name, "points_per_side": 2}),
                await served.client.get(f"/images/{name}"),
            ]
            assert {device for _, device in devices.asked[-len(replies) :]} == {owner}
            assert [reply.json()["model"] for reply in replies] == [models[owner]] * len(replies)

            url = f"/images/{name}/embedding?format=safetensors"
            exported = await served.client.get(url)
            end = 8 + int.from_bytes(exported.content[:8], "little")
            inside = json.loads(exported.content[8:end])["__metadata__"]
            assert exported.headers["x-sam2-model"] == inside["model"] == models[owner]
            assert exported.headers["x-sam2-fingerprint"] == inside["fingerprint"]
            assert inside["fingerprint"][:16] in exported.headers["etag"]
            known = {"if-none-match": exported.headers["etag"]}
            assert (await served.client.get(url, headers=known)).status_code == 304
            devices.dead.add(owner)  # the other one embeds the picture again
            assert (await served.click(name)).json()["model"] == models[1 - owner]
            other = await served.client.get(url, headers=known)
            assert (other.status_code, other.headers["x-sam2-model"]) == (200, models[1 - owner])
            devices.dead.clear()
        assert {device for _, device in devices.asked} == {0, 1}


async def test_without_a_ready_device_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with front(devices=2) as (served, _devices):
        assert (await served.client.get("/readyz")).status_code == 200
        monkeypatch.setattr("app.cluster.watch._FORGOTTEN_S", -1.0)
        for path in ("/readyz", "/model"):
            reply = await served.client.get(path)
            assert error(reply) == (503, "not_ready")
            assert "No device answers" in reply.text


async def test_a_front_says_that_its_devices_cannot_reach_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    async with front(devices=2) as (served, _devices):
        assert (await served.client.get("/readyz")).json() == {"status": "ready"}
        assert "sam2_names_reachable 1.0" in (await served.client.get("/metrics")).text.splitlines()
        monkeypatch.setattr("app.service.local.LocalSegmentation.names_problem", "PostgreSQL is away")
        service: RemoteSegmentation = served.app.state.service
        await until(lambda: bool(service.names_problem))
        assert (await served.client.get("/readyz")).json() == {"status": "ready", "names": "unreachable"}
        assert "sam2_names_reachable 0.0" in (await served.client.get("/metrics")).text.splitlines()


async def test_devices_that_cannot_be_started_are_a_failure() -> None:
    async def connect() -> FakeDevices:
        raise RuntimeError("no GPU here")

    app = create_app(Settings(workers=2), connect=connect)
    async with app.router.lifespan_context(app):
        service: RemoteSegmentation = app.state.service
        await until(lambda: service.failure is not None)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            reply = await client.get("/readyz")
        assert error(reply) == (503, "not_ready")
        assert "no GPU here" in reply.text
