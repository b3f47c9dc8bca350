"""What tracks remember, on the device: begun when it is needed, made again from prompts, bounded in bytes.

A step is one piece of work for the device thread. Clicks and encodes pass it where it pauses. Belongs to the event
loop. Does not know about names, files or HTTP.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from app.codecs.prompts import resolve_of_track
from app.errors import InvalidPrompt, Overloaded, ServiceError
from app.scheduling.deadlines import left_s, within
from app.segmenter import Corrections, ObjectTracks, Segmenter
from app.service.decodings import overflow
from app.service.track_state import TrackState
from app.service.track_values import TrackPromptRequest
from app.service.wiring import Machinery
from app.telemetry.stages import StageTimes
from app.track_errors import TrackingUnavailable
from model.errors import CheckpointError, TrackError
from model.types import Embedding, Prompt
from model.video.values import Frame, MaskPrompt, TrackPrompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What a piece of work returned, and what the track was like right after it."""

    result: T
    nbytes: int
    unsettled: tuple[int, ...]
    first_frame: int | None


@dataclass(slots=True)
class Remade:
    """A track that is made again from its prompts. Requests that come to their deadline go on where others were."""

    live: ObjectTracks
    history: list[TrackPromptRequest]
    given: int = 0
    """Number of prompts that it has. The device thread counts: it knows whether what a caller left was done."""

    def give(self, place: int, work: Callable[[ObjectTracks], Any]) -> "Outcome[Any] | ServiceError":
        """On the device thread: do the work of a prompt, unless an earlier request's has been done."""
        outcome = _attempt(self.live, work if place == self.given else _nothing)
        if isinstance(outcome, Outcome):
            self.given = max(self.given, place + 1)
        return outcome


class EmbeddingOf(Protocol):
    """Finds or makes the embedding of a track's frame."""

    def __call__(
        self, state: TrackState, number: int, *, times: StageTimes, share: str
    ) -> Awaitable[Embedding]: ...


