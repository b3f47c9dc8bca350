"""Tracks by their ids: objects that are prompted on some frames and followed through the others.

Tenants see only their own. Prompts are kept on the disk, if there is one; what is remembered of objects is made
again from them. One request at a time works on a track. Belongs to the event loop. Does not know about HTTP.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any

from app.codecs.answers import MaskOptions
from app.codecs.logits import bytes_per_logit
from app.errors import InvalidPrompt
from app.scheduling.deadlines import within
from app.segmenter import Corrections, TrackerKind
from app.service.live_tracks import LiveTracks, prompting
from app.service.prompt_history import check_size, with_prompt
from app.service.propagation import Propagation
from app.service.track_frames import Pictures, TrackFrames
from app.service.track_masks import shape_objects
from app.service.track_state import TrackState, check_addition, check_additions
from app.service.track_states import TrackStates
from app.service.track_values import FrameAnswer, Frames, Range, TrackInfo, TrackPromptRequest
from app.service.wiring import Machinery
from app.settings import Settings
from app.storage.kept_tracks import KeptTracks, TrackKeeper
from app.telemetry.metrics import Metrics
from app.telemetry.stages import StageTimes
from app.track_errors import TrackBusy, TrackNotFound
from model.video.values import Frame, ObjectMask, dropped


class Tracks:
    """The tracks of all tenants. Every method ends within the deadline of a request for each frame it works on."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        machinery: Machinery,
        *,
        service: Pictures,
    ) -> None:
        self._ready = ready = service.ready
        self._workers = machinery.workers
        self._deadline = partial(within, settings.deadline_s)
        folder = settings.cache_path and settings.cache_path / "tracks"
        on_disk = partial(KeptTracks, folder, on_failure=metrics.disk_failures.inc)
        kept: TrackKeeper = machinery.sharing.tracks() if machinery.sharing else on_disk()
        self._frames = TrackFrames(service, most=settings.max_video_frames, now=kept.now)
        self._live = LiveTracks(
            machinery,
            ready=ready,
            embedding=self._frames.embedding,
            capacity_bytes=settings.track_memory_mib * 2**20,
            deadline_s=settings.deadline_s,
        )
        self._propagation = Propagation(
            self._live, metrics, embedding=self._frames.embedding, deadline_s=settings.deadline_s
        )
        self.states = TrackStates(
            kept, most=settings.max_tracks, ttl_s=settings.image_ttl_s, on_forget=self._live.forget
        )
        metrics.tracks.set_function(lambda: len(self.states))
        metrics.track_bytes.set_function(lambda: self._live.used_bytes)

    @property
    def kind(self) -> TrackerKind:
        """How objects are followed."""
        return self._ready().tracking.kind

    @property
    def frame_bytes(self) -> int:
        """Bytes of what is remembered of one object on one frame."""
        return self._ready().tracking.frame_bytes

    async def add(
        self,
        frames: Frames,
        *,
        tenant: str,
        track_id: str | None,
        corrections: Corrections,
        share: str,
        mark: str = "",
    ) -> TrackInfo:
        """Begin a track. Beyond SAM2_MAX_TRACKS, the tenant's least recently used idle one is forgotten.

        One with the same mark is returned: who asks again did not hear of it. Raises ImageNotFound, VideoNotFound,
        InvalidPrompt for frames of several sizes, and TrackIdConflict.
        """
        name = track_id or uuid.uuid4().hex
        async with self._deadline():
            if (begun := await self.states.check_free(name, tenant=tenant, mark=mark)) is not None:
                return begun.info()
            state = await self._frames.survey(
                frames, tenant=tenant, name=name, corrections=corrections, share=share
            )
            state.mark = mark
            await self.states.add(state)
            return state.info()

    async def describe(self, track_id: str, *, tenant: str) -> TrackInfo:
        """Return what is known of a track. Does not count as a use. Raises TrackNotFound."""
        return (await self._found(track_id, tenant=tenant)).info()

    async def newest(self, *, tenant: str, limit: int, after: str | None) -> list[TrackInfo]:
        """Return at most `limit` tracks that follow `after`, newest first. Raises TrackNotFound."""
        self._ready()
        return [each.info() for each in await self.states.newest(tenant=tenant, limit=limit, after=after)]

    async def delete(self, track_id: str, *, tenant: str) -> None:
        """Forget a track, also while it is propagated. An unknown one is forgotten already."""
        async with self._deadline():
            with suppress(TrackNotFound):
                await self.states.forget(await self._found(track_id, tenant=tenant))

    async def prompt(
        self,
        track_id: str,
        request: TrackPromptRequest,
        *,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        times: StageTimes,
        share: str,
    ) -> FrameAnswer:
        """Say where an object is; returns all objects on that frame. Of prompts with one mark, the last one counts.

        Raises TrackNotFound, TrackBusy, InvalidPrompt, and what is wrong with the frame.
        """
        state = await self._found(track_id, tenant=tenant)
        check_addition(state, request)
        async with self._alone(state):
            if state.take_back(request.mark):
                self._live.forget(state)
            request, history = with_prompt(state.history, request)
            async with self._deadline():
                prompt = await self._live.prompt_of(state, request, share=share)
                embedding = await self._frames.embedding(state, request.frame, times=times, share=share)
            work = prompting(Frame(request.frame, embedding), request, prompt)
            shown = await self._changing(state, work, times=times, share=share)
            state.history = history
            await self.states.save(state)
            objects = await self._shaped(
                state, shown, options=options, non_overlapping=non_overlapping, times=times, share=share
            )
            return FrameAnswer(request.frame, objects)

    async def remove_object(self, track_id: str, object_id: int, *, tenant: str, share: str) -> None:
        """Forget an object, and all prompts of it. An unknown one is forgotten already."""
        state = await self._found(track_id, tenant=tenant)
        async with self._alone(state):
            if state.live is not None:
                await self._changing(
                    state, lambda live: live.remove_object(object_id), times=StageTimes(), share=share
                )
            state.remove_prompts(object_id)
            await self.states.save(state)

    async def clear_prompts(
        self, track_id: str, object_id: int, frame: int, *, tenant: str, share: str
    ) -> str | None:
        """Take an object's prompts on a frame back; returns a sentence if the object is dropped by it."""
        state = await self._found(track_id, tenant=tenant)
        async with self._alone(state):
            if not any((each.object_id, each.frame) == (object_id, frame) for each in state.history):
                return None
            note: str | None
            if state.live is None:
                # It is made again from the prompts that are left, and the frame of this one may be gone.
                note = None if state.has_other_prompts(object_id, frame=frame) else dropped(object_id, frame)
            else:
                note = await self._changing(
                    state, lambda live: live.clear_prompts(frame, object_id), times=StageTimes(), share=share
                )
            state.remove_prompts(object_id, frame=frame if note is None else None)
            await self.states.save(state)
            return note

    async def propagate(
        self,
        track_id: str,
        wanted: Range,
        *,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        share: str,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """Yield all objects on each frame, in the order of the work. Ends early where the caller closes it.

        What is done is kept: without `first` a propagation that was stopped goes on where it was, unless prompts
        have changed since. Otherwise it begins at the earliest frame with a prompt. A frame that cannot be read
        is an answer with its error. Raises TrackBusy while another one runs, TrackNotFound if the track is deleted
        meanwhile, and what the queues raise.
        """
        state = await self._found(track_id, tenant=tenant)
        async with self._alone(state, propagates=True):
            found = self._followed(state, wanted, options, non_overlapping=non_overlapping, share=share)
            async with aclosing(found):
                async for each in found:
                    state.used = self.states.now()
                    yield each

    async def propagate_once(
        self,
        frames: Frames,
        prompts: Sequence[TrackPromptRequest],
        wanted: Range,
        *,
        corrections: Corrections,
        options: MaskOptions,
        non_overlapping: bool,
        tenant: str,
        share: str,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """As `propagate`, on a track that nobody else sees and of which nothing is left."""
        state = await self._frames.survey(
            frames, tenant=tenant, name="", corrections=corrections, share=share
        )
        check_additions(state, prompts)
        state.history = list(prompts)
        check_size(state.history)
        try:
            async with self._alone(state, propagates=True):
                found = self._followed(state, wanted, options, non_overlapping=non_overlapping, share=share)
                async with aclosing(found):
                    async for each in found:
                        yield each
        finally:
            self._live.forget(state)

    async def _followed(
        self, state: TrackState, wanted: Range, options: MaskOptions, *, non_overlapping: bool, share: str
    ) -> AsyncGenerator[FrameAnswer, None]:
        times = StageTimes()  # of hundreds of frames, which are no stages of a request
        found = self._propagation.run(state, wanted, share=share)
        async with aclosing(found):
            async for number, shown in found:
                if not isinstance(shown, list):
                    yield FrameAnswer(number, error=shown)
                    continue
                async with self._deadline():
                    objects = await self._shaped(
                        state,
                        shown,
                        options=options,
                        non_overlapping=non_overlapping,
                        times=times,
                        share=share,
                    )
                yield FrameAnswer(number, objects)

    async def _changing(self, state: TrackState, work: Any, *, times: StageTimes, share: str) -> Any:
        """Do what changes prompts. Where it is not known if it was done, the track is made again from them."""
        try:
            async with self._deadline():
                did = await self._live.do(state, work, times=times, share=share)
        except InvalidPrompt:
            raise
        except BaseException:
            if state.live is not None:  # else it was being made again, and the next request goes on
                self._live.forget(state)
            raise
        state.goes_on_at.clear()
        return did.result

    async def _shaped(
        self,
        state: TrackState,
        shown: Sequence[ObjectMask],
        *,
        options: MaskOptions,
        non_overlapping: bool,
        times: StageTimes,
        share: str,
    ) -> Any:
        shape = partial(
            shape_objects,
            shown,
            height=state.height,
            width=state.width,
            options=options,
            logit_bytes=bytes_per_logit(self._ready().dtype_name),
            non_overlapping=non_overlapping,
        )
        with times.during("masks"):
            return await self._workers.run(shape, share=share)

    async def _found(self, track_id: str, *, tenant: str) -> TrackState:
        """Return a track, also one that another server has begun. Raises TrackNotFound and NamesUnreachable."""
        self._ready()
        async with self._deadline():
            return await self.states.find(track_id, tenant=tenant)

    @asynccontextmanager
    async def _alone(self, state: TrackState, *, propagates: bool = False) -> AsyncIterator[None]:
        """Work on a track while nobody else does. What takes one frame waits for its turn; propagations do not."""
        if state.is_propagating:
            raise TrackBusy.for_id(state.track_id)
        state.is_propagating = propagates
        try:
            async with self._deadline():
                await state.lock.acquire()
            try:
                if state.is_deleted:
                    raise TrackNotFound.deleted_meanwhile(state.track_id)
                state.used = self.states.now()
                yield
            finally:
                state.lock.release()
                if state.is_deleted:
                    self._live.forget(state)
        finally:
            if propagates:
                state.is_propagating = False
