"""What a video leaves that is replaced: nothing of its own, however the replacement ends."""

import asyncio
import errno
import io

import pytest

from tests.app.service.test_videos import embed, upload
from tests.fakes import error, serving
from tests.small_videos import clip


async def test_a_video_that_is_replaced_takes_its_frames_along() -> None:
    """They were listed and decoded for ever after: no DELETE of a video found them."""
    other = clip(frames=3)
    async with serving() as served:
        await upload(served)
        await upload(served, name="slow", fps=5)
        both, lone = [await embed(served.service.videos, number) for number in (4, 5)]
        await upload(served, replace=True)  # by itself
        assert (await served.click(lone)).status_code == 200
        await upload(served, other, replace=True)
        assert error(await served.click(lone)) == (404, "image_not_found")
        assert (await served.click(both)).status_code == 200
        await upload(served, other, name="slow", replace=True)
        assert error(await served.click(both)) == (404, "image_not_found")
        assert (await served.client.get("/images")).json()["images"] == []


async def test_a_replacement_that_is_cut_off_takes_the_old_frames_along_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its retry finds the name on the new file, and would know of no frames."""
    writing = asyncio.Event()

    async def endless(*_: object, **__: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    async with serving() as served:
        await upload(served)
        lone = await embed(served.service.videos, 5)
        with monkeypatch.context() as patched:
            patched.setattr(served.service.videos._files, "save", endless)
            cut = asyncio.create_task(upload(served, clip(frames=3), replace=True))
            await writing.wait()
            cut.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cut
        await upload(served, clip(frames=3), replace=True)
        assert error(await served.click(lone)) == (404, "image_not_found")
        assert (await served.client.get("/images")).json()["images"] == []


@pytest.mark.parametrize("replaces", [True, False])
async def test_a_video_that_cannot_be_read_any_more_is_replaced_and_deleted(
    monkeypatch: pytest.MonkeyPatch, *, replaces: bool
) -> None:
    def failing(_: str) -> io.BytesIO:
        raise OSError(errno.EIO, "Input/output error")

    async with serving() as served:
        await upload(served)
        for content in list(served.service.videos._open_videos.contents()):
            served.service.videos._open_videos.forget(content)
        monkeypatch.setattr(served.service.videos._files, "open", failing)
        if replaces:
            await upload(served, clip(frames=3), replace=True)
        assert (await served.client.delete("/videos/clip")).status_code == 204
        assert (await served.client.get("/videos/clip")).status_code == 404
