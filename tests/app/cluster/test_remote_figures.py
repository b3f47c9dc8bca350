"""What a Front tells about its devices: which there are, with their load, and the metrics of all."""

import asyncio
import os
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.service.segmentation import DeviceState
from app.settings import Settings
from app.storage.opening import CacheLimits
from app.version import VERSION
from tests.app.cluster.fronts import front
from tests.fake_devices import FakeDevices, Lost
from tests.fakes import LONG_S, picture, serving, until

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.usefixtures("either_service")
async def test_the_devices_are_listed_with_their_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    async with serving() as served:
        await served.embed(picture(), "a")
        here = {"node": socket.gethostname(), "pid": os.getpid()}
        async with asyncio.timeout(LONG_S):
            while True:  # a Front looks from time to time, and work may still count when its reply comes
                found = (await served.client.get("/cluster")).json()
                if found["devices"][0]["images"] and not found["devices"][0]["waiting"]:
                    break
                await asyncio.sleep(0.01)
        assert found["fronts"] == [here]
        (device,) = found["devices"]
        assert device == here | {
            "id": "0",
            "device": "imagined",
            "ready": True,
            "problem": None,
            "waiting": 0,
            "images": 1,
            "model": "fake",
            "fingerprint": served.segmenter.fingerprint,
            "version": VERSION,
        }


async def test_a_device_that_is_not_ready_is_listed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    async with front(devices=2) as (served, devices):
        devices.services[1].drain()

        async def listed() -> list[dict[str, Any]]:
            devices: list[dict[str, Any]] = (await served.client.get("/cluster")).json()["devices"]
            return devices

        async with asyncio.timeout(LONG_S):
            while (await listed())[1]["ready"]:  # noqa: ASYNC110  # it looks from time to time
                await asyncio.sleep(0.01)
        first, second = await listed()
        assert first["ready"]
        assert "shutting down" in second["problem"]
        assert (await served.client.get("/readyz")).status_code == 200


async def test_a_scrape_has_the_metrics_of_every_device() -> None:
    async with front(devices=2) as (served, _devices):
        await served.embed(picture(), "truck")
        lines = (await served.client.get("/metrics")).text.splitlines()
        assert len(lines) == len(set(lines))
        for device in ("0", "1"):
            assert f'sam2_cache_lookups_total{{device="{device}",outcome="miss"}} ' in "\n".join(lines)
            assert any(line.startswith(f'sam2_waiting_prompts{{device="{device}"}} ') for line in lines)
        assert "sam2_ready_devices 2.0" in lines
        built = [
            sample.labels
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if sample.name == "sam2_build_info"
        ]
        assert [(each["device"], each["exported_device"]) for each in built] == [
            ("0", "imagined"),
            ("1", "imagined"),
        ]
        metrics = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
        runs = [name for i, name in enumerate(metrics) if i == 0 or metrics[i - 1] != name]
        alone = [name for name in runs if not name.endswith(("_bucket", "_count", "_sum", "_created"))]
        assert len(alone) == len(set(alone))  # the lines of a metric stand together


async def test_a_scrape_says_who_answered_and_what_moved(tmp_path: Path) -> None:
    async with front(folder=tmp_path, devices=2) as (served, devices):
        await served.embed(picture(), "truck")
        for service in devices.services:
            await until(lambda tiers=service.store.tiers: not tiers._tasks)  # type: ignore[misc]
        owner = devices.asked[0][1]
        await served.click("truck")
        await served.client.get("/images")  # any device: nothing moves
        text = (await served.client.get("/metrics")).text
        assert "sam2_moved_calls_total 0.0" in text
        devices.dead.add(owner)
        for _ in range(3):
            assert (await served.click("truck")).status_code == 200
        lines = (await served.client.get("/metrics")).text.splitlines()
        assert "sam2_moved_calls_total 1.0" in lines
        calls = {device: sum(each == device for _, each in devices.asked) for device in (0, 1)}
        for device, count in calls.items():
            assert f'sam2_device_calls_total{{device="{device}"}} {float(count)}' in lines
        assert f'sam2_cache_hits_total{{device="{1 - owner}",tier="disk"}} 1.0' in lines


async def test_the_log_says_which_devices_are_lost_and_that_none_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    monkeypatch.setattr("app.cluster.watch._FORGOTTEN_S", 0.05)

    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name == "app.cluster.watch"]

    async with front(devices=2) as (_, devices):
        devices.dead.add(1)
        await until(lambda: "Devices that are ready: 1 of 1" in said())
        devices.services[0].drain()
        await until(lambda: any("so requests get 503" in each for each in said()))
        assert f"Devices that are ready: 0 of 1 (0 on {socket.gethostname()}: " in "\n".join(said())
        assert "shutting down" in said()[-1]
        devices.dead.add(0)
        await until(lambda: "Devices that are ready: 0 of 0" in said())
        devices.dead.discard(1)
        await until(lambda: any("ready again, after" in each for each in said()))
        warnings = [each for each in caplog.records if each.levelname == "WARNING"]
        assert len(warnings) == 2


