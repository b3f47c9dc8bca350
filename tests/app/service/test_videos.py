"""Videos in the service: frames as images, what is kept and for how long, and many callers at once."""

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.codecs import video_files
from app.codecs.video_files import Video
from app.errors import FrameNotFound, ImageNotFound, InvalidFrame, RateLimited, VideoNotFound
from app.service import named_videos, open_videos
from app.service.videos import Videos
from app.settings import Settings
from app.telemetry.stages import StageTimes
from tests.fakes import LONG_S, Served, error, serving
from tests.small_videos import FRAMES, box, clip, number_of, with_broken_packet

CLIP = clip()


async def upload(served: Served, data: bytes = CLIP, name: str = "clip", **options: object) -> None:
    """Upload a video under a name."""
    reply = await served.client.post(
        "/videos",
        files={"video": data},
        data={"video_id": name, **{key: str(value) for key, value in options.items()}},
    )
    assert reply.status_code == 200, reply.text


async def embed(videos: Videos, number: int, name: str = "clip") -> str:
    """Embed a frame, and return its image id."""
    image_id, _ = await videos.embedding(name, number, tenant="", times=StageTimes(), share="me")
    return image_id


async def frame_of(videos: Videos, number: int, name: str = "clip") -> int:
    """Decode a frame, and return which one it shows."""
    file = await videos.frame(name, number, "png", tenant="", times=StageTimes(), share="me")
    return number_of(np.asarray(Image.open(io.BytesIO(file))))


async def get(served: Served, number: int, name: str = "clip") -> httpx.Response:
    """Get a frame as a picture."""
    return await served.client.get(f"/videos/{name}/frames/{number}")


async def test_a_frame_is_embedded_once_and_is_an_image_from_then_on() -> None:
    async with serving() as served:
        await upload(served)
        assert served.segmenter.encoded == []
        image_id = await embed(served.service.videos, 3)
        assert await embed(served.service.videos, 3) == image_id
        assert served.segmenter.encoded == [[(48, 64)]]
        assert (await get(served, 3)).headers["x-sam2-image-id"] == image_id
        assert (await served.click(image_id)).status_code == 200
        assert (await served.client.get(f"/images/{image_id}")).json()["width"] == 64


async def test_callers_of_one_frame_share_one_encoding() -> None:
    async with serving() as served:
        await upload(served)
        served.segmenter.gate.clear()
        calls = [asyncio.create_task(embed(served.service.videos, 3)) for _ in range(5)]
        await served.segmenter.wait_until_entered()
        served.segmenter.gate.set()
        assert len(set(await asyncio.gather(*calls))) == 1
        assert len(served.segmenter.encoded) == 1


async def test_two_samplings_of_a_file_share_the_embeddings_of_their_frames() -> None:
    async with serving() as served:
        await upload(served)
        await upload(served, name="slow", fps=5)
        first = await embed(served.service.videos, 4)
        assert await embed(served.service.videos, 2, "slow") == first
        assert len(served.segmenter.encoded) == 1


async def test_a_frame_counts_in_its_clients_rate() -> None:
    async with serving(Settings(rate_pictures_per_minute=2, workers=2)) as served:
        await upload(served)
        await embed(served.service.videos, 0)
        await embed(served.service.videos, 1)
        with pytest.raises(RateLimited):
            await embed(served.service.videos, 2)


async def test_errors_of_frames_reach_the_caller() -> None:
    async with serving() as served:
        await upload(served, with_broken_packet(clip(group=1, b_frames=0), "mov", 7))
        videos = served.service.videos
        with pytest.raises(InvalidFrame, match="Frame 7"):
            await embed(videos, 7)
        with pytest.raises(FrameNotFound):
            await embed(videos, FRAMES)
        with pytest.raises(FrameNotFound):
            await frame_of(videos, -1)
        with pytest.raises(VideoNotFound):
            await embed(videos, 0, "other")
        assert await embed(videos, 8)


async def test_with_its_last_name_a_video_takes_its_frames_along() -> None:
    async with serving() as served:
        await upload(served)
        await upload(served, name="again")
        image_id = await embed(served.service.videos, 3)
        await served.client.delete("/videos/clip")
        assert (await served.click(image_id)).status_code == 200
        await served.client.delete("/videos/again")
        assert error(await served.click(image_id)) == (404, "image_not_found")


