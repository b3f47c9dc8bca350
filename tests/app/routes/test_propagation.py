"""Propagations over HTTP: ranges, lines, stopping and going on, and frames that cannot be read."""

import json
from typing import Any

import pytest

from app.codecs.answers import MaskOptions
from app.service.track_values import Range
from tests.app.routes.track_requests import CLICK, begin, click, lines, numbers, with_service
from tests.fakes import Served, error, picture
from tests.small_videos import clip, with_broken_packet

pytestmark = pytest.mark.usefixtures("either_service")


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
    ("way", "stop", "then"), [("forward", 2, [3, 4, 1, 0]), ("backward", 1, [2, 3, 4, 0])]
)
@with_service
async def test_both_ways_pass_all_frames_also_where_only_one_way_was_stopped(
    served: Served, way: Any, stop: int, then: list[int]
) -> None:
    track = await begin(served, 5)
    await click(served, track, frame=2)
    fields = {"options": MaskOptions(), "non_overlapping": False, "tenant": "", "share": ""}
    stream = served.service.tracks.propagate(track, Range(way=way), **fields)  # type: ignore[arg-type]
    while (await anext(stream)).frame != stop:
        pass
    await stream.aclose()
    assert numbers(await lines(served, track, direction="both")) == then
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
    said = (await served.client.get(f"/tracks/{track}")).json()
    assert said["next"] == {"forward": None if stop == 3 else 1, "backward": None}
    assert numbers(await lines(served, track, direction=then)) == (
        [0] if then == "backward" else [0, 1, 2, 3]
    )


@with_service
async def test_a_propagation_needs_an_object(served: Served) -> None:
    track = await begin(served)
    assert error(await served.post(f"/tracks/{track}/propagate", {})) == (422, "invalid_prompt")


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
async def test_propagate_once_leaves_nothing(served: Served) -> None:
    await begin(served, 3)
    kept = (await served.client.get("/tracks")).json()
    body = {"frames": ["f0", "f1", "f2"], "prompts": [CLICK, CLICK | {"object": 7}]}
    reply = await served.post("/propagate", body)
    found = [json.loads(each) for each in reply.text.splitlines()]
    assert numbers(found) == [0, 1, 2]
    assert [each["object"] for each in found[2]["objects"]] == [1, 7]
    assert (await served.client.get("/tracks")).json() == kept
    assert "sam2_track_bytes 0.0" in served.service.metrics.render().decode()
    for wrong in ({"point_coords": [[999, 1]]}, {"point_coords": [], "point_labels": []}, {"frame": 3}):
        bad = await served.post("/propagate", body | {"prompts": [CLICK, CLICK | wrong]})
        assert error(bad) == (422, "invalid_prompt")
        assert bad.json()["error"]["message"].startswith("prompts[1]: ")
        assert bad.json()["error"]["details"][0]["where"] == "prompts[1]"


@with_service
async def test_a_frame_that_cannot_be_decoded_is_an_error_of_that_frame(served: Served) -> None:
    broken = with_broken_packet(clip(frames=6, group=1, b_frames=0), "mov", 3)
    await served.client.post("/videos?video_id=clip", content=broken, headers={"Content-Type": "video/mp4"})
    track = (await served.post("/tracks", {"video_id": "clip"})).json()["track_id"]
    await click(served, track)
    found = await lines(served, track)
    assert numbers(found) == [0, 1, 2, 3, 4, 5]
    assert [each["error"]["code"] for each in found[:-1] if "error" in each] == ["invalid_frame"]
    assert "Frame 3" in found[3]["error"]["message"]
    assert found[4]["objects"][0]["visible"]
    said = (await served.client.get(f"/tracks/{track}")).json()
    assert said["done"] == [[0, 2], [4, 5]]
    assert error(await click(served, track, frame=3)) == (422, "invalid_frame")


@with_service
async def test_a_track_does_not_follow_another_video_that_got_the_name_of_its_own(served: Served) -> None:
    async def upload(content: bytes) -> None:
        reply = await served.client.post(
            "/videos?video_id=clip&replace=true", content=content, headers={"Content-Type": "video/mp4"}
        )
        assert reply.status_code == 200, reply.text

    first, second = clip(frames=4), clip(frames=5)
    await upload(first)
    track = (await served.post("/tracks", {"video_id": "clip"})).json()["track_id"]
    await click(served, track)
    await upload(second)
    assert error(await click(served, track, frame=1)) == (409, "video_id_conflict")
    reply = await served.post(f"/tracks/{track}/propagate", {})
    assert error(reply) == (409, "video_id_conflict")
    assert "Begin another track" in reply.json()["error"]["message"]
    await upload(first)
    assert numbers(await lines(served, track)) == [0, 1, 2, 3]


@with_service
async def test_a_frame_whose_name_got_another_picture_is_an_error_of_that_frame(served: Served) -> None:
    track = await begin(served)
    await click(served, track)
    for file in (picture(shade=99), picture(shade=2)):
        await served.client.post(
            "/embed?image_id=f2&replace=true", content=file, headers={"Content-Type": "image/png"}
        )
        found = await lines(served, track)
        assert numbers(found) == [0, 1, 2, 3]
        assert ("error" in found[2]) == (file == picture(shade=99))
        if "error" in found[2]:
            assert found[2]["error"]["code"] == "invalid_frame"
            assert "another picture" in found[2]["error"]["message"]


@pytest.mark.parametrize(("wanted", "given"), [("meta", "plain"), ("kept", "kept"), (None, "kept")])
@with_service
async def test_corrections_are_kept_unless_metas_way_is_asked_for(
    served: Served, wanted: str | None, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, begins = [], served.segmenter.begin

    def noted(**fields: Any) -> Any:
        asked.append(fields["corrections"])
        return begins(**fields)

    monkeypatch.setattr(served.segmenter, "begin", noted)
    fields = {"corrections": wanted} if wanted is not None else {}
    track = await begin(served, 2, **fields)
    await click(served, track)
    assert (await served.client.get(f"/tracks/{track}")).json()["corrections"] == (wanted or "kept")
    once = {"frames": ["f0", "f1"], "prompts": [CLICK], **fields}
    assert numbers([json.loads(each) for each in (await served.post("/propagate", once)).text.splitlines()])
    assert asked == [given, given]
    wrong = {"frames": ["f0"], "corrections": "plain"}
    assert error(await served.post("/tracks", wrong)) == (422, "validation_error")
