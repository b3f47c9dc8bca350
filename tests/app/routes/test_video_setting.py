"""SAM2_VIDEO: off refuses videos and tracks before they cost anything, on loads the video half at the start."""

import pytest

from app.errors import NotReady
from app.main import create_app
from app.settings import Settings
from model.errors import CheckpointError
from tests.app.routes.track_requests import begin, click
from tests.fakes import FakeSegmenter, error, picture, serving, until

REQUESTS = [
    ("POST", "/videos"),
    ("GET", "/videos"),
    ("GET", "/videos/clip"),
    ("DELETE", "/videos/clip"),
    ("GET", "/videos/clip/frames/0"),
    ("POST", "/tracks"),
    ("GET", "/tracks"),
    ("GET", "/tracks/walk"),
    ("DELETE", "/tracks/walk"),
    ("DELETE", "/tracks/walk/objects/1"),
    ("DELETE", "/tracks/walk/objects/1/prompts/0"),
    ("POST", "/tracks/walk/prompts"),
    ("POST", "/tracks/walk/propagate"),
    ("POST", "/propagate"),
]


@pytest.mark.usefixtures("either_service")
async def test_off_refuses_all_of_videos_and_tracks_and_nothing_else() -> None:
    async with serving(Settings(workers=2, video="off")) as served:
        paths = served.app.openapi()["paths"]
        of_videos = {path for path in paths if path.startswith(("/videos", "/tracks", "/propagate"))}
        assert len(REQUESTS) == sum(len(paths[path]) for path in of_videos)
        for method, path in REQUESTS:
            reply = await served.client.request(method, path)
            assert error(reply) == (501, "tracking_unavailable")
            assert "SAM2_VIDEO" in reply.json()["error"]["message"]
        assert (await served.client.get("/model")).json()["tracks"] is None
        assert (await served.embed(picture(), "hat")).status_code == 200
        assert (await served.click("hat")).status_code == 200
        assert "load" not in served.segmenter.order


async def test_off_refuses_an_upload_of_any_size_without_reading_it() -> None:
    read = 0

    async def chunks():  # type: ignore[no-untyped-def]  # httpx takes any
        nonlocal read
        for _ in range(1000):
            read += 1
            yield bytes(2**20)

    async with serving(Settings(workers=2, video="off")) as served:
        reply = await served.client.post("/videos", content=chunks(), headers={"Content-Type": "video/mp4"})
        assert error(reply) == (501, "tracking_unavailable")
        assert read <= 1


@pytest.mark.usefixtures("either_service")
@pytest.mark.parametrize(("video", "loads"), [("on", 1), ("auto", 0)])
async def test_on_loads_the_video_half_before_the_server_is_ready(video: str, loads: int) -> None:
    async with serving(Settings(workers=2, video=video)) as served:  # type: ignore[arg-type]
        assert served.segmenter.order.count("load") == loads
        assert error(await click(served, "unknown")) == (404, "track_not_found")
        assert (await click(served, await begin(served))).status_code == 200


async def test_on_fails_at_the_start_if_the_weights_lack_the_video_half() -> None:
    segmenter = FakeSegmenter()
    segmenter.fail_begin = CheckpointError("a.pt holds the image half alone.")
    app = create_app(Settings(workers=2, video="on"), segmenter)
    async with app.router.lifespan_context(app):
        await until(lambda: app.state.service.failure is not None)
        with pytest.raises(NotReady, match=r"SAM2_VIDEO is on, and a.pt holds the image half alone.*auto"):
            app.state.service.ready()