async def test_frames_of_another_video_of_the_file_stay() -> None:
    """At 5 a second it has every second frame."""
    async with serving() as served:
        await upload(served)
        await upload(served, name="slow", fps=5)
        both, lone = [await embed(served.service.videos, number) for number in (4, 5)]
        await served.client.delete("/videos/clip")
        assert (await served.click(both)).status_code == 200
        assert error(await served.click(lone)) == (404, "image_not_found")
        await served.client.delete("/videos/slow")
        assert error(await served.click(both)) == (404, "image_not_found")


async def test_the_ids_of_thousands_of_frames_do_not_hold_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = list[int]()

    def ids(content: str, video: Video) -> list[str]:
        threads.append(threading.get_ident())
        return named_videos.frame_ids(content, video)

    monkeypatch.setattr("app.service.lost_videos.frame_ids", ids)
    async with serving() as served:
        await upload(served)
        assert (await served.client.delete("/videos/clip")).status_code == 204
    assert threads
    assert threading.get_ident() not in threads


async def test_a_video_deleted_while_its_frame_is_embedded() -> None:
    async with serving() as served:
        await upload(served)
        served.segmenter.gate.clear()
        embedding = asyncio.create_task(embed(served.service.videos, 3))
        await served.segmenter.wait_until_entered()
        await served.client.delete("/videos/clip")
        with pytest.raises(ImageNotFound):
            await embedding
        served.segmenter.gate.set()