async def test_a_device_of_the_version_before_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    states_now = FakeDevices.states

    async def states_before(self: FakeDevices, **patience: float) -> list[DeviceState]:
        found = await states_now(self, **patience)
        for state in found:
            object.__delattr__(state, "settings")
        return found

    monkeypatch.setattr(FakeDevices, "states", states_before)
    async with front(devices=1) as (served, _):
        assert (await served.client.get("/readyz")).status_code == 200
        assert (await served.client.get("/model")).json()["limits"]["max_prompts"] == Settings().max_prompts


async def test_what_is_not_understood_of_a_device_does_not_end_the_looking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.cluster.watch._EVERY_S", 0.01)
    states_now, strange = FakeDevices.states, 0

    async def states(self: FakeDevices, **patience: float) -> list[DeviceState]:
        nonlocal strange
        strange += 1
        return await states_now(self, **patience) if strange > 5 else [object()]  # type: ignore[list-item]

    monkeypatch.setattr(FakeDevices, "states", states)
    async with front(devices=1) as (served, _):
        assert (await served.client.get("/readyz")).status_code == 200
    assert [each.getMessage() for each in caplog.records if each.exc_info] == [
        "What Devices say of themselves is not understood"
    ]


async def test_devices_of_a_version_before_know_fewer_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(self: CacheLimits) -> list[int]:
        return [self.device_bytes, self.host_bytes]

    def older_state(self: DeviceState) -> list[Any]:
        return [getattr(self, each.name) for each in fields(self) if each.name not in ("fronts", "settings")]

    monkeypatch.setattr(CacheLimits, "__getstate__", older)
    monkeypatch.setattr(DeviceState, "__getstate__", older_state)
    async with front(devices=1, max_prompts=7) as (served, _):
        reply = await served.client.get("/model")
        assert reply.status_code == 200, reply.text
        assert reply.json()["tracks"]["memory_mib"] == Settings().track_memory_mib
        assert reply.json()["limits"]["max_prompts"] == 7  # its own, as the Device tells none
        assert (await served.client.get("/readyz")).status_code == 200


async def test_limits_are_those_of_the_devices_where_these_keep_them(tmp_path: Path) -> None:
    theirs = {
        "max_image_megapixels": 0.5,
        "max_prompts": 8,
        "max_video_frames": 70,
        "disk_cache_mib": 99,
        "image_ttl_s": 3600.0,
    }
    tracks = {"max_tracks": 3, "track_memory_mib": 11}
    own = {"max_upload_mib": 5, "deadline_s": 7.0}
    files = {"cache_dir": str(tmp_path), "device_cache_mib": 1}
    async with front(devices=2, **own, of_devices=theirs | tracks | files) as (served, _):
        model = (await served.client.get("/model")).json()
        assert {name: model["limits"][name] for name in theirs | own} == theirs | own
        assert model["tracks"]["max_frames"] == theirs["max_video_frames"]
        assert (model["tracks"]["max_tracks"], model["tracks"]["memory_mib"]) == (3, 11)
        assert served.app.state.service.keeps(10 * 2**20) == 9  # on the disk of the devices
        await served.embed(picture(), "a")
        clicks = [{"point_coords": [[30, 20]], "point_labels": [1]}] * 9
        reply = await served.post("/decode", {"image_id": "a", "prompts": clicks})
        assert "the limit is 8" in reply.text


@pytest.mark.parametrize(
    "off", [{"of_devices": {"video": "off"}}, {"video": "off", "of_devices": {"video": "auto"}}]
)
async def test_videos_that_a_front_or_its_devices_have_switched_off_are_refused(off: dict[str, Any]) -> None:
    async with front(devices=1, **off) as (served, _):
        await served.embed(picture(), "a")
        assert (await served.post("/tracks", {"frames": ["a"]})).status_code == 501
        assert (await served.client.get("/model")).json()["tracks"] is None


async def test_ones_own_metrics_are_told_while_no_device_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: FakeDevices, *, patience_s: float) -> list[tuple[str, bytes]]:
        raise Lost(patience_s)

    async with front(devices=1) as (served, _):
        monkeypatch.setattr(FakeDevices, "figures", lost)
        reply = await served.client.get("/metrics")
        assert reply.status_code == 200
        assert "sam2_devices 1.0" in reply.text
