"""/videos over HTTP: uploads, names, frames as pictures, and every error that docs/video.md lists."""

import hashlib
import io
import json
import time
from collections.abc import Callable

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from starlette.datastructures import Headers

from app.routes.video_fields import picture_type
from app.settings import Settings
from tests.fakes import error, picture, serving
from tests.small_videos import FRAMES, HEIGHT, WIDTH, clip, number_of, sound, with_broken_packet

pytestmark = pytest.mark.usefixtures("either_service")

CLIP = clip()
DIGEST = hashlib.sha256(CLIP).hexdigest()
MP4 = {"Content-Type": "video/mp4"}


async def upload(client: httpx.AsyncClient, data: bytes = CLIP, **fields: object) -> httpx.Response:
    """Upload a video as a raw body, its fields in the query."""
    return await client.post("/videos", content=data, headers=MP4, params=fields)  # type: ignore[arg-type]


def pixels_of(reply: httpx.Response) -> npt.NDArray[np.uint8]:
    """The picture in a reply."""
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


async def test_a_form_and_a_raw_body_are_the_same_video() -> None:
    async with serving() as served:
        raw = await upload(served.client)
        assert raw.status_code == 200, raw.text
        assert raw.json() == {
            "video_id": DIGEST,
            "frames": FRAMES,
            "width": WIDTH,
            "height": HEIGHT,
            "fps": 10.0,
            "times": [number / 10 for number in range(FRAMES)],
        }
        assert "video;dur=" in raw.headers["server-timing"]
        for field in ("video", "file"):
            form = await served.client.post("/videos", files={field: CLIP})
            assert form.json() == raw.json()
        assert (await served.client.get(f"/videos/{DIGEST}")).json() == raw.json()


async def test_options_may_be_in_the_form_or_in_the_query_but_not_in_both() -> None:
    async with serving() as served:
        options = {"fps": "5", "start_s": "0.5", "end_s": "1.5", "max_frames": "4"}
        form = (await served.client.post("/videos", files={"video": CLIP}, data=options)).json()
        assert form["times"] == [0.5, 0.7, 0.9, 1.1]
        assert form["fps"] == 5
        assert (await upload(served.client, **options)).json() == form
        both = await served.client.post("/videos?fps=5", files={"video": CLIP}, data=options)
        assert error(both) == (422, "validation_error")
        assert "fps" in both.text


async def test_ids_are_of_the_bytes_and_of_the_options_that_change_the_frames() -> None:
    async with serving() as served:
        plain = (await upload(served.client, start_s=0)).json()["video_id"]
        slow = (await upload(served.client, fps=5)).json()["video_id"]
        assert plain == DIGEST
        assert slow == f"{DIGEST}-{hashlib.sha256(b'fps5').hexdigest()[:16]}"
        assert (await upload(served.client, fps=5.0)).json()["video_id"] == slow
        assert len((await served.client.get("/videos")).json()["videos"]) == 2


async def test_a_name_that_looks_like_the_id_of_another_video_is_refused() -> None:
    async with serving() as served:
        slow = f"{DIGEST}-{hashlib.sha256(b'fps5').hexdigest()[:16]}"
        for name in ("ab" * 32, slow, f"{DIGEST}-percentile"):
            refused = await upload(served.client, video_id=name)
            assert error(refused) == (422, "validation_error"), name
            assert refused.json()["error"]["details"][0]["where"] == "video_id"
        assert (await upload(served.client, video_id=slow, fps=5)).json()["video_id"] == slow
        assert (await upload(served.client, video_id=f"{DIGEST}-slow")).status_code == 200


