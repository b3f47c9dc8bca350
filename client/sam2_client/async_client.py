"""AsyncClient: the client for asyncio.

Only sends, waits and reads files. The modules of stories (see asking.py) define what is sent and what replies mean.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Self, TypeVar

import httpx

from sam2_client import bodies, following, holdings, stories, track_stories
from sam2_client.asking import Attempt, FrameStory, NextPiece, Story
from sam2_client.async_image import AsyncImage
from sam2_client.async_track import AsyncTrack, AsyncVideo
from sam2_client.cancelling import cancellable
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.errors import RateLimited
from sam2_client.images import EmbedResult, KnownImage, Model, Progress, check_concurrency
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.mending import Corrections
from sam2_client.pictures import Picture, PictureSource, Stretch
from sam2_client.pools import LoopPools
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt, TrackPrompt
from sam2_client.retries import Retries, turn_s
from sam2_client.spans import Direction, Span
from sam2_client.step_lines import is_lines
from sam2_client.track_sources import FrameSources, Source, VideoOptions, joined, sorted_out, video_file
from sam2_client.tracked import TrackedFrame

T = TypeVar("T")


class AsyncClient:
    """Client with `await`. Reads files and encodes pixels in threads. Event loops may share it."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See Client."""
        chosen = options(url, api_key, timeout)
        self._pools = LoopPools(lambda: httpx.AsyncClient(**chosen, transport=transport))
        self._retries = Retries(retries)

    async def close(self) -> None:
        """Close all connections."""
        await self._pools.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def embed(
        self,
        picture: PictureSource,
        image_id: str | None = None,
        *,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> AsyncImage:
        """See Client.embed."""
        ready = await asyncio.to_thread(Picture, picture, stretch=stretch)
        story = stories.embed(ready, image_id=image_id, replace=replace, retries=self._retries)
        return self._image(await self._tell(story))

    async def segment(
        self,
        picture: PictureSource,
        points: Points | None = None,
        labels: Labels | None = None,
        *,
        box: Box | None = None,
        mask: MaskPrompt | None = None,
        multimask: bool | None = None,
        logits: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Mask]:
        """See Client.segment."""
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = await asyncio.to_thread(Picture, picture)
        return await self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    async def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult[AsyncImage]]:
        """See Client.embed_many."""
        sources = check_concurrency(pictures, concurrency)
        free = asyncio.Semaphore(concurrency)
        with Progress(len(sources), shown=progress) as bar:

            async def embed_one(source: PictureSource) -> EmbedResult[AsyncImage]:
                async with free:
                    result = await self._embed_one(source)
                bar.count(result.error)
                return result

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(embed_one(source)) for source in sources]
        return [task.result() for task in tasks]

    async def image(self, image_id: str) -> AsyncImage:
        """See Client.image."""
        return self._image(await self._tell(holdings.find(image_id, retries=self._retries)))

    async def images(self) -> list[AsyncImage]:
        """See Client.images."""
        held = await self._tell(holdings.find_all(retries=self._retries))
        return [self._image(embedded) for embedded in held]

    async def delete(self, image_id: str) -> None:
        """See Client.delete."""
        await self._tell(holdings.delete(image_id, retries=self._retries))

    async def model(self) -> Model:
        """See Client.model."""
        return await self._tell(holdings.model(retries=self._retries))

    async def upload_video(
        self,
        video: str | os.PathLike[str] | bytes,
        video_id: str | None = None,
        *,
        replace: bool = False,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        max_frames: int | None = None,
    ) -> AsyncVideo:
        """See Client.upload_video."""
        options = VideoOptions(video_id, replace, fps, start_s, end_s, max_frames)
        story = track_stories.upload_video(video_file(video), options, retries=self._retries)
        return AsyncVideo(await self._tell(story), self)

    async def video(self, video_id: str) -> AsyncVideo:
        """See Client.video."""
        return AsyncVideo(await self._tell(track_stories.find_video(video_id, retries=self._retries)), self)

    async def track(
        self,
        frames: FrameSources | None = None,
        *,
        image_ids: Sequence[str] | None = None,
        track_id: str | None = None,
        corrections: Corrections = "kept",
        progress: bool = False,
    ) -> AsyncTrack:
        """See Client.track."""
        source = await self._source(frames, image_ids, progress=progress)
        story = track_stories.begin(source, track_id, corrections, retries=self._retries)
        return AsyncTrack(await self._tell(story), self)

    async def find_track(self, track_id: str) -> AsyncTrack:
        """See Client.find_track."""
        return AsyncTrack(await self._tell(track_stories.find(track_id, retries=self._retries)), self)

    async def propagate(
        self,
        frames: FrameSources | None = None,
        prompts: Sequence[TrackPrompt] = (),
        *,
        image_ids: Sequence[str] | None = None,
        start: int | None = None,
        end: int | None = None,
        direction: Direction = "forward",
        non_overlapping: bool = False,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        progress: bool = False,
    ) -> AsyncGenerator[TrackedFrame, None]:
        """See Client.propagate."""
        shown = track_stories.shown_to_wire(max_hole_area, max_sprinkle_area, non_overlapping=non_overlapping)
        story = following.follow_once(
            await self._source(frames, image_ids, progress=progress),
            prompts,
            Span(start, end, direction),
            options=shown,
            progress=progress,
            retries=self._retries,
        )
        async with aclosing(self._follow(story)) as found:
            async for frame in found:
                yield frame

    def _image(self, embedded: Embedded) -> AsyncImage:
        return AsyncImage(embedded, self)

    async def _embed_one(self, source: PictureSource) -> EmbedResult[AsyncImage]:
        while True:
            try:
                return EmbedResult(source, await self.embed(source), None)
            except Exception as error:  # any exception is the result of this picture
                if not isinstance(error, RateLimited) or not self._retries.most:
                    return EmbedResult(source, None, error)
                pause_s = turn_s(error)
            await asyncio.sleep(pause_s)

    async def _source(
        self, frames: FrameSources | None, image_ids: Sequence[str] | None, *, progress: bool
    ) -> Source:
        found = sorted_out(frames, image_ids)
        if isinstance(found, Picture):
            story = track_stories.upload_video(found, VideoOptions(), retries=self._retries)
            return Source(await self._tell(story))
        if isinstance(found, Source):
            return found
        pictures = [each for each in found if not isinstance(each, KnownImage)]
        return joined(found, await self.embed_many(pictures, progress=progress))

    async def _tell(self, story: Story[T]) -> T:
        try:
            attempt = next(story)
            while True:
                try:
                    response = await self._send(attempt)
                except httpx.RequestError as error:
                    attempt = story.throw(error)
                else:
                    attempt = story.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _follow(self, story: FrameStory) -> AsyncGenerator[TrackedFrame, None]:
        replies: list[httpx.Response] = []
        pieces: AsyncIterator[bytes] | None = None
        try:
            step = next(story)
            while True:
                if isinstance(step, TrackedFrame):
                    yield step
                    step = next(story)
                    continue
                answer: httpx.Response | bytes
                try:
                    if isinstance(step, NextPiece):
                        answer = await cancellable(anext(pieces, b"")) if pieces is not None else b""
                    else:
                        await _close(replies)
                        answer = await self._send(step, replies)
                        pieces = answer.aiter_bytes()
                except httpx.RequestError as error:
                    step = story.throw(error)
                else:
                    step = story.send(answer)
        except StopIteration:
            return
        finally:
            story.close()
            await _close(replies)

    async def _send(self, attempt: Attempt, replies: list[httpx.Response] | None = None) -> httpx.Response:
        """Send a call. A reply that is read while it comes is added to `replies`, to be closed."""
        if attempt.wait_s:
            await asyncio.sleep(attempt.wait_s)
        call, http = attempt.call, self._pools.http
        if call.picture is None:
            request = call.request(http)
        else:
            request = await asyncio.to_thread(call.request, http)

        async def exchange() -> httpx.Response:
            response = await http.send(request, stream=True)
            if replies is not None and call.is_stream and is_lines(response):
                replies.append(response)
                return response
            try:
                return await bodies.aread(response, on_step=call.on_step)
            finally:
                await response.aclose()

        return await cancellable(exchange())


async def _close(replies: list[httpx.Response]) -> None:
    while replies:
        await cancellable(replies.pop().aclose())