@pytest.mark.parametrize("replace", [False, True])
async def test_a_delete_wins_over_the_upload_that_it_meets(
    replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as served:
        if replace:
            await upload(served, clip(frames=3))
        begun, goes_on = threading.Event(), threading.Event()

        def survey(*arguments: Any, **options: Any) -> Video:
            begun.set()
            assert goes_on.wait(LONG_S)
            return video_files.survey(*arguments, **options)

        monkeypatch.setattr(open_videos, "survey", survey)
        data = {"video_id": "clip", "replace": "true"}
        uploading = asyncio.create_task(served.client.post("/videos", files={"video": CLIP}, data=data))
        assert await asyncio.to_thread(begun.wait, LONG_S)
        assert (await served.client.delete("/videos/clip")).status_code == 204
        goes_on.set()
        reply = await uploading
        assert error(reply) == (404, "video_not_found")
        assert "deleted during its upload" in reply.text
        assert (await served.client.get("/videos")).json()["videos"] == []
        await upload(served)


async def test_a_video_that_todays_limits_refuse_can_be_deleted(tmp_path: Path) -> None:
    async with serving(Settings(cache_dir=str(tmp_path), workers=2)) as served:
        await upload(served)
    async with serving(Settings(cache_dir=str(tmp_path), max_video_frames=2, workers=2)) as served:
        assert error(await get(served, 0)) == (413, "video_too_large")
        assert (await served.client.delete("/videos/clip")).status_code == 204
        assert (await served.client.get("/videos")).json()["videos"] == []


async def test_a_frame_whose_embedding_was_evicted_is_embedded_again() -> None:
    async with serving() as served:
        await upload(served)
        image_id = await embed(served.service.videos, 3)
        await served.service.store.shed(1.0)
        assert await embed(served.service.videos, 3) == image_id
        assert len(served.segmenter.encoded) == 2


async def test_videos_survive_a_restart(tmp_path: Path) -> None:
    settings = Settings(cache_dir=str(tmp_path), workers=2)
    async with serving(settings) as served:
        await upload(served, fps=5)
        before = (await served.client.get("/videos/clip")).json()
    assert len(list((tmp_path / "videos" / "files").iterdir())) == 1
    assert (tmp_path / "videos").stat().st_mode & 0o077 == 0
    async with serving(settings) as served:
        assert (await served.client.get("/videos/clip")).json() == before
        assert await frame_of(served.service.videos, 3) == 6
        await served.client.delete("/videos/clip")
        assert list((tmp_path / "videos" / "files").iterdir()) == []


async def test_a_second_server_that_shares_the_folder_sees_them(tmp_path: Path) -> None:
    settings = Settings(cache_dir=str(tmp_path), workers=2)
    async with serving(settings) as one, serving(settings) as other:
        await upload(one)
        assert (await get(other, 3)).status_code == 200
        await one.client.delete("/videos/clip")
        assert error(await get(other, 3)) == (404, "video_not_found")


async def test_what_another_server_deletes_is_not_kept_open(tmp_path: Path) -> None:
    settings = Settings(cache_dir=str(tmp_path))
    async with serving(settings) as one, serving(settings) as two:
        await upload(one, name="gone")
        await upload(one, clip(frames=4), name="stays")
        await two.service.videos.upkeep.tend()
        for name in ("gone", "stays"):
            assert (await get(two, 1, name)).is_success
        opened = two.service.videos._open_videos
        assert len(opened.contents()) == 2
        assert (await one.client.delete("/videos/gone")).is_success
        await two.service.videos.upkeep.tend()
        assert len(opened.contents()) == 1
        assert (await get(two, 2, "stays")).is_success


@pytest.mark.parametrize("on_disk", [False, True])
async def test_the_least_recently_used_files_are_evicted(on_disk: bool, tmp_path: Path) -> None:
    """A megabyte holds one of these and not two."""
    large = [clip(frames=number) + box(b"free", bytes(700_000)) for number in (2, 3)]
    settings = Settings(video_cache_mib=1, cache_dir=str(tmp_path) if on_disk else "", workers=2)
    async with serving(settings) as served:
        await upload(served, large[0], "old")
        assert (await get(served, 0, "old")).status_code == 200
        await upload(served, large[1], "new")
        assert (await get(served, 0, "new")).status_code == 200
        gone = await get(served, 0, "old")
        assert error(gone) == (404, "video_not_found")
        assert "SAM2_VIDEO_CACHE_MIB" in gone.text
        assert (await served.client.delete("/videos/old")).status_code == 204
        await upload(served, large[0], "old")
        assert (await get(served, 0, "old")).status_code == 200


@pytest.mark.parametrize("on_disk", [False, True])
async def test_a_video_that_is_being_read_is_not_the_first_to_be_evicted(
    on_disk: bool, tmp_path: Path
) -> None:
    """Its file stays open, so that only the first frame opens it. A megabyte holds two of these."""
    large = [clip(frames=number) + box(b"free", bytes(400_000)) for number in (2, 3, 4)]
    settings = Settings(video_cache_mib=1, cache_dir=str(tmp_path) if on_disk else "", workers=2)
    async with serving(settings) as served:
        await upload(served, large[0], "read")
        assert (await get(served, 0, "read")).status_code == 200
        await upload(served, large[1], "unread")
        assert (await get(served, 1, "read")).status_code == 200
        await upload(served, large[2], "new")
        assert (await get(served, 0, "read")).status_code == 200
        assert error(await get(served, 0, "unread")) == (404, "video_not_found")


async def test_videos_expire(tmp_path: Path) -> None:
    settings = Settings(cache_dir=str(tmp_path), image_ttl_s=0.01, workers=2)
    async with serving(settings) as served:
        await upload(served)
        await asyncio.sleep(0.02)
        assert error(await get(served, 0)) == (404, "video_not_found")
        await served.service.videos.upkeep.tend()
        assert list((tmp_path / "videos" / "files").iterdir()) == []


async def test_without_a_writable_folder_videos_are_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "files").write_text("in the way")
    async with serving(Settings(cache_dir=str(tmp_path), workers=2)) as served:
        await upload(served)
        assert (await get(served, 3)).status_code == 200


async def test_many_callers_at_once_get_their_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """More videos than decoders that may stay open, and several callers for each."""
    monkeypatch.setattr(open_videos, "MOST_READERS", 2)
    async with serving(Settings(workers=4)) as served:
        names = [f"clip{number}" for number in range(4)]
        for number, name in enumerate(names):
            await upload(served, clip(group=3 + number), name)
        wanted = [(name, 7 * number % FRAMES) for number in range(FRAMES) for name in names]
        videos = served.service.videos
        assert await asyncio.gather(*(frame_of(videos, number, name) for name, number in wanted)) == [
            number for _, number in wanted
        ]
        known = videos._open_videos._known
        assert sum(each.reader is not None for each in known.values()) <= 2
        videos._open_videos.tend(idle_s=0)
        assert all(each.reader is None for each in known.values())
        assert await frame_of(videos, 5, "clip1") == 5
