"""Tracks behind the routes: restarts, memory that is bounded, expiry, callers that go, and the real model."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from app.codecs.answers import MaskOptions
from app.errors import InvalidPrompt, Overloaded
from app.service.track_frames import TrackFrames
from app.service.track_values import Frames, Range, TrackPromptRequest, ranges
from app.settings import Settings
from app.storage.register_file import ImageName
from app.telemetry.stages import StageTimes
from model.masks.runs import runs
from model.types import Prompt
from model.video.mask_prompt import MaskPromptTrack
from model.video.track import Track
from model.video.values import Frame, ObjectMask
from tests.fakes import LONG_S, FakeSegmenter, Served, picture, serving, until
from tests.model.video.small import small_runner

CLICK = {"frame": 0, "object": 1, "point_coords": [[30, 20]], "point_labels": [1]}


async def begin(served: Served, track_id: str, frames: int = 3) -> None:
    for number in range(frames):
        await served.embed(picture(shade=number), f"f{number}")
    body = {"frames": [f"f{number}" for number in range(frames)], "track_id": track_id}
    reply = await served.post("/tracks", body)
    assert reply.status_code == 200, reply.text
    assert (await served.post(f"/tracks/{track_id}/prompts", CLICK)).status_code == 200


async def passed(served: Served, track_id: str, **wanted: Any) -> list[dict[str, Any]]:
    reply = await served.post(f"/tracks/{track_id}/propagate", wanted)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


async def test_a_click_passes_a_step_that_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step waits until the click is asked for, and then pauses."""
    segmenter = FakeSegmenter()
    async with serving(Settings(workers=2), segmenter) as served:
        await begin(served, "walk")
        loop, stepping = asyncio.get_running_loop(), asyncio.Event()
        asked, order = threading.Event(), []
        step = MaskPromptTrack.step

        def slow(track: MaskPromptTrack, *frame: Any, **way: Any) -> list[ObjectMask]:
            loop.call_soon_threadsafe(stepping.set)
            assert asked.wait(LONG_S)
            segmenter.between_steps()
            order.append(len(segmenter.decoded))
            return step(track, *frame, **way)

        monkeypatch.setattr(MaskPromptTrack, "step", slow)
        before = len(segmenter.decoded)
        propagating = asyncio.create_task(passed(served, "walk", **{"from": 1, "to": 1}))
        await stepping.wait()
        clicking = asyncio.create_task(
            served.post("/decode", {"image_id": "f0", "point_coords": [[5, 5]], "point_labels": [1]})
        )
        decoder = served.service._decoder
        await until(lambda: decoder.waiting > 0)
        asked.set()
        assert (await clicking).status_code == 200
        await propagating
        assert order == [before + 1]


async def test_a_track_survives_a_restart_and_gives_the_same_masks(tmp_path: Path) -> None:
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    async with serving(settings) as served:
        await begin(served, "walk")
        mask = {"frame": 2, "object": 2, "mask_input": {"size": [40, 60], "counts": [600, 1200, 600]}}
        await served.post("/tracks/walk/prompts", mask)
        await begin(served, "gone")
        await served.client.delete("/tracks/gone")
        before = await passed(served, "walk")
        said = (await served.client.get("/tracks/walk")).json()
    (tmp_path / "tracks" / "damaged.json").write_text("{")
    segmenter = FakeSegmenter()
    async with serving(settings, segmenter) as served:
        again = (await served.client.get("/tracks/walk")).json()
        assert again["objects"] == said["objects"]
        assert (again["done"], again["bytes"], segmenter.begun) == ([], 0, 0)
        assert await passed(served, "walk") == before
        assert segmenter.begun == 1
        assert (await served.client.get("/tracks/gone")).status_code == 404


