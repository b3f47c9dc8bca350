"""Videos as sequences of frames: a file becomes a name with times; a frame becomes pixels, or an image's embedding.

A frame is an image. Its id is a hash of the file and the frame's time stamp, so that all videos of one file share
the embeddings of its frames. Belongs to the event loop; files are read in worker threads. Does not know about HTTP.
"""

import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from app.codecs.picture_files import PictureKind, write_picture
from app.codecs.upright import Pixels
from app.codecs.video_files import Video
from app.codecs.video_times import Sampling
from app.errors import (
    FrameNotFound,
    ImageIdConflict,
    ImageNotFound,
    InvalidFrame,
    VideoIdConflict,
    VideoNotFound,
)
from app.scheduling.deadlines import within
from app.service.lost_videos import LostVideos
from app.service.named_videos import NamedVideo, checked_digest, content_of, frame_id, sampling_of
from app.service.open_videos import OpenVideos, VideoGone
from app.service.video_upkeep import VideoUpkeep
from app.service.wiring import Machinery
from app.settings import Settings
from app.storage.claims import Claims
from app.storage.disk_trouble import DiskTrouble
from app.storage.kept_videos import KeptVideos
from app.storage.names import check_reserved, content_key
from app.storage.pages import place_in
from app.storage.register_file import ImageName
from app.storage.registers import register_in
from app.storage.store import EmbeddingStore
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes
from model.types import Embedding

T = TypeVar("T")