async def test_a_name_belongs_to_one_video_unless_it_is_replaced() -> None:
    async with serving() as served:
        assert (await upload(served.client, video_id="clip")).json()["video_id"] == "clip"
        assert (await upload(served.client, video_id="clip")).status_code == 200
        for data, options in ((clip(frames=3), {}), (CLIP, {"fps": 5})):
            taken = await upload(served.client, data, video_id="clip", **options)
            assert error(taken) == (409, "video_id_conflict")
            assert "replace=true" in taken.text
        replaced = await upload(served.client, clip(frames=3), video_id="clip", replace="true")
        assert replaced.json()["frames"] == 3
        assert (await served.client.get("/videos/clip")).json()["frames"] == 3
        for bad in ("a/b", "..", "f" * 64):
            assert error(await upload(served.client, video_id=bad)) == (422, "validation_error")


async def test_a_list_has_pages() -> None:
    async with serving() as served:
        for name in ("one", "two", "three"):
            await upload(served.client, video_id=name)
        first = (await served.client.get("/videos", params={"limit": 2})).json()
        assert [video["video_id"] for video in first["videos"]] == ["three", "two"]
        assert first["videos"][0]["bytes"] == len(CLIP)
        second = (await served.client.get("/videos", params={"after": first["next"]})).json()
        assert ([video["video_id"] for video in second["videos"]], second["next"]) == (["one"], None)
        assert (await served.client.delete("/videos/two")).status_code == 204
        assert (await served.client.get("/videos", params={"after": first["next"]})).json() == second
        unknown = await served.client.get("/videos", params={"after": "four"})
        assert error(unknown) == (404, "video_not_found")


async def test_a_frame_is_a_jpeg_or_a_png() -> None:
    async with serving() as served:
        await upload(served.client, video_id="clip")
        for number in (0, 13, 5):
            jpeg = await served.client.get(f"/videos/clip/frames/{number}")
            assert jpeg.headers["content-type"] == "image/jpeg"
            assert number_of(pixels_of(jpeg)) == number
        png = await served.client.get("/videos/clip/frames/5", headers={"Accept": "image/png"})
        assert png.headers["content-type"] == "image/png"
        assert pixels_of(png).shape == (HEIGHT, WIDTH, 3)
        assert png.headers["etag"] != jpeg.headers["etag"]
        again = await served.client.get(
            "/videos/clip/frames/5", headers={"If-None-Match": jpeg.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert (await served.client.head("/videos/clip/frames/5")).status_code == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "jpeg"),
        ("*/*", "jpeg"),
        ("image/png", "png"),
        ("image/jpeg, image/png", "jpeg"),
        ("image/jpeg;q=0.5, image/png", "png"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "jpeg"),
        ("IMAGE/PNG; Q=1", "png"),
        ("image/png;q=x", "jpeg"),
        ("image/png; level=9; q=0.9, image/*;q=0.5, */*", "png"),
        ("image/jpeg;q=0, */*", "png"),
        ("text/html", "jpeg"),
    ],
)
def test_accept_chooses_the_kind_of_picture(accept: str, kind: str) -> None:
    assert picture_type(Headers({"Accept": accept})) == kind


async def test_a_deleted_video_is_gone() -> None:
    async with serving() as served:
        await upload(served.client, video_id="clip")
        for _ in range(2):
            deleted = await served.client.delete("/videos/clip")
            assert (deleted.status_code, deleted.content) == (204, b"")
        for path in ("/videos/clip", "/videos/clip/frames/0"):
            gone = await served.client.get(path)
            assert error(gone) == (404, "video_not_found")
            assert "POST it to /videos" in gone.text


