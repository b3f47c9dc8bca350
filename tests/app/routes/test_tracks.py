"""/tracks over HTTP: prompts and their masks, names, and every error. test_propagation.py has the rest."""

from typing import Any

import pytest
from pycocotools import mask as coco

from app.settings import Settings
from model.errors import CheckpointError
from tests.app.routes.track_requests import CLICK, HEIGHT, WIDTH, begin, click, lines, numbers, with_service
from tests.fakes import Served, disc_mask, error, picture, serving

pytestmark = pytest.mark.usefixtures("either_service")


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
    limits = (await served.client.get("/model")).json()["tracks"]
    assert (limits["tracker"], limits["bytes_per_object_and_frame"]) == ("mask_prompt", 4 * 32 * 32)
    (known,) = said["objects"]
    assert known["prompts"]["0"][0]["point_coords"] == [[30, 20]]
    metrics = served.service.metrics.render().decode()
    assert 'sam2_tracked_frames_total{outcome="tracked"} 4.0' in metrics
    assert "sam2_tracks 1.0" in metrics


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
async def test_null_is_a_field_that_is_left_out(served: Served) -> None:
    track = await begin(served, video_id=None, track_id=None)
    nothing = dict.fromkeys(("box", "mask_input", "multimask_output"))
    reply = await click(served, track, **nothing)
    assert reply.status_code == 200, reply.text


@with_service
async def test_the_schema_says_that_an_object_has_one_mask(served: Served) -> None:
    """A client made of it sent what is refused."""
    schemas = (await served.client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("TrackPromptBody", "ObjectPrompt"):
        assert schemas[name]["properties"]["multimask_output"]["type"] == "null"
    track = await begin(served)
    for wanted in (True, False):
        reply = await click(served, track, multimask_output=wanted)
        assert error(reply) == (422, "validation_error")
        assert "one mask for each object" in reply.text


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
    assert (await served.client.delete("/tracks/b")).status_code == 204
    assert (await served.client.get(f"/tracks?after={page['next']}")).json() == rest
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
