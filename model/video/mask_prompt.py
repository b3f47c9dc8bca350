"""A track without memory: the mask of the frame before, and a box around it, are the prompt of the next.

The floor that a tracker with memory must beat, and what a model has that knows pictures only. It follows an object
that moves a little from frame to frame. It has no notion of identity: what looks alike at the same place is taken
for the object. It asks a decoder for pictures, and does not know the network behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.errors import TrackError
from model.masks.drawn import DRAWN_LOGIT, drawn_logits
from model.types import LOGIT_LIMIT, Embedding, Logits, Prediction, Prompt
from model.video.object_track import added
from model.video.values import ABSENT, Direction, Frame, MaskPrompt, ObjectMask, TrackPrompt, dropped

LEAST_IOU = 0.5
"""Where the decoder thinks less of its mask, the object is said not to be there: its score is 0 at this value."""
_MOST_CHANGE = 3.0
"""An area that changes by more than this factor in a frame is another object's, or the background's."""
_GONE = -10.0
"""The score of an object that is surely not there."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """An object on one frame."""

    shown: ObjectMask
    last: Logits | None
    """The newest mask that was taken for the object: here or, where it is not visible, before."""

    @property
    def nbytes(self) -> int:
        return sum(
            each.nbytes
            for each in {id(m): m for m in (self.shown.logits, self.last)}.values()
            if each is not None
        )


@dataclass(slots=True)
class _Followed:
    """One object. Frames with a prompt stay, and those next to the present one."""

    prompts: dict[int, TrackPrompt] = field(default_factory=dict)
    held: dict[int, _Held] = field(default_factory=dict)
    unprompted: dict[int, _Held | None] = field(default_factory=dict)
    """What was held, if anything, of each frame that was prompted since the last step: for prompts taken back."""
    tracked: set[int] = field(default_factory=set)

    def before(self, frame: int, direction: Direction) -> _Held | None:
        """The nearest frame behind; not the last one where that one cannot be read."""
        behind = [each for each in self.held if (frame - each) * direction > 0]
        return self.held[min(behind, key=lambda each: abs(frame - each))] if behind else None

    def forget_prompt(self, frame: int) -> None:
        """Take a prompt back: also its mask, unless a step was taken since, after which it is an ordinary one."""
        self.prompts.pop(frame, None)
        if frame in self.unprompted:
            del self.held[frame]
            if (earlier := self.unprompted.pop(frame)) is not None:
                self.held[frame] = earlier

    @property
    def nbytes(self) -> int:
        """Bytes of all its masks."""
        return sum(
            each.nbytes for each in (*self.held.values(), *self.unprompted.values()) if each is not None
        )


class MaskPromptTrack:
    """As Track. An object holds the logits of each frame with a prompt, and of two others."""

    def __init__(
        self,
        decode: Callable[[Sequence[tuple[Embedding, Prompt]]], list[Prediction]],
        *,
        num_frames: int,
        mask_size: tuple[int, int],
    ) -> None:
        self.num_frames = num_frames
        self._decode, self._mask_size = decode, mask_size
        self._objects: dict[int, _Followed] = {}

    @property
    def objects(self) -> dict[int, dict[int, TrackPrompt]]:
        """Objects in the order added, each with its prompts by frame."""
        return {each: dict(found.prompts) for each, found in self._objects.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all masks."""
        return sum(each.nbytes for each in self._objects.values())

    @property
    def unsettled(self) -> tuple[int, ...]:
        """There are no memories to be made."""
        return ()

    @property
    def first_frame(self) -> int | None:
        """Where a track starts by default: the earliest frame with a prompt."""
        return min((frame for each in self._objects.values() for frame in each.prompts), default=None)

    def prompt(
        self,
        frame: Frame,
        object_id: int,
        prompt: TrackPrompt,
        *,
        replaces: bool = False,
        anew: bool = False,
    ) -> list[ObjectMask]:
        """Say where an object is; returns all objects on that frame. As Track.prompt, which see."""
        self._check(frame.index)
        found = self._objects.get(object_id) or _Followed()
        if isinstance(prompt, MaskPrompt):
            held = self._drawn(object_id, prompt)
        else:
            prompt = added(None if replaces else found.prompts.get(frame.index), prompt)
            held = self._clicked(object_id, found, frame, prompt, anew=anew)
        found.unprompted.setdefault(frame.index, found.held.get(frame.index))
        found.prompts[frame.index], found.held[frame.index] = prompt, held
        self._objects[object_id] = found
        return self.shown(frame.index)

    def settle(self, frame: Frame) -> None:
        """There are no memories to be made."""
        self._check(frame.index)

    def step(self, frame: Frame, *, direction: Direction = Direction.FORWARD) -> list[ObjectMask]:
        """Follow all objects to a frame; returns them in the order added. Frames with a prompt keep its mask."""
        self._check(frame.index)
        if not self._objects:
            raise TrackError("There is no object to follow. Prompt one on any frame first.")
        sought: list[tuple[int, _Followed, Logits]] = []
        for object_id, each in self._objects.items():
            if frame.index in each.prompts:
                continue
            before = each.before(frame.index, direction)
            if before is None or before.last is None:
                each.held[frame.index] = _Held(self._nothing(object_id), None)
            else:
                sought.append((object_id, each, before.last))
        jobs = [(frame.embedding, _prompt_of(last, frame.embedding)) for _, _, last in sought]
        for (object_id, each, last), prediction in zip(
            sought, self._decode(jobs) if jobs else (), strict=True
        ):
            each.held[frame.index] = self._judged(object_id, prediction, last)
        for each in self._objects.values():
            each.tracked.add(frame.index)
            each.unprompted.clear()
            for index in [i for i in each.held if abs(i - frame.index) > 1 and i not in each.prompts]:
                del each.held[index]
        return self.shown(frame.index)

    def shown(self, frame: int) -> list[ObjectMask]:
        """All objects on a frame, in the order added, as far as they are held."""
        return [self._shown(object_id, each, frame) for object_id, each in self._objects.items()]

    def remove_object(self, object_id: int) -> tuple[int, ...]:
        """Forget an object; returns the frames that had prompts of it. An unknown one has none."""
        found = self._objects.pop(object_id, None)
        return tuple(sorted(found.prompts)) if found is not None else ()

    def clear_prompts(self, frame: int, object_id: int) -> str | None:
        """Take an object's prompts on a frame back. As Track.clear_prompts, which see."""
        found = self._objects.get(object_id)
        if found is None:
            return None
        found.forget_prompt(frame)
        if found.prompts:
            return None
        del self._objects[object_id]
        return dropped(object_id, frame)

    def _drawn(self, object_id: int, prompt: MaskPrompt) -> _Held:
        logits = drawn_logits(prompt.mask, self._mask_size)
        return self._prompted(object_id, logits, DRAWN_LOGIT if prompt.mask.any() else _GONE, 1.0)

    def _clicked(
        self, object_id: int, found: _Followed, frame: Frame, prompt: Prompt, *, anew: bool
    ) -> _Held:
        held = found.held.get(frame.index) if not anew else None
        earlier = held.last if held is not None and held.shown.visible else None
        clicks = len(prompt.points) + 2 * (prompt.box is not None)
        asked = Prompt(
            points=prompt.points,
            labels=prompt.labels,
            box=prompt.box,
            mask_logits=None if earlier is None else earlier.clip(-LOGIT_LIMIT, LOGIT_LIMIT),
            multimask_output=clicks == 1 and earlier is None,
        )
        (prediction,) = self._decode([(frame.embedding, asked)])
        logits, iou = _best(prediction)
        # The user says that it is there, whatever the decoder thinks of its mask.
        return self._prompted(object_id, logits, max(_score(iou), 1e-3), iou)

    @staticmethod
    def _prompted(object_id: int, logits: Logits, score: float, iou: float) -> _Held:
        """Where nothing is left, of clicks on the background say, nothing is visible and to be followed."""
        if (logits > 0).any():
            return _Held(ObjectMask(object_id, logits, score, iou), logits)
        return _Held(ObjectMask(object_id, logits, min(score, -1e-3), iou), None)

    def _judged(self, object_id: int, prediction: Prediction, last: Logits) -> _Held:
        logits, iou = _best(prediction)
        area, before = int((logits > 0).sum()), int((last > 0).sum())
        is_alike = before / _MOST_CHANGE <= area <= before * _MOST_CHANGE
        if area and is_alike and iou > LEAST_IOU:
            return _Held(ObjectMask(object_id, logits, _score(iou), iou), logits)
        score = min(_score(iou), -1e-3) if is_alike else _GONE
        return _Held(ObjectMask(object_id, self._absent(), score, iou), last)

    def _shown(self, object_id: int, found: _Followed, frame: int) -> ObjectMask:
        if (held := found.held.get(frame)) is not None:
            return held.shown
        return (
            ObjectMask(object_id, None, ABSENT, 0.0) if frame in found.tracked else self._nothing(object_id)
        )

    def _nothing(self, object_id: int) -> ObjectMask:
        return ObjectMask(object_id, self._absent(), ABSENT, 0.0)

    def _absent(self) -> Logits:
        return np.full(self._mask_size, ABSENT, np.float32)

    def _check(self, frame: int) -> None:
        if not 0 <= frame < self.num_frames:
            raise TrackError(
                f"Frame {frame} is not in the video, whose frames are 0 to {self.num_frames - 1}."
            )


def _best(prediction: Prediction) -> tuple[Logits, float]:
    best = int(prediction.iou.argmax())
    return prediction.logits[best].copy(), float(min(max(prediction.iou[best], 0.0), 1.0))


def _score(iou: float) -> float:
    """The predicted IoU as a logit."""
    share = min(max(iou, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))


def _prompt_of(last: Logits, embedding: Embedding) -> Prompt:
    """The mask before, and the box around it in pixels of the picture.

    No margin: on synthetic clips a box that was 5 or 10 % wider took in more of the background from frame to frame.
    """
    rows, columns = (np.flatnonzero((last > 0).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return Prompt(mask_logits=last.clip(-LOGIT_LIMIT, LOGIT_LIMIT), multimask_output=False)
    height, width = embedding.height / last.shape[0], embedding.width / last.shape[1]
    box = (
        float(columns[0]) * width,
        float(rows[0]) * height,
        float(columns[-1] + 1) * width,
        float(rows[-1] + 1) * height,
    )
    return Prompt(box=box, mask_logits=last.clip(-LOGIT_LIMIT, LOGIT_LIMIT), multimask_output=False)