async def test_damaged_tracks_are_left_out_and_stop_nothing(tmp_path: Path) -> None:
    damages: list[dict[str, Any]] = [
        {"change": float("inf")},
        {"count": float("inf")},
        {"count": 9},
        {"image_ids": [1, 2, 3]},
        {"video_id": {}},
        {"contents": ["a"]},
        {"contents": 5},
        {"prompts": [{"frame": 3}]},
        {"prompts": [{"point_labels": []}]},
        {"prompts": [{"mask_input": 5}]},
        {"prompts": [{"point_coords": [3], "point_labels": [1]}]},
        {"prompts": [{"box": [1, 2]}]},
        {"prompts": [{"frame": -1}]},
    ]
    settings = Settings(workers=2, cache_dir=str(tmp_path))
    names = [f"damaged{number}" for number in range(len(damages))]
    async with serving(settings) as served:
        for name in ("whole", *names):
            await begin(served, name)
    for file in (tmp_path / "tracks").glob("*.json"):
        content = json.loads(file.read_text())
        if content["name"] == "whole":
            continue
        damage = damages[names.index(content["name"])]
        if "prompts" in damage:
            damage = {"prompts": [content["prompts"][0] | damage["prompts"][0]]}
        file.write_text(json.dumps(content | damage))
    async with serving(settings) as served:
        listed = (await served.client.get("/tracks")).json()["tracks"]
        assert [each["track_id"] for each in listed] == ["whole"]
        assert await passed(served, "whole")


async def test_what_idle_tracks_remember_gives_way_and_is_made_again() -> None:
    async with serving() as served:
        for name in ("a", "b"):
            await begin(served, name)
        live = served.service.tracks._live
        before = await passed(served, "a", to=1)
        live._capacity_bytes = live.used_bytes - 1
        await served.post("/tracks/b/prompts", CLICK)
        descriptions = [(await served.client.get(f"/tracks/{name}")).json() for name in ("a", "b")]
        assert descriptions[0]["bytes"] == 0 < descriptions[1]["bytes"]
        assert descriptions[0]["done"] == []
        assert await passed(served, "a", to=1) == before
        assert served.segmenter.begun == 3
        live._capacity_bytes = 1
        reply = await served.post("/tracks/a/prompts", CLICK)
        assert reply.status_code == Overloaded.status
        assert "SAM2_TRACK_MEMORY_MIB" in reply.text
        assert live.used_bytes == 0


async def test_beyond_the_limit_the_least_recently_used_is_forgotten() -> None:
    async with serving(Settings(workers=2, max_tracks=2)) as served:
        await begin(served, "a")
        await begin(served, "b")
        await served.post("/tracks/a/prompts", CLICK)
        await begin(served, "c")
        names = [each["track_id"] for each in (await served.client.get("/tracks")).json()["tracks"]]
        assert names == ["c", "a"]


async def test_tracks_expire_as_images_do() -> None:
    async with serving(Settings(workers=2, image_ttl_s=1000)) as served:
        await begin(served, "old")
        await begin(served, "new")
        states = served.service.tracks.states
        (await states.find("old", tenant="")).created -= 2000
        await states.tend()
        assert (await served.client.get("/tracks/old")).status_code == 404
        assert (await served.client.get("/tracks/new")).status_code == 200


async def test_a_propagation_that_is_cancelled_stops_and_leaves_the_track_free() -> None:
    async with serving() as served:
        await begin(served, "walk")
        served.segmenter.gate.clear()

        async def follow() -> list[int]:
            wanted = {"options": MaskOptions(), "non_overlapping": False, "tenant": "", "share": ""}
            found = served.service.tracks.propagate("walk", Range(), **wanted)  # type: ignore[arg-type]
            return [each.frame async for each in found]

        decoded = len(served.segmenter.decoded)
        task = asyncio.create_task(follow())
        await until(lambda: len(served.segmenter.decoded) > decoded)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        served.segmenter.gate.set()
        assert [each.get("frame") for each in await passed(served, "walk")] == [1, 2, None]


async def test_a_prompt_whose_caller_goes_is_not_part_of_the_track() -> None:
    async with serving() as served:
        await begin(served, "walk")
        served.segmenter.gate.clear()
        tracks, decoded = served.service.tracks, len(served.segmenter.decoded)
        (request,) = (await tracks.states.find("walk", tenant="")).history
        second = TrackPromptRequest(1, 2, request.prompt)
        story = tracks.prompt(
            "walk",
            second,
            options=MaskOptions(),
            non_overlapping=False,
            tenant="",
            times=StageTimes(),
            share="",
        )
        task = asyncio.create_task(story)
        await until(lambda: len(served.segmenter.decoded) > decoded)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        served.segmenter.gate.set()
        for line in (await passed(served, "walk"))[:-1]:
            assert [each["object"] for each in line["objects"]] == [1]


