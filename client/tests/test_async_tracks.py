"""Tracks of AsyncClient against the real service on a port. They differ from Client's only in `await`."""

import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import numpy as np
import pytest
from client_server import Served
from PIL import Image
from track_files import CLICKED, CLIP, MIDDLE, frames_in

import sam2_client
from sam2_client import AsyncClient, AsyncTrack, TrackedFrame, TrackPrompt
from sam2_client.pictures import Picture
from tests.small_videos import WIDTH


class Breaking(httpx.AsyncBaseTransport):
    """Breaks the connection in the middle of the first propagation."""

    def __init__(self) -> None:
        self.real, self.is_whole = httpx.AsyncHTTPTransport(), True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx calls it."""
        response = await self.real.handle_async_request(request)
        if not (request.url.path.endswith("propagate") and self.is_whole):
            return response
        self.is_whole = False
        return httpx.Response(200, headers=response.headers, stream=_FirstLine(response, request))

    async def aclose(self) -> None:
        """As httpx calls it."""
        await self.real.aclose()


class _FirstLine(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, request: httpx.Request) -> None:
        self._response, self._request = response, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        lines = self._response.aiter_lines()
        yield (await anext(lines)).encode() + b"\n"
        await self._response.aclose()
        raise httpx.ReadError("broken", request=self._request)


async def indexes(frames: AsyncIterator[TrackedFrame]) -> list[int]:
    return [frame.index async for frame in frames]


async def test_a_track_is_prompted_followed_and_deleted(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncClient(served.url, transport=Breaking()) as client:
        video = await client.upload_video(CLIP, "awaited")
        assert (await video.frame(1)).width == WIDTH
        async with await client.track(video) as track:
            assert isinstance(track, AsyncTrack)
            shown = await track.click(MIDDLE, frame=2)
            assert np.array_equal(shown.masks[1].to_numpy(), CLICKED)
            await track.click(MIDDLE, frame=1, object=2)
            await track.remove(2)
            assert await track.clear(frame=5) is None
            assert await track.prompts() == {1: [2]}
            assert await indexes(track.propagate(direction="both", progress=True)) == [2, 3, 4, 5, 1, 0]
            assert "6/6" in capsys.readouterr().err
            assert (await track.picture(3)).width == WIDTH
            found = await client.find_track(track.track_id)
            assert found.frames == 6
        with pytest.raises(sam2_client.TrackNotFound):
            await client.find_track(track.track_id)
        await (await client.video("awaited")).delete()


async def test_frames_are_read_and_decoded_in_threads(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[threading.Thread] = []
    real = Picture.open

    def opened(self: Picture) -> Image.Image:
        at_work.append(threading.current_thread())
        return real(self)

    monkeypatch.setattr(Picture, "open", opened)
    async with AsyncClient(served.url) as client:
        async with await client.track(CLIP) as track:
            await track.picture(0)
        async with await client.track(frames_in(tmp_path / "frames")) as track:
            await track.picture(0)
        await (await client.upload_video(CLIP)).frame(0)
    assert len(at_work) == 3
    assert threading.current_thread() not in at_work


async def test_a_loop_that_is_left_ends_the_work_and_the_next_goes_on(served: Served) -> None:
    async with AsyncClient(served.url) as client, await client.track(CLIP) as track:
        await track.click(MIDDLE)
        async with aclosing(track.propagate()) as frames:
            async for frame in frames:
                if frame.index == 2:
                    break
        assert await indexes(track.propagate()) == [3, 4, 5]


async def test_pictures_are_uploaded_and_one_request_does_it_all(served: Served, tmp_path: Path) -> None:
    folder = frames_in(tmp_path / "frames")
    async with AsyncClient(served.url) as client:
        frames = client.propagate(folder, [TrackPrompt(points=[(30, 20)], frame=1)], end=2)
        assert await indexes(frames) == [1, 2]
        with pytest.raises(ValueError, match="lies before"):
            await indexes(client.propagate(folder, start=2, end=1))
        with pytest.raises(sam2_client.InvalidVideo):
            await client.track(b"<html>")
