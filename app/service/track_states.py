"""Tracks by tenant and name, bounded in number and in time; their prompts are kept on the disk, if there is one.

Belongs to the event loop. Does not know how objects are followed.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.codecs.prompts import check_whole
from app.errors import InvalidPrompt
from app.segmenter import Corrections, ObjectTracks
from app.service.track_values import Frames, TrackInfo, TrackPromptRequest, ranges
from app.storage.kept_tracks import KeptTracks
from app.storage.store import TEND_S
from app.track_errors import TrackIdConflict, TrackNotFound
from model.video.values import Direction

log = logging.getLogger(__name__)

MOST_PROMPTS = 4096
"""Prompts of one track."""
_MOST_PROMPT_BYTES = 16 * 2**20
"""Of one track; masks are large."""


@dataclass(slots=True, eq=False)
class TrackState:
    """A track: what is known of it, and what it remembers at this moment."""

    tenant: str
    track_id: str
    frames: Frames
    count: int
    height: int
    width: int
    corrections: Corrections
    created: float
    used: float
    history: list[TrackPromptRequest] = field(default_factory=list)
    """All prompts that still count, in the order given: a track is made again by giving them again."""
    done: set[int] = field(default_factory=set)
    goes_on_at: dict[Direction, int] = field(default_factory=dict)
    live: ObjectTracks | None = None
    nbytes: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_propagating: bool = False
    is_deleted: bool = False

    @property
    def objects(self) -> dict[int, list[TrackPromptRequest]]:
        """Objects in the order added, each with its prompts."""
        found: dict[int, list[TrackPromptRequest]] = {}
        for each in self.history:
            found.setdefault(each.object_id, []).append(each)
        return found

    def info(self) -> TrackInfo:
        """Describe it."""
        return TrackInfo(
            track_id=self.track_id,
            frames=self.count,
            height=self.height,
            width=self.width,
            video_id=self.frames.video_id,
            corrections=self.corrections,
            objects=self.objects,
            done=ranges(self.done),
            next_forward=self.goes_on_at.get(Direction.FORWARD),
            next_backward=self.goes_on_at.get(Direction.BACKWARD),
            nbytes=self.nbytes,
            created=self.created,
            used=self.used,
        )

    def to_json(self) -> dict[str, Any]:
        """For a file, beside tenant and name."""
        return {
            "image_ids": list(self.frames.image_ids),
            "video_id": self.frames.video_id,
            "count": self.count,
            "size": [self.height, self.width],
            "corrections": self.corrections,
            "created": self.created,
            "used": self.used,
            "prompts": [each.to_json() for each in self.history],
        }

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "TrackState":
        """From a file. Raises KeyError, TypeError and ValueError."""
        height, width = content["size"]
        return cls(
            content["tenant"],
            content["name"],
            Frames(tuple(content["image_ids"]), content["video_id"]),
            int(content["count"]),
            int(height),
            int(width),
            "plain" if content["corrections"] == "plain" else "kept",
            created=float(content["created"]),
            used=float(content["used"]),
            history=[TrackPromptRequest.of_json(each) for each in content["prompts"]],
        )


class TrackStates:
    """All tracks. `on_forget` is called with each that is forgotten."""

    def __init__(
        self, files: KeptTracks, *, most: int, ttl_s: float, on_forget: Callable[[TrackState], None]
    ) -> None:
        self._files, self._most, self._ttl_s, self._on_forget = files, most, ttl_s, on_forget
        self._states: dict[tuple[str, str], TrackState] = {}
        self._tending: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """The number of tracks."""
        return len(self._states)

    async def open(self) -> None:
        """Read the tracks of earlier servers, and start the maintenance."""
        for content in await asyncio.to_thread(self._files.load):
            try:
                state = TrackState.of_json(content)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("A track in SAM2_CACHE_DIR cannot be read: %r", error)
            else:
                self._states[state.tenant, state.track_id] = state
        self._tending = asyncio.create_task(self._tend_for_good())

    async def close(self) -> None:
        """Stop the maintenance."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait([self._tending])

    def find(self, track_id: str, *, tenant: str) -> TrackState:
        """Return a track. Raises TrackNotFound."""
        state = self._states.get((tenant, track_id))
        if state is None:
            raise TrackNotFound.for_id(track_id)
        return state

    def check_free(self, track_id: str, *, tenant: str) -> None:
        """Raise TrackIdConflict if there is a track of that name."""
        if (tenant, track_id) in self._states:
            raise TrackIdConflict.for_id(track_id)

    def newest(self, *, tenant: str, limit: int, after: str | None) -> list[TrackState]:
        """Return at most `limit` tracks that follow `after`, newest first. Raises TrackNotFound."""
        own = [each for each in self._states.values() if each.tenant == tenant]
        own.sort(key=lambda each: (each.created, each.track_id), reverse=True)
        if after is None:
            return own[:limit]
        last = self._states.get((tenant, after))
        if last is None:
            raise TrackNotFound(f"after={after!r} names no track. Start again without it.")
        return own[own.index(last) + 1 :][:limit]

    async def add(self, state: TrackState) -> None:
        """Add a track. Beyond `most`, the tenant's least recently used idle one is forgotten.

        Raises TrackIdConflict.
        """
        tenant = state.tenant
        self.check_free(state.track_id, tenant=tenant)
        own = [each for each in self._states.values() if each.tenant == tenant]
        idle = sorted((each for each in own if not each.lock.locked()), key=lambda each: each.used)
        self._states[tenant, state.track_id] = state
        for oldest in idle[: max(0, len(own) + 1 - self._most)]:
            await self.forget(oldest)
        await self.save(state)

    async def save(self, state: TrackState) -> None:
        """Write a track to its file, unless it is forgotten."""
        content = state.to_json()
        wanted = partial(_is_wanted, state)
        await asyncio.to_thread(self._files.save, state.tenant, state.track_id, content, is_wanted=wanted)

    async def forget(self, state: TrackState) -> None:
        """Forget a track. Who works on it finds `is_deleted`."""
        state.is_deleted = True
        if self._states.get((state.tenant, state.track_id)) is state:
            del self._states[state.tenant, state.track_id]
        if not state.lock.locked():
            self._on_forget(state)
        await asyncio.to_thread(self._files.remove, state.tenant, state.track_id)

    async def tend(self) -> None:
        """Forget what has expired."""
        if self._ttl_s:
            due = time.time() - self._ttl_s
            for state in [each for each in self._states.values() if each.created < due]:
                await self.forget(state)

    async def _tend_for_good(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self.tend()
            except Exception:  # otherwise maintenance would stop, and nobody would notice
                log.exception("Maintenance of the tracks failed; it continues.")


def _is_wanted(state: TrackState) -> bool:
    return not state.is_deleted


def check_addition(state: TrackState, request: TrackPromptRequest) -> None:
    """Check what does not depend on the frame's picture. Raises InvalidPrompt."""
    check_whole([request.prompt])
    if request.frame >= state.count:
        raise InvalidPrompt(f"frame {request.frame}: the track has frames 0 to {state.count - 1}.")
    if len(state.history) >= MOST_PROMPTS:
        raise InvalidPrompt(f"A track has {MOST_PROMPTS} prompts at most. DELETE objects or their prompts.")
    if sum(each.nbytes for each in (*state.history, request)) > _MOST_PROMPT_BYTES:
        raise InvalidPrompt(
            f"The prompts of a track take {_MOST_PROMPT_BYTES // 2**20} MiB at most. DELETE objects or prompts."
        )
