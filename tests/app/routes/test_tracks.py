"""/tracks and /propagate over HTTP: prompts, lines, stopping and going on, names, and every error."""

import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from pycocotools import mask as coco

from app.codecs.answers import MaskOptions
from app.service.track_values import Range
from app.settings import Settings
from model.errors import CheckpointError
from tests.fakes import Served, disc_mask, error, picture, serving
from tests.small_videos import clip

HEIGHT, WIDTH = 40, 60
CLICK = {"frame": 0, "object": 1, "point_coords": [[30, 20]], "point_labels": [1]}


def with_service(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Run a test with a service of its own as its first argument."""

    @functools.wraps(test)
    async def run(**fields: Any) -> None:
        async with serving() as served:
            await test(served, **fields)

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return run


async def begin(served: Served, frames: int = 4, **fields: Any) -> str:
    """Embed frames f0, f1, ..., and begin a track of them."""
    for number in range(frames):
        await served.embed(picture(shade=number), f"f{number}")
    reply = await served.post("/tracks", {"frames": [f"f{n}" for n in range(frames)], **fields})
    assert reply.status_code == 200, reply.text
    track_id: str = reply.json()["track_id"]
    return track_id


async def click(served: Served, track: str, **fields: Any) -> httpx.Response:
    return await served.post(f"/tracks/{track}/prompts", CLICK | fields)


async def lines(served: Served, track: str, **fields: Any) -> list[dict[str, Any]]:
    reply = await served.post(f"/tracks/{track}/propagate", fields)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(each) for each in reply.text.splitlines()]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    assert found[-1] == {"done": True}
    return [each["frame"] for each in found[:-1]]


@with_service
async def test_a_click_is_answered_at_once_and_followed_through_all_frames(served: Served) -> None:
    reply = await served.post("/tracks", {"frames": ["nothing"]})
    assert error(reply) == (404, "image_not_found")
    track = await begin(served, track_id="walk")
    assert track == "walk"
    shown = (await click(served, track)).json()
    assert shown["frame"] == 0
    (found,) = shown["objects"]
    assert (found["object"], found["visible"]) == (1, True)
    assert found["score"] > 0
    expected = disc_mask(30, 20, 9, height=HEIGHT, width=WIDTH)
    assert (coco.decode(found["masks"][0]["rle"]) == expected).all()
    passed = await lines(served, track)
    assert numbers(passed) == [0, 1, 2, 3]
    assert passed[0]["objects"][0]["masks"] == found["masks"]
    assert all(each["objects"][0]["visible"] for each in passed[:-1])
    said = (await served.client.get("/tracks/walk")).json()
    assert (said["frames"], said["width"], said["height"]) == (4, WIDTH, HEIGHT)
    assert (said["tracker"], said["model"]) == ("mask_prompt", "fake")
    assert said["done"] == [[0, 3]]
    (known,) = said["objects"]
    assert known["prompts"]["0"][0]["point_coords"] == [[30, 20]]
    metrics = (await served.client.get("/metrics")).text
    assert 'sam2_tracked_frames_total{outcome="tracked"} 4.0' in metrics
    assert "sam2_tracks 1.0" in metrics


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [2, 3, 4]),
        ({"to": 3}, [2, 3]),
        ({"from": 1, "to": 1}, [1]),
        ({"direction": "backward"}, [2, 1, 0]),
        ({"direction": "backward", "from": 4, "to": 3}, [4, 3]),
        ({"direction": "both"}, [2, 3, 4, 1, 0]),
        ({"direction": "both", "from": 1}, [1, 2, 3, 4, 0]),
    ],
)
@with_service
async def test_the_range_says_which_frames_in_which_order(
    served: Served, wanted: dict[str, Any], expected: list[int]
) -> None:
    track = await begin(served, 5)
    await click(served, track, frame=2)
    assert numbers(await lines(served, track, **wanted)) == expected


@pytest.mark.parametrize(
    "wanted", [{"from": 5}, {"to": 5}, {"from": 2, "to": 1}, {"direction": "both", "to": 3}]
)
@with_service
async def test_ranges_that_are_not_there_are_refused(served: Served, wanted: dict[str, Any]) -> None:
    track = await begin(served, 5)
    await click(served, track)
    assert error(await served.post(f"/tracks/{track}/propagate", wanted)) == (422, "invalid_prompt")
    assert (await served.client.get(f"/tracks/{track}")).json()["next"] == {"forward": None, "backward": None}


@with_service
async def test_both_ways_go_on_where_they_were_stopped(served: Served) -> None:
    track = await begin(served, 5)
    await click(served, track, frame=2)
    fields = {"options": MaskOptions(), "non_overlapping": False, "tenant": "", "share": ""}
    for stop, left in ((3, [4, 1, 0]), (1, [0])):
        stream = served.service.tracks.propagate(track, Range(way="both"), **fields)  # type: ignore[arg-type]
        while (await anext(stream)).frame != stop:
            pass
        await stream.aclose()
        if stop == 1:
            assert numbers(await lines(served, track, direction="both")) == left
    await click(served, track, frame=2)
    assert numbers(await lines(served, track, direction="both")) == [2, 3, 4, 1, 0]


@pytest.mark.parametrize(
    ("way", "stop", "then"), [("both", 0, "backward"), ("forward", 3, "forward"), ("both", 3, "both")]
)
@with_service
async def test_a_propagation_that_was_stopped_at_its_end_begins_anew(
    served: Served, way: Any, stop: int, then: str
) -> None:
    track = await begin(served)
    await click(served, track)
    fields = {"options": MaskOptions(), "non_overlapping": False, "tenant": "", "share": ""}
    stream = served.service.tracks.propagate(track, Range(way=way), **fields)  # type: ignore[arg-type]
    while (await anext(stream)).frame != stop:
        pass
    await stream.aclose()
    assert numbers(await lines(served, track, direction=then)) == (
        [0] if then == "backward" else [0, 1, 2, 3]
    )


@with_service
async def test_a_propagation_needs_an_object(served: Served) -> None:
    track = await begin(served)
    assert error(await served.post(f"/tracks/{track}/propagate", {})) == (422, "invalid_prompt")


@with_service
async def test_masks_have_the_formats_of_decode(served: Served) -> None:
    track = await begin(served)
    for form in ("rle", "rle_uncompressed", "polygons", "png"):
        for apart in (False, True):
            reply = await click(served, track, mask_format=form, non_overlapping=apart, return_logits=True)
            (mask,) = reply.json()["objects"][0]["masks"]
            assert form.removesuffix("_uncompressed") in mask
            assert mask["logits"]
            assert mask["area"] > 0


@with_service
async def test_masks_of_several_objects_do_not_overlap_where_asked(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    near = {"object": 2, "point_coords": [[34, 20]]}
    await click(served, track, **near)
    both = {}
    for apart in (False, True):
        objects = (await click(served, track, clear=True, non_overlapping=apart, **near)).json()["objects"]
        assert [each["object"] for each in objects] == [1, 2]
        first, second = (coco.decode(each["masks"][0]["rle"]) for each in objects)
        both[apart] = (first & second).sum(), (first | second).sum()
    assert both[False][0] > 0
    assert both[True] == (0, both[False][1])


@with_service
async def test_a_mask_is_a_prompt_and_an_empty_one_says_not_here(served: Served) -> None:
    track = await begin(served)
    mask = {"size": [HEIGHT, WIDTH], "counts": [600, 1200, 600]}
    drawn = {"frame": 0, "object": 1, "mask_input": mask}
    reply = await served.post(f"/tracks/{track}/prompts", drawn)
    (found,) = reply.json()["objects"]
    assert abs(found["masks"][0]["area"] - 1200) < 60
    drawn["mask_input"] = {"size": [HEIGHT, WIDTH], "counts": [2400]}
    (gone,) = (await served.post(f"/tracks/{track}/prompts", drawn)).json()["objects"]
    assert (gone["visible"], gone["masks"][0]["area"]) == (False, 0)
    logits = (await click(served, track, frame=1, return_logits=True)).json()["objects"][0]["masks"][0][
        "logits"
    ]
    again = {"frame": 2, "object": 1, "mask_input": logits}
    assert (await served.post(f"/tracks/{track}/prompts", again)).json()["objects"][0]["visible"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"frame": 4}, "invalid_prompt"),
        ({"frame": -1}, "validation_error"),
        ({"object": -1}, "validation_error"),
        ({"point_labels": []}, "invalid_prompt"),
        ({"point_coords": [[1000, 20]]}, "invalid_prompt"),
        ({"box": [1, 1, 20, 20]}, "invalid_prompt"),
        ({"mask_input": {"size": [HEIGHT, WIDTH], "counts": [2400]}}, "invalid_prompt"),
        ({"mask_input": "nonsense", "point_coords": [], "point_labels": []}, "invalid_prompt"),
        ({"multimask_output": True}, "validation_error"),
        ({"colour": "red"}, "validation_error"),
    ],
)
@with_service
async def test_prompts_that_make_no_sense_are_refused_and_change_nothing(
    served: Served, fields: dict[str, Any], code: str
) -> None:
    track = await begin(served)
    await click(served, track)
    before = (await served.client.get(f"/tracks/{track}")).json()["objects"]
    assert error(await click(served, track, **fields)) == (422, code)
    assert (await served.client.get(f"/tracks/{track}")).json()["objects"] == before


@with_service
async def test_frames_are_of_one_size_and_given_in_one_way(served: Served) -> None:
    await begin(served, 2)
    await served.embed(picture(width=61), "wide")
    uneven = await served.post("/tracks", {"frames": ["f0", "f1", "wide"]})
    assert error(uneven) == (422, "invalid_prompt")
    assert "frames[2]" in uneven.text
    for body in ({}, {"frames": []}, {"frames": ["f0"], "video_id": "clip"}, {"frames": "f0"}):
        assert error(await served.post("/tracks", body)) == (422, "validation_error")
    assert error(await served.post("/tracks", {"video_id": "clip"})) == (404, "video_not_found")


@with_service
async def test_a_video_is_tracked_and_its_frames_are_embedded_once(served: Served) -> None:
    await served.client.post(
        "/videos?video_id=clip", content=clip(frames=5), headers={"Content-Type": "video/mp4"}
    )
    reply = await served.post("/tracks", {"video_id": "clip"})
    assert reply.json()["frames"] == 5
    track = reply.json()["track_id"]
    await click(served, track)
    for _ in range(2):
        assert numbers(await lines(served, track)) == [0, 1, 2, 3, 4]
    assert len(served.segmenter.encoded) == 5


@with_service
async def test_a_frame_that_is_gone_is_an_error_of_that_frame(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    await served.client.delete("/images/f2")
    found = await lines(served, track)
    assert numbers(found) == [0, 1, 2, 3]
    assert found[2]["error"]["code"] == "image_not_found"
    assert found[3]["objects"][0]["visible"]
    assert (await served.client.get(f"/tracks/{track}")).json()["done"] == [[0, 1], [3, 3]]


@with_service
async def test_a_failure_ends_the_lines_with_its_error_and_the_next_call_goes_on(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    assert numbers(await lines(served, track, to=1)) == [0, 1]
    service = served.service.tracks
    seen = service._frames.embedding

    async def failing(state: Any, number: int, **fields: Any) -> Any:
        if number == 2:
            served.segmenter.fail_next = RuntimeError("the model broke")
        return await seen(state, number, **fields)

    service._propagation._embedding = failing  # type: ignore[assignment]
    found = await lines(served, track)
    assert [each.get("frame") for each in found] == [0, 1, None]
    assert found[-1]["error"]["code"] == "inference_failed"
    assert (await served.client.get(f"/tracks/{track}")).json()["next"] == {"forward": 2, "backward": None}
    service._propagation._embedding = seen
    assert numbers(await lines(served, track)) == [2, 3]
    assert numbers(await lines(served, track)) == [0, 1, 2, 3]


@with_service
async def test_a_track_that_is_propagated_refuses_others_and_a_delete_ends_it(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    stream = served.service.tracks.propagate(
        track, Range(), options=MaskOptions(), non_overlapping=False, tenant="", share=""
    )
    assert (await anext(stream)).frame == 0
    for path, body in (("propagate", {}), ("prompts", CLICK)):
        assert error(await served.post(f"/tracks/{track}/{path}", body)) == (409, "track_busy")
    assert error(await served.client.delete(f"/tracks/{track}/objects/1")) == (409, "track_busy")
    await stream.aclose()
    assert numbers(await lines(served, track)) == [1, 2, 3]
    assert (await served.client.delete(f"/tracks/{track}")).status_code == 204
    assert (await served.client.delete(f"/tracks/{track}")).status_code == 204


@with_service
async def test_objects_and_prompts_are_taken_back(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    await click(served, track, object=2, frame=1)
    await click(served, track, object=2, frame=3)
    path = f"/tracks/{track}/objects"
    assert (await served.client.delete(f"{path}/1")).status_code == 204
    assert (await served.client.delete(f"{path}/1")).status_code == 204
    assert (await served.client.delete(f"{path}/2/prompts/1")).json() == {"dropped": None}
    assert (await served.client.delete(f"{path}/2/prompts/1")).json() == {"dropped": None}
    (left,) = (await served.client.get(f"/tracks/{track}")).json()["objects"]
    assert (left["object"], list(left["prompts"])) == (2, ["3"])
    assert "Object 2 is dropped" in (await served.client.delete(f"{path}/2/prompts/3")).json()["dropped"]
    assert (await served.client.get(f"/tracks/{track}")).json()["objects"] == []


@with_service
async def test_names_are_listed_and_belong_to_one_track(served: Served) -> None:
    for name in ("a", "b", "c"):
        await begin(served, 1, track_id=name)
    assert error(await served.post("/tracks", {"frames": ["f0"], "track_id": "a"})) == (
        409,
        "track_id_conflict",
    )
    page = (await served.client.get("/tracks?limit=2")).json()
    assert [each["track_id"] for each in page["tracks"]] == ["c", "b"]
    rest = (await served.client.get(f"/tracks?limit=2&after={page['next']}")).json()
    assert ([each["track_id"] for each in rest["tracks"]], rest["next"]) == (["a"], None)
    assert error(await served.client.get("/tracks?after=x")) == (404, "track_not_found")


@with_service
async def test_an_unknown_track_is_not_found(served: Served) -> None:
    client = served.client
    for reply in (
        await client.get("/tracks/x"),
        await served.post("/tracks/x/prompts", CLICK),
        await served.post("/tracks/x/propagate", {}),
        await client.delete("/tracks/x/objects/1"),
        await client.delete("/tracks/x/objects/1/prompts/0"),
    ):
        assert error(reply) == (404, "track_not_found")


@with_service
async def test_weights_without_a_video_half_are_named(served: Served) -> None:
    served.segmenter.fail_begin = CheckpointError("the file has no video half")
    track = await begin(served)
    reply = await click(served, track)
    assert error(reply) == (501, "tracking_unavailable")
    assert "no video half" in reply.text


@with_service
async def test_propagate_once_leaves_nothing(served: Served) -> None:
    await begin(served, 3)
    kept = (await served.client.get("/tracks")).json()
    body = {"frames": ["f0", "f1", "f2"], "prompts": [CLICK, CLICK | {"object": 7}]}
    reply = await served.post("/propagate", body)
    found = [json.loads(each) for each in reply.text.splitlines()]
    assert numbers(found) == [0, 1, 2]
    assert [each["object"] for each in found[2]["objects"]] == [1, 7]
    assert (await served.client.get("/tracks")).json() == kept
    assert "sam2_track_bytes 0.0" in (await served.client.get("/metrics")).text
    bad = await served.post("/propagate", body | {"prompts": [CLICK, CLICK | {"point_coords": [[999, 1]]}]})
    assert error(bad) == (422, "invalid_prompt")
    assert "prompts[1]" in bad.text


async def test_tenants_see_only_their_own_tracks() -> None:
    keys = Settings(workers=2, api_keys="ann:aaaaaaaaaaaaaaaa,bob:bbbbbbbbbbbbbbbb")  # type: ignore[arg-type]
    async with serving(keys) as served:
        headers = {name: {"Authorization": f"Bearer {name[0] * 16}"} for name in ("ann", "bob")}
        png = {"Content-Type": "image/png"}
        await served.client.post("/embed?image_id=f", content=picture(), headers=png | headers["ann"])
        body = {"frames": ["f"], "track_id": "walk"}
        assert (await served.client.post("/tracks", json=body, headers=headers["ann"])).status_code == 200
        foreign = await served.client.post("/tracks", json=body, headers=headers["bob"])
        assert error(foreign) == (404, "image_not_found")
        assert error(await served.client.get("/tracks/walk", headers=headers["bob"])) == (
            404,
            "track_not_found",
        )
        assert (await served.client.get("/tracks", headers=headers["bob"])).json()["tracks"] == []
        assert (await served.client.delete("/tracks/walk", headers=headers["bob"])).status_code == 204
        assert (await served.client.get("/tracks/walk", headers=headers["ann"])).status_code == 200
        assert error(await served.client.get("/tracks/walk")) == (401, "unauthorized")