class LiveTracks:
    """Does the work of tracks on the device, one piece at a time for each: the caller holds the track's lock."""

    def __init__(
        self,
        machinery: Machinery,
        *,
        ready: Callable[[], Segmenter],
        embedding: EmbeddingOf,
        capacity_bytes: int,
        deadline_s: float,
    ) -> None:
        self._tracker, self._workers = machinery.tracker, machinery.workers
        self._between = machinery.device.overtake
        self._ready, self._embedding = ready, embedding
        self._capacity_bytes, self._deadline_s = capacity_bytes, deadline_s
        self._live: OrderedDict[TrackState, None] = OrderedDict()  # least recently used first
        machinery.on_full.append(self._shed)

    @property
    def used_bytes(self) -> int:
        """Bytes of all that is remembered."""
        return sum(state.nbytes for state in self._live)

    async def do(
        self, state: TrackState, work: Callable[[ObjectTracks], T], *, times: StageTimes, share: str
    ) -> Outcome[T]:
        """Run a piece of work. Within a deadline.

        Raises InvalidPrompt for what the track cannot do, after which it is as before; Overloaded if tracks take
        too much memory, and whatever the device's queue raises.
        """
        if state.live is None:
            await self._begin(state, share=share)
        live = state.live
        assert live is not None  # noqa: S101  # nobody else forgets it while the lock is held
        outcome: Outcome[T] = await self._run(partial(_attempt, live, work), times=times, share=share)
        self._hold(state, outcome.nbytes)
        return outcome

    async def prompt_of(self, state: TrackState, request: TrackPromptRequest, *, share: str) -> TrackPrompt:
        """Check a prompt against its frame. Raises InvalidPrompt."""
        resolve = partial(
            resolve_of_track,
            request.prompt,
            height=state.height,
            width=state.width,
            mask_size=self._ready().mask_size,
        )
        has_mask = request.prompt.mask_input is not None
        prompt = await self._workers.run(resolve, share=share) if has_mask else resolve()
        return prompt if isinstance(prompt, Prompt) else MaskPrompt(prompt)

    def forget(self, state: TrackState) -> None:
        """Drop what a track remembers; its prompts stay."""
        self._live.pop(state, None)
        state.live, state.remade, state.nbytes = None, None, 0
        state.done.clear()
        state.goes_on_at.clear()

    async def _begin(self, state: TrackState, *, share: str) -> None:
        """Begin a track, and give it its prompts again, each within a deadline of its own.

        A request may have less time than all prompts take: then the next one goes on.
        """
        times = StageTimes()
        remade: Remade | None = state.remade
        if remade is None or remade.history != state.history:
            async with within(self._deadline_s):
                segmenter = self._ready()
                if (most := segmenter.tracking.most_bytes) is not None:
                    self._capacity_bytes = min(self._capacity_bytes, most)  # a GPU may have less to give
                begin = partial(
                    _begin,
                    segmenter,
                    num_frames=state.count,
                    corrections=state.corrections,
                    between=self._between,
                )
                live: ObjectTracks = await self._run(begin, times=times, share=share)
            state.remade = remade = Remade(live, list(state.history))
        for place, request in enumerate(state.history):
            if place < remade.given:
                continue
            try:
                async with within(self._deadline_s):
                    prompt = await self.prompt_of(state, request, share=share)
                    embedding = await self._embedding(state, request.frame, times=times, share=share)
                    work = prompting(Frame(request.frame, embedding), request, prompt)
                    outcome = await self._run(partial(remade.give, place, work), times=times, share=share)
                self._hold(state, outcome.nbytes)
            except InvalidPrompt as error:
                where = f"prompts[{place}]"
                what = error.message
                raise InvalidPrompt(f"{where}: {what}", details=[{"where": where, "what": what}]) from error
        state.live, state.remade = remade.live, None
        state.done.clear()
        state.goes_on_at.clear()

    async def _run(self, work: Callable[[], Any], *, times: StageTimes, share: str) -> Any:
        ran = await self._tracker.submit(work, deadline_s=left_s(), share=share)
        times.add_ran([ran])
        return ran.result

    def _hold(self, state: TrackState, nbytes: int) -> None:
        """Count what a track remembers now. Raises Overloaded if that is too much, and forgets it."""
        state.nbytes = nbytes
        self._live[state] = None
        self._live.move_to_end(state)
        self._keep_within(state)

    def _idle(self) -> list[TrackState]:
        return [each for each in self._live if not each.lock.locked()]

    def _shed(self, fraction: float) -> int:
        """Forget at least this part of what idle tracks remember, least recently used first. Returns how many."""
        idle = self._idle()
        left = fraction * sum(each.nbytes for each in idle)
        shed = 0
        for each in idle:
            if left <= 0:
                break
            left -= each.nbytes
            shed += 1
            self.forget(each)
        return shed

    def _keep_within(self, state: TrackState) -> None:
        """Forget what idle tracks remember, least recently used first, until the rest fits."""
        for idle in [each for each in self._idle() if each is not state]:
            if self.used_bytes <= self._capacity_bytes:
                return
            self.forget(idle)
        if self.used_bytes > self._capacity_bytes:
            mib = state.nbytes / 2**20
            self.forget(state)
            raise Overloaded(
                f"Tracks take more memory than they may ({self._capacity_bytes // 2**20} MiB: "
                f"SAM2_TRACK_MEMORY_MIB, on a GPU at most a quarter of what is free), {mib:.0f} MiB of it this "
                "one. Its prompts are kept. Remove objects, or try again when others are done.",
                retry_after_s=10,
            )


def _prompt(live: ObjectTracks, *, frame: Frame, request: TrackPromptRequest, prompt: TrackPrompt) -> Any:
    return live.prompt(frame, request.object_id, prompt, replaces=request.clear, anew=request.anew)


def prompting(
    frame: Frame, request: TrackPromptRequest, prompt: TrackPrompt
) -> Callable[[ObjectTracks], Any]:
    """Return the work of one prompt."""
    return partial(_prompt, frame=frame, request=request, prompt=prompt)


def _nothing(_: ObjectTracks) -> None:
    pass


def _begin(
    segmenter: Segmenter, *, num_frames: int, corrections: Corrections, between: Callable[[], None]
) -> Any:
    """On the device thread."""
    try:
        return segmenter.tracking.begin(num_frames=num_frames, corrections=corrections, between=between)
    except CheckpointError as error:
        return TrackingUnavailable(str(error))


def _attempt(live: ObjectTracks, work: Callable[[ObjectTracks], T]) -> "Outcome[T] | ServiceError":
    """On the device thread. A result that is an error fails its caller alone."""
    try:
        result = work(live)
    except TrackError as error:
        return InvalidPrompt(str(error))
    if isinstance(result, list):  # of masks
        failures = (overflow(each.object_score, each.iou) for each in result)
        if (failure := next(filter(None, failures), None)) is not None:
            return failure
    return Outcome(result, live.nbytes, live.unsettled, live.first_frame)
