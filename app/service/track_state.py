"""A track: its frames, its prompts, and what it remembers. Does not know of other tracks, or where it is kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.codecs.prompts import check_whole
from app.errors import InvalidPrompt
from app.segmenter import Corrections, ObjectTracks
from app.service.prompt_history import objects_of
from app.service.track_values import Frames, TrackInfo, TrackPromptRequest, ranges
from app.storage.register_file import Key
from model.video.values import Direction


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
    mark: str = ""
    """Who began it; empty if nobody asks again."""
    number: int = 0
    """Of the change that servers have seen of each other; 0 if they do not share tracks, or not yet this one."""
    contents: tuple[str, ...] = ()
    """A hash of what the id of each frame, or that of the video, named when the track was begun; empty where it can
    name nothing else. None at all in a file of an earlier version."""
    history: list[TrackPromptRequest] = field(default_factory=list)
    """Prompts in the order given: a track is made again by giving them again. See prompt_history.py."""
    shared: tuple[TrackPromptRequest, ...] = ()
    """Those that were last written, or read of what another server wrote."""
    answered: tuple[TrackPromptRequest, ...] = ()
    """Those that clients were told to count, also if they could not be written yet."""
    done: set[int] = field(default_factory=set)
    goes_on_at: dict[Direction, int] = field(default_factory=dict)
    """Where propagations that were stopped go on; beyond the last frame of a way that is done."""
    live: ObjectTracks | None = None
    remade: Any = None
    """What is made again of it so far, while `live` is not there. See live_tracks.py."""
    nbytes: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who works on it."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is written, which may outlast the work."""
    is_propagating: bool = False
    is_deleted: bool = False

    @property
    def key(self) -> Key:
        """Tenant and name."""
        return Key(self.tenant, self.track_id)

    @property
    def objects(self) -> dict[int, list[TrackPromptRequest]]:
        """Objects in the order added, each with its prompts that still count."""
        return objects_of(self.history)

    def take_back(self, mark: str) -> bool:
        """Take a prompt with this mark back, as if it had not been given. Returns whether there was one."""
        before = self.history
        self.history = [each for each in before if not mark or each.mark != mark]
        return len(self.history) < len(before)

    def has_other_prompts(self, object_id: int, *, frame: int) -> bool:
        """Whether an object has prompts on other frames."""
        return any(each.object_id == object_id and each.frame != frame for each in self.history)

    def remove_prompts(self, object_id: int, *, frame: int | None = None) -> None:
        """Remove an object's prompts on a frame, or all of them. Objects keep their order."""
        order = list(dict.fromkeys(each.object_id for each in self.history))
        self.history = [
            each
            for each in self.history
            if each.object_id != object_id or (frame is not None and each.frame != frame)
        ]
        # An object that has lost its first prompt would else come later.
        self.history.sort(key=lambda each: order.index(each.object_id))
        if not self.history:
            self.done.clear()

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
            next_forward=self._goes_on(Direction.FORWARD),
            next_backward=self._goes_on(Direction.BACKWARD),
            nbytes=self.nbytes,
            created=self.created,
            used=self.used,
        )

    def _goes_on(self, way: Direction) -> int | None:
        """None too if it was stopped after its last frame: the next one begins anew."""
        number = self.goes_on_at.get(way)
        return number if number is not None and 0 <= number < self.count else None

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
            "mark": self.mark,
            "contents": list(self.contents),
            "prompts": [each.to_json() for each in self.history],
        }

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "TrackState":
        """From a file that may be damaged. Raises KeyError, TypeError, ValueError, OverflowError, InvalidPrompt."""
        height, width = content["size"]
        image_ids, video_id = content["image_ids"], content["video_id"]
        if not all(isinstance(each, str) for each in [*image_ids, *([] if video_id is None else [video_id])]):
            raise TypeError("its frames are no ids")
        if video_id is None and len(image_ids) != content["count"]:
            raise ValueError(f"it has {len(image_ids)} frames, not {content['count']}")
        state = cls(
            content["tenant"],
            content["name"],
            Frames(tuple(image_ids), video_id),
            int(content["count"]),
            int(height),
            int(width),
            "plain" if content["corrections"] == "plain" else "kept",
            created=float(content["created"]),
            used=float(content["used"]),
            mark=str(content.get("mark", "")),  # a file of an earlier version has none
            contents=_contents(content.get("contents", []), of=1 if video_id is not None else len(image_ids)),
            history=[TrackPromptRequest.of_json(each) for each in content["prompts"]],
        )
        for each in state.history:
            check_addition(state, each)
        state.shared = state.answered = tuple(state.history)
        return state


def _contents(found: Any, *, of: int) -> tuple[str, ...]:
    """Raises TypeError and ValueError."""
    if found and (len(found) != of or not all(isinstance(each, str) for each in found)):
        raise ValueError("its frames' contents are not those of its frames")
    return tuple(found)


def check_addition(state: TrackState, request: TrackPromptRequest) -> None:
    """Check what depends neither on the frame's picture nor on other prompts. Raises InvalidPrompt."""
    check_whole([request.prompt])
    if what := _beyond(state, request):
        raise InvalidPrompt(f"{what}.")


def check_additions(state: TrackState, requests: Sequence[TrackPromptRequest]) -> None:
    """Check several prompts of one request. Raises InvalidPrompt with the index of the first bad one."""
    check_whole([each.prompt for each in requests])
    for place, request in enumerate(requests):
        if what := _beyond(state, request):
            where = f"prompts[{place}]"
            raise InvalidPrompt(f"{where}: {what}.", details=[{"where": where, "what": what}])


def _beyond(state: TrackState, request: TrackPromptRequest) -> str | None:
    """Say in words that the track has no such frame."""
    if request.frame < state.count:
        return None
    return f"frame {request.frame}: the track has frames 0 to {state.count - 1}"