class Videos:
    """Names and files of videos, and their frames. Tenants see only their own.

    `check_ready` raises while the server cannot answer. `store` returns the embeddings of images.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        machinery: Machinery,
        *,
        check_ready: Callable[[], object],
        store: Callable[[], EmbeddingStore],
    ) -> None:
        self._workers, self._encodings = machinery.workers, machinery.encodings
        self._metrics, self._check_ready, self._store = metrics, check_ready, store
        self._deadline = partial(within, settings.deadline_s)
        folder = settings.cache_path / "videos" if settings.cache_path is not None else None
        trouble = DiskTrouble(folder, on_failure=metrics.disk_failures.inc) if folder is not None else None
        self._open_videos = OpenVideos(
            max_pixels=int(settings.max_image_megapixels * 1e6), max_frames=settings.max_video_frames
        )
        capacity, forget = settings.video_cache_mib * 2**20, self._open_videos.forget
        self._files = KeptVideos.in_place(
            machinery.bucket, folder, capacity_bytes=capacity, trouble=trouble, on_evict=forget
        )
        self._register = register_in(
            machinery.sharing,
            "video",
            folder,
            ttl_s=settings.image_ttl_s,
            trouble=trouble,
            on_unnamed=self._files.remove,
        )
        self._claims = Claims(VideoNotFound.deleted_meanwhile)
        self._lost = LostVideos(
            self._survey, self._workers, self._register, self._files, self._open_videos, store=store
        )
        self.upkeep = VideoUpkeep(self._register, self._open_videos, self._files)
        metrics.video_bytes.set_function(lambda: self._files.used_bytes)

    async def open(self) -> None:
        """Open the register of names, and start the maintenance."""
        await self._register.open()
        self.upkeep.start()

    async def close(self) -> None:
        """Stop the maintenance, and close the register."""
        if await self.upkeep.stop():
            self._open_videos.close()
            await self._files.close()  # what it removes yet, the register is asked about
            await self._register.close()

    async def add(
        self,
        data: bytes,
        sampling: Sampling,
        *,
        tenant: str,
        video_id: str | None,
        replace: bool,
        times: StageTimes,
        share: str,
    ) -> NamedVideo:
        """Keep a video file under its id, or under the SHA-256 of its bytes and of the options.

        Raises a ServiceError for a bad file, one with too many frames or pixels, a name that is taken or is deleted
        meanwhile, or a missed deadline.
        """
        async with self._deadline():
            self._check_ready()
            sampling = Sampling.of_words(sampling.words)  # as after a restart
            with times.during("hash"):
                digest = await self._workers.run(partial(checked_digest, data), share=share)
            own_id = sampling.video_id(digest)
            name = video_id or own_id
            check_reserved(name, own_id, of="video")
            content = content_key(content_of(digest, sampling), tenant=tenant)
            with self._claims.claim(name, tenant=tenant) as claim:
                await self._check_name(name, content, tenant=tenant, replace=replace)
                with times.during("video"):
                    video = await self._survey(name, content, share=share, data=data)
                row = self._register.find(name, tenant=tenant)
                is_replaced = row is not None and row.content != content
                frames = await self._lost.frames_of(row if is_replaced else None, share=share)
                claim.check()
                lost = await self._name(name, content, video, len(data), tenant=tenant, replace=replace)
                try:
                    await self._files.save(
                        content,
                        data,
                        while_named=self._register.while_named,
                        is_named=self._register.is_named,
                    )
                finally:  # also where the client has gone: with a retry, the name would be the new one's already
                    await self._lost.forget(lost, frames, tenant=tenant, share=share)
                claim.check()  # then the name that it got is removed already
            return NamedVideo.of(name, video)

    async def describe(self, video_id: str, *, tenant: str, share: str) -> NamedVideo:
        """Return what is known of a video. Does not count as a use. Raises VideoNotFound."""
        async with self._deadline():
            self._check_ready()
            row = await self.find(video_id, tenant=tenant)
            return NamedVideo.of(video_id, await self._survey(video_id, row.content, share=share))

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[ImageName]:
        """Return at most `limit` names that follow `after`, newest first. Raises VideoNotFound."""
        self._check_ready()
        async with self._deadline():
            await self._register.catch_up(waits=False)  # a client lists what another server has just taken in
            last = None if after is None else place_in(after) or await self._known(after, tenant=tenant)
        if after is not None and last is None:
            raise VideoNotFound(f"after={after!r} names no stored video. Start again without it.")
        return self._register.newest(tenant=tenant, limit=limit, after=last)

    async def delete(self, video_id: str, *, tenant: str, share: str) -> None:
        """Forget a video, even during its upload, and, with its last name, the embeddings of its frames.

        Those that another video of its file has are kept.
        """
        async with self._deadline():
            self._check_ready()
            row = await self._known(video_id, tenant=tenant)
            frames = await self._lost.frames_of(row, share=share)
            self._claims.delete(video_id, tenant=tenant)
            lost = await self._register.remove(video_id, tenant=tenant)
            await self._lost.forget(lost, frames, tenant=tenant, share=share)

    async def frame(
        self, video_id: str, number: int, kind: PictureKind, *, tenant: str, times: StageTimes, share: str
    ) -> bytes:
        """Return a frame as a file.

        Raises VideoNotFound, FrameNotFound for a number that the video does not have, InvalidFrame for broken data.
        """
        async with self._deadline():
            self._check_ready()
            content, _ = await self._numbered(video_id, number, tenant=tenant, share=share)
            with times.during("frame"):
                return await self._job(
                    video_id, content, lambda: write_picture(self._read(content, number), kind), share=share
                )

    async def frame_id(self, video_id: str, number: int, *, tenant: str, share: str) -> str:
        """Return the image id of a frame, embedded or not. Raises VideoNotFound and FrameNotFound."""
        async with self._deadline():
            self._check_ready()
            content, video = await self._numbered(video_id, number, tenant=tenant, share=share)
            return frame_id(content, video, number)

    async def embedding(
        self, video_id: str, number: int, *, tenant: str, times: StageTimes, share: str
    ) -> tuple[str, Embedding]:
        """Return the image id of a frame and its embedding, made if need be; the frame then is an image as others.

        It counts as a picture in the queue and the rate of `share`. Raises as `frame`, and as an upload does:
        Overloaded, RateLimited, DeadlineExceeded.
        """
        async with self._deadline():
            self._check_ready()
            content, video = await self._numbered(video_id, number, tenant=tenant, share=share)
            image_id, store = frame_id(content, video, number), self._store()
            picture = content_key(image_id, tenant=tenant)
            try:
                await store.look_up(image_id, tenant=tenant)
                embedding = await store.find(picture)
            except ImageNotFound:
                embedding = None
            if embedding is None:
                source, is_joined = partial(self._read, content, number), picture in self._encodings
                with store.claim(image_id, tenant=tenant) as claim:
                    joining = self._encodings.join(picture, source, times, share, claim=claim)
                    try:
                        embedding = await self._job(video_id, content, joining, share=share)
                    except VideoNotFound:  # of another video of this file, perhaps, whose reading was joined
                        if not is_joined:
                            raise
                        return await self.embedding(video_id, number, tenant=tenant, times=times, share=share)
                    await store.keep(claim, picture, embedding, replace=True, upload=None)
            return image_id, embedding

    async def _numbered(self, video_id: str, number: int, *, tenant: str, share: str) -> tuple[str, Video]:
        row = await self.find(video_id, tenant=tenant)
        self._register.use(row)
        video = await self._survey(video_id, row.content, share=share)
        if not 0 <= number < len(video):
            raise FrameNotFound(f"There is no frame {number}: the video has frames 0 to {len(video) - 1}.")
        return row.content, video

    async def find(self, video_id: str, *, tenant: str) -> ImageName:
        """Look up a name. Raises VideoNotFound."""
        row = await self._known(video_id, tenant=tenant)
        if row is None:
            raise VideoNotFound.for_id(video_id)
        return row

    async def _known(self, video_id: str, *, tenant: str) -> ImageName | None:
        """Look up a name, among those that other servers have given a moment ago too."""
        row = self._register.find(video_id, tenant=tenant)
        if row is None:
            await self._register.catch_up()
            row = self._register.find(video_id, tenant=tenant)
        return row

    async def _survey(self, video_id: str, content: str, *, share: str, data: bytes | None = None) -> Video:
        """Return what is known of a video: at once if it is. `data` is a new one's file."""
        if (video := self._open_videos.peek(content)) is not None:
            return video
        open_file = partial(io.BytesIO, data) if data is not None else partial(self._files.open, content)
        job = partial(self._open_videos.describe, content, open_file, sampling_of(content))
        return await self._job(video_id, content, job, share=share)

    def _read(self, content: str, number: int) -> Pixels:
        """Decode a frame, in a worker thread."""
        if not self._files.use(content):  # evicted, perhaps by another server
            self._open_videos.forget(content)
            raise VideoGone
        open_file = partial(self._files.open, content)
        try:
            pixels = self._open_videos.read(content, open_file, sampling_of(content), number)
        except InvalidFrame:
            self._metrics.video_frames.labels("failed").inc()
            raise
        self._metrics.video_frames.labels("decoded").inc()
        return pixels

    async def _job(
        self, video_id: str, content: str, job: Callable[[], T] | Awaitable[T], *, share: str
    ) -> T:
        """Run a job in a worker thread, or wait for it, and say in words that the video's file is gone.

        Raises NamesUnreachable if another server may not have written it yet.
        """
        try:
            return await (self._workers.run(job, share=share) if callable(job) else job)
        except VideoGone as error:
            await self._register.check_arrived(content)
            raise VideoNotFound.fallen_out(video_id) from error

    async def _check_name(self, name: str, content: str, *, tenant: str, replace: bool) -> None:
        row = self._register.find(name, tenant=tenant)
        # A name that another server has deleted a moment ago must be given anew.
        await self._register.catch_up(waits=row is None or row.content != content)
        row = self._register.find(name, tenant=tenant)
        if row is not None and row.content != content and not replace:
            raise VideoIdConflict.for_id(name)

    async def _name(
        self, name: str, content: str, video: Video, nbytes: int, *, tenant: str, replace: bool
    ) -> frozenset[str]:
        """Give a file its name. Returns the contents that lost their last one by it. Raises VideoIdConflict."""
        now = self._register.now()
        row = ImageName(tenant, name, content, video.height, video.width, nbytes, created=now, used=now)
        known = self._register.find(name, tenant=tenant)
        if known is not None and known.content == content:
            self._register.use(known)
            return frozenset()
        try:
            return await self._register.add(row, replace=replace)
        except ImageIdConflict as error:  # another server was faster
            raise VideoIdConflict.for_id(name) from error