async def test_frames_that_are_not_there_or_broken_are_errors_of_their_own() -> None:
    async with serving() as served:
        broken = with_broken_packet(clip(group=1, b_frames=0), "mov", 7)
        assert (await upload(served.client, broken, video_id="clip")).json()["frames"] == FRAMES
        beyond = await served.client.get(f"/videos/clip/frames/{FRAMES}")
        assert error(beyond) == (404, "frame_not_found")
        assert "0 to 19" in beyond.text
        for bad in ("-1", "x", "1.5"):
            assert error(await served.client.get(f"/videos/clip/frames/{bad}")) == (422, "validation_error")
        failed = await served.client.get("/videos/clip/frames/7")
        assert error(failed) == (422, "invalid_frame")
        assert "Frame 7 (at 0.7 s)" in failed.text
        assert number_of(pixels_of(await served.client.get("/videos/clip/frames/8"))) == 8
        metrics = served.service.metrics.render().decode()
        assert 'sam2_video_frames_total{outcome="failed"} 1.0' in metrics
        assert 'sam2_video_frames_total{outcome="decoded"} 1.0' in metrics
        assert f"sam2_video_bytes {float(len(broken))}" in metrics


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"#EXTM3U\nhttp://127.0.0.1/x.ts", "playlist"),
        (CLIP[:-100], "cut off"),
        (sound(), "no video"),
        (picture(), "/embed"),
    ],
)
async def test_what_is_no_video_is_refused(data: bytes, said: str) -> None:
    async with serving() as served:
        refused = await upload(served.client, data)
        assert error(refused) == (422, "invalid_video")
        assert said in refused.text
        assert (await served.client.get("/videos")).json()["videos"] == []


async def test_uploads_of_another_kind_are_refused() -> None:
    async with serving() as served:
        for kind in ("application/json", "text/plain", "image/png"):
            refused = await served.client.post("/videos", content=CLIP, headers={"Content-Type": kind})
            assert error(refused) == (415, "unsupported_media_type")
        for kind in ("video/webm", "image/gif", "application/octet-stream"):
            taken = await served.client.post("/videos", content=CLIP, headers={"Content-Type": kind})
            assert taken.status_code == 200
        text = await served.client.post("/videos", data={"video": "clip.mp4"}, files={"x": b"y"})
        assert error(text) == (422, "validation_error")
        assert "video=@clip.mp4" in text.text
        two = await served.client.post("/videos", files={"video": CLIP, "file": CLIP})
        assert "2 videos in the form" in two.text


async def test_limits_of_bytes_frames_and_pixels() -> None:
    settings = Settings(max_video_mib=1, max_video_frames=FRAMES - 1, max_image_megapixels=0.01, workers=2)
    async with serving(settings) as served:
        for large in (bytes(2**20 + 1), bytes(2 * 2**20)):
            refused = await upload(served.client, large)
            assert error(refused) == (413, "video_too_large")
            assert "SAM2_MAX_VIDEO_MIB" in refused.text
        many = await upload(served.client)
        assert error(many) == (413, "video_too_large")
        assert "SAM2_MAX_VIDEO_FRAMES" in many.text
        assert (await upload(served.client, fps=5)).json()["frames"] == 10
        wide = await upload(served.client, clip(frames=2, size=(128, 96)))
        assert error(wide) == (413, "image_too_large")


@pytest.mark.parametrize(
    "fields",
    [
        {"fps": 0},
        {"fps": "nan"},
        {"fps": 1e9},
        {"start_s": -1},
        {"start_s": 2},
        {"end_s": 0},
        {"start_s": 1.01, "end_s": 1.02},
        {"max_frames": 0},
        {"frames": 3},
        {"replace": "perhaps"},
    ],
)
async def test_wrong_options_are_named(fields: dict[str, object]) -> None:
    async with serving() as served:
        refused = await upload(served.client, **fields)
        assert error(refused) == (422, "validation_error")
        assert any(name in refused.text for name in (*fields, "end_s"))


async def test_a_slow_video_misses_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(*_: object, check: Callable[[], None], **__: object) -> None:
        while True:  # until nobody waits any more
            check()
            time.sleep(0.001)

    monkeypatch.setattr("app.service.open_videos.survey", survey)
    async with serving(Settings(deadline_s=0.05, workers=2)) as served:
        assert error(await upload(served.client)) == (504, "deadline_exceeded")


async def test_the_schema_describes_the_form() -> None:
    async with serving() as served:
        document = (await served.client.get("/openapi.json")).json()
        form = document["paths"]["/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert {"video", "video_id", "fps", "start_s", "end_s", "max_frames", "replace"} == form[
            "properties"
        ].keys()
        assert "$defs" not in json.dumps(form)