async def test_clicks_go_between_the_steps_of_a_track() -> None:
    """While a step waits at the gate, a click and the next step come; the click is first."""
    async with serving() as served:
        await begin(served, "walk", frames=4)
        segmenter, decoded = served.segmenter, len(served.segmenter.decoded)
        segmenter.gate.clear()
        following = asyncio.create_task(passed(served, "walk", **{"from": 1}))
        await until(lambda: len(segmenter.decoded) == decoded + 1)
        click = asyncio.create_task(served.click("f3", 5, 5))
        await until(lambda: served.service._decoder.waiting == 1)
        segmenter.gate.set()
        assert (await click).status_code == 200
        await following
        assert [bool(prompts[0].points) for prompts in segmenter.decoded[decoded:]] == [
            False,
            True,
            False,
            False,
        ]


async def test_the_masks_are_those_of_the_model_itself() -> None:
    """The small random model with both halves: clicks, a box, two objects, forward and a correction."""
    runner, memory = small_runner()
    network = runner.tracking.network()
    network._memory = memory
    runner.gate = asyncio.Event()  # type: ignore[attr-defined]  # as the fake has it
    pixels = [np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8) for seed in range(4)]
    embeddings = runner.encode(pixels)
    frames = [Frame(number, embedding) for number, embedding in enumerate(embeddings)]
    track = Track(network, num_frames=4)
    expected: list[Sequence[ObjectMask]] = [
        track.prompt(frames[0], 1, Prompt(points=((30.0, 20.0),), labels=(1,))),
        track.prompt(frames[1], 2, Prompt(box=(5.0, 5.0, 30.0, 30.0))),
    ]
    for frame in frames[:2]:
        track.settle(frame)
    expected += [track.step(frame) for frame in frames]
    expected.append(track.prompt(frames[2], 1, Prompt(points=((9.0, 9.0),), labels=(0,))))
    track.settle(frames[2])
    expected += [track.step(frame) for frame in frames]
    async with serving(segmenter=runner) as served:  # type: ignore[arg-type]
        for number, each in enumerate(pixels):
            await served.embed(_png(each), f"f{number}")
        body = {"frames": [f"f{number}" for number in range(4)], "track_id": "walk"}
        assert (await served.post("/tracks", body)).json()["tracker"] == "memory"
        found = [(await served.post("/tracks/walk/prompts", CLICK)).json()]
        box = {"frame": 1, "object": 2, "box": [5, 5, 30, 30]}
        found.append((await served.post("/tracks/walk/prompts", box)).json())
        found += (await passed(served, "walk"))[:-1]
        correction = {"frame": 2, "object": 1, "point_coords": [[9, 9]], "point_labels": [0]}
        found.append((await served.post("/tracks/walk/prompts", correction)).json())
        found += (await passed(served, "walk"))[:-1]
    assert len(found) == len(expected)
    for line, objects in zip(found, expected, strict=True):
        assert [each["object"] for each in line["objects"]] == [each.object_id for each in objects]
        for each, shown in zip(line["objects"], objects, strict=True):
            assert each["score"] == pytest.approx(shown.object_score, abs=1e-3)
            assert each["visible"] == shown.visible
            assert shown.logits is not None
            drawn = coco.decode(each["masks"][0]["rle"])
            assert (drawn == runs(shown.logits, height=40, width=60).to_array()).all()


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_frames_as_ranges() -> None:
    assert ranges([5, 1, 2, 7, 6]) == [(1, 2), (5, 7)]
    assert ranges([]) == []


async def test_many_frames_are_looked_up_in_turns_with_others_and_too_many_not_at_all() -> None:
    looked_up = 0

    async def look_up(image_id: str, *, tenant: str) -> ImageName:
        nonlocal looked_up
        looked_up += 1
        return ImageName(tenant, image_id, "content", 40, 60, 1, 0.0, 0.0)

    store = SimpleNamespace(look_up=look_up)
    frames = TrackFrames(SimpleNamespace(store=store, ready=lambda: None), most=1000, now=time.time)  # type: ignore[arg-type]
    options: dict[str, Any] = {"tenant": "", "name": "walk", "corrections": "kept", "share": ""}
    with pytest.raises(InvalidPrompt, match="1001 frames; a track has 1000 at most"):
        await frames.survey(Frames(("a",) * 1001), **options)
    assert not looked_up
    survey = asyncio.create_task(frames.survey(Frames(("a",) * 1000), **options))
    seen = set()
    while not survey.done():
        await asyncio.sleep(0)
        seen.add(looked_up)
    assert (await survey).count == 1000
    assert len(seen) > 9
