"""Client: the synchronous client.

Only sends, waits and reads files. The modules of stories (see asking.py) define what is sent and what replies mean.
"""

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Self, TypeVar

import httpx

from sam2_client import bodies, following, holdings, stories, track_stories
from sam2_client.asking import Attempt, FrameStory, NextPiece, Story
from sam2_client.connection import DEFAULT_URL, options
from sam2_client.images import EmbedResult, KnownImage, Model, Progress, check_concurrency
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.mending import Corrections
from sam2_client.pictures import Picture, PictureSource, Stretch
from sam2_client.pools import Pool
from sam2_client.prompts import Box, Labels, MaskPrompt, Points, Prompt, TrackPrompt
from sam2_client.retries import Retries
from sam2_client.spans import Direction, Span
from sam2_client.step_lines import is_lines
from sam2_client.sync_image import Image
from sam2_client.sync_track import Track, Video
from sam2_client.track_sources import FrameSources, Source, VideoOptions, joined, sorted_out, video_file
from sam2_client.tracked import TrackedFrame
from sam2_client.workers import until_admitted, worked

T = TypeVar("T")


class Client:
    """A client of a SAM 2 service. Threads and forks may share it. `with` or `close` closes its connections.

    Every method may raise Sam2Error. Each kind of failure has a subclass; the message is the server's.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` is the longest wait for a reply in seconds, `retries` the number of retries if the server is
        busy or unreachable. `transport` is that of httpx, for proxies, certificates and tests; neither forks nor
        event loops share one. Raises ValueError for a bad argument, proxy or certificate, also in the environment.
        """
        chosen = options(url, api_key, timeout)
        self._pool = Pool(lambda: httpx.Client(**chosen, transport=transport))
        self._retries = Retries(retries)

    def close(self) -> None:
        """Close all connections."""
        self._pool.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed(
        self,
        picture: PictureSource,
        image_id: str | None = None,
        *,
        replace: bool = False,
        stretch: Stretch = "range",
    ) -> Image:
        """Upload a picture: a path, the bytes of a file, a PIL image or an array.

        `image_id` is your own name for it. `replace` assigns that name to this picture even if it belongs to
        another one. `stretch` says how a picture of more than 8 bits is read. Read in another way, it is another
        picture, and its own id has the word at its end. PIL images and arrays are encoded without loss. If that
        makes the upload large, LargePictureWarning suggests the file instead. The pixels of a PIL image are used as
        they are: the EXIF orientation is not applied. Raises OSError if a file cannot be read, and TypeError or
        ValueError if `picture` is not a picture.
        """
        story = stories.embed(
            Picture(picture, stretch=stretch), image_id=image_id, replace=replace, retries=self._retries
        )
        return self._image(self._tell(story))

    def segment(
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
        """Return the masks of one prompt on a picture in a single request: an upload and a click.

        For more prompts on one picture, use `embed` and then `decode`: they send the file only once. `picture` is
        as in `embed`, the other arguments are as in Image.decode.
        """
        prompt = Prompt(points=points, labels=labels, box=box, mask=mask, multimask=multimask)
        options = MaskOptions(logits, max_hole_area, max_sprinkle_area)
        ready = Picture(picture)
        return self._tell(stories.segment(ready, prompt, options=options, retries=self._retries))

    def embed_many(
        self, pictures: Iterable[PictureSource], *, concurrency: int = 4, progress: bool = True
    ) -> list[EmbedResult[Image]]:
        """Upload many pictures, `concurrency` at a time, with a progress bar on standard error.

        Returns one result for each picture, in order. If a picture fails, its result has the exception, and the
        others continue. Over the client's limits (429), it waits as long as the server says, unless `retries` is 0.
        """
        sources = check_concurrency(pictures, concurrency)
        results: dict[int, EmbedResult[Image]] = {}
        embed = until_admitted(self.embed) if self._retries.most else self.embed
        ended = worked(range(len(sources)), lambda place: embed(sources[place]), concurrency=concurrency)
        with Progress(len(sources), shown=progress) as bar, closing(ended):
            for place, result in ended:
                error = result if isinstance(result, Exception) else None
                image = None if isinstance(result, Exception) else result
                results[place] = EmbedResult(sources[place], image, error)
                bar.count(error)
        return [results[place] for place in range(len(sources))]

    def image(self, image_id: str) -> Image:
        """Look up an embedded picture by its id. Raises ImageNotFound."""
        return self._image(self._tell(holdings.find(image_id, retries=self._retries)))

    def images(self) -> list[Image]:
        """Look up all pictures that the server has stored for this key, newest first."""
        held = self._tell(holdings.find_all(retries=self._retries))
        return [self._image(embedded) for embedded in held]

    def delete(self, image_id: str) -> None:
        """Delete a picture from the server. Succeeds also if the server does not have it."""
        self._tell(holdings.delete(image_id, retries=self._retries))

    def model(self) -> Model:
        """Look up the server's model and limits."""
        return self._tell(holdings.model(retries=self._retries))

    def upload_video(
        self,
        video: str | os.PathLike[str] | bytes,
        video_id: str | None = None,
        *,
        replace: bool = False,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        max_frames: int | None = None,
    ) -> Video:
        """Upload a video: a path, or the bytes of a file.

        `fps` takes so many frames a second, by time; without it every frame of the file counts. `start_s` and
        `end_s` leave out what is before and after, and `max_frames` keeps the first ones. `video_id` is your own
        name for it, and `replace` takes that name from another video. Raises InvalidVideo and VideoTooLarge.
        """
        options = VideoOptions(video_id, replace, fps, start_s, end_s, max_frames)
        story = track_stories.upload_video(video_file(video), options, retries=self._retries)
        return Video(self._tell(story), self)

    def video(self, video_id: str) -> Video:
        """Look up a stored video by its id. Raises VideoNotFound."""
        return Video(self._tell(track_stories.find_video(video_id, retries=self._retries)), self)

    def track(
        self,
        frames: FrameSources | None = None,
        *,
        image_ids: Sequence[str] | None = None,
        track_id: str | None = None,
        corrections: Corrections = "kept",
        progress: bool = False,
    ) -> Track:
        """Begin a track, through whose frames objects will be followed.

        `frames` is a video: a path, the bytes of a file, or a Video. Or pictures of one size: a folder, 2.png
        before 10.png, or a list of pictures as `embed` takes them and of embedded ones. `image_ids` are their ids
        instead. `track_id` is your own name. A prompt on a frame that was tracked before is kept when it
        is tracked again or, with "meta", lost as in Meta's predictor. `progress` shows a bar during uploads.
        """
        source = self._source(frames, image_ids, progress=progress)
        story = track_stories.begin(source, track_id, corrections, retries=self._retries)
        return Track(self._tell(story), self)

    def find_track(self, track_id: str) -> Track:
        """Look up a track that was begun before. If the server loses it, this client cannot make it again."""
        return Track(self._tell(track_stories.find(track_id, retries=self._retries)), self)

    def propagate(
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
    ) -> Generator[TrackedFrame, None, None]:
        """Follow objects in a single request, which leaves no track: yields each frame when it is done.

        `frames` and `image_ids` are as in `track`, the rest as in Track.propagate. Videos and pictures stay stored.
        If the connection breaks, the call fails: a track would go on where it was. The first frame comes when all
        prompts are done; with prompts on many frames, that may take longer than `timeout`.
        """
        shown = track_stories.shown_to_wire(max_hole_area, max_sprinkle_area, non_overlapping=non_overlapping)
        story = following.follow_once(
            self._source(frames, image_ids, progress=progress),
            prompts,
            Span(start, end, direction),
            options=shown,
            progress=progress,
            retries=self._retries,
        )
        return self._follow(story)

    def _image(self, embedded: Embedded) -> Image:
        return Image(embedded, self)

    def _source(
        self, frames: FrameSources | None, image_ids: Sequence[str] | None, *, progress: bool
    ) -> Source:
        found = sorted_out(frames, image_ids)
        if isinstance(found, Picture):
            story = track_stories.upload_video(found, VideoOptions(), retries=self._retries)
            return Source(self._tell(story))
        if isinstance(found, Source):
            return found
        pictures = [each for each in found if not isinstance(each, KnownImage)]
        return joined(found, self.embed_many(pictures, progress=progress))

    def _tell(self, story: Story[T]) -> T:
        try:
            attempt = next(story)
            while True:
                try:
                    response = self._send(attempt)
                except httpx.RequestError as error:
                    attempt = story.throw(error)
                else:
                    attempt = story.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _follow(self, story: FrameStory) -> Generator[TrackedFrame, None, None]:
        reply: httpx.Response | None = None
        pieces: Iterator[bytes] = iter(())
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
                        answer = next(pieces, b"")
                    else:
                        if reply is not None:
                            reply.close()
                        answer = reply = self._send(step)
                        pieces = reply.iter_bytes()
                except httpx.RequestError as error:
                    step = story.throw(error)
                else:
                    step = story.send(answer)
        except StopIteration:
            return
        finally:
            story.close()
            if reply is not None:
                reply.close()

    def _send(self, attempt: Attempt) -> httpx.Response:
        if attempt.wait_s:
            time.sleep(attempt.wait_s)
        http = self._pool.http
        response = http.send(attempt.call.request(http), stream=True)
        if attempt.call.is_stream and is_lines(response):
            return response  # _follow reads and closes it
        try:
            return bodies.read(response, on_step=attempt.call.on_step)
        finally:
            response.close()
