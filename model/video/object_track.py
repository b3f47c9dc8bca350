"""What is known of one object of a track: its prompts, its outputs by frame, and which of them still count.

Does not know about other objects, and asks no network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from model.errors import TrackError
from model.network.config import VideoConfig
from model.types import Prompt
from model.video.values import Direction, MaskPrompt, Output, Seen, TrackPrompt
from model.video.visibility import pointer_reach, visible


@dataclass(slots=True)
class Pending:
    """The output of a prompt whose memory is not made yet: that waits until somebody tracks on."""

    output: Output
    is_conditioning: bool


@dataclass(slots=True)
class ObjectTrack:
    """Changed by Track alone."""

    video: VideoConfig
    num_frames: int
    max_conditioning: int | None = None
    prompts: dict[int, TrackPrompt] = field(default_factory=dict)
    """The prompt of each frame; clicks that were added are part of it."""
    conditioning: dict[int, Output] = field(default_factory=dict)
    """Frames that were prompted before they were tracked, and corrections that are kept, in the order added."""
    others: dict[int, Output] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    tracked: dict[int, Direction] = field(default_factory=dict)
    """Frames that a track has passed, and which way."""

    @property
    def is_conditioned(self) -> bool:
        """Whether there is a prompt from which it can be tracked."""
        return bool(self.conditioning) or any(each.is_conditioning for each in self.pending.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(output.nbytes for output in self._outputs())

    def is_correction(self, frame: int) -> bool:
        """Whether a prompt on this frame corrects what was tracked. It then attends to memory.

        Where all conditioning frames were taken back, there is nothing to correct: the prompt is a first one.
        Meta's code fails there.
        """
        return frame in self.tracked and bool(self.conditioning)

    def shown(self, frame: int) -> Output | None:
        """The newest output on a frame."""
        if (pending := self.pending.get(frame)) is not None:
            return pending.output
        return self.conditioning.get(frame) or self.others.get(frame)

    def seen_from(self, frame: int, direction: Direction) -> Seen:
        """What its attention looks at on a frame. What is too long ago is not there."""
        outputs = self.others | self.conditioning
        found = visible(
            frame,
            direction,
            conditioning=list(self.conditioning),
            others=self.others,
            video=self.video,
            num_frames=self.num_frames,
            max_conditioning=self.max_conditioning,
        )
        unit = pointer_reach(self.video, self.num_frames)
        return Seen(
            memories=tuple(
                (memory, row)
                for place, row in found.memories
                if (memory := outputs[place].memory) is not None
            ),
            pointers=tuple((outputs[place].pointer, distance / unit) for place, distance in found.pointers),
        )

    def settle(self, frame: int, output: Output) -> None:
        """A prompted frame has its memory now."""
        kind = self.conditioning if self.pending.pop(frame).is_conditioning else self.others
        kind[frame] = output
        if frame in self.conditioning:  # in Meta's plain way, a correction of such a frame is lost here
            self.others.pop(frame, None)

    def forget_prompt(self, frame: int) -> None:
        """Take a prompt back: what it left becomes an ordinary output."""
        self.prompts.pop(frame, None)
        self.pending.pop(frame, None)
        output = self.conditioning.pop(frame, None)
        if output is not None:
            self.others[frame] = output
            self.tracked.pop(frame, None)

    def forget_what_no_step_sees(self, at: int) -> None:
        """Drop what the next steps from here, either way, and corrections of this frame do not look at.

        Conditioning frames stay. Of the others, at most 2 * 6 keep memory and mask beside this one, 6 behind and 6
        ahead where there are any, and 2 * 15 their pointer.
        """
        for frame, output in list(self.others.items()):
            distance = abs(frame - at)
            if distance > self.video.num_pointers - 1:
                del self.others[frame]
            elif distance > self.video.reach and output.memory is not None:
                self.others[frame] = output.without_map_and_memory()

    def _outputs(self) -> Iterator[Output]:
        yield from self.conditioning.values()
        yield from self.others.values()
        yield from (each.output for each in self.pending.values())


def joined(earlier: TrackPrompt | None, prompt: Prompt) -> Prompt:
    """Clicks added to those that a frame has already; a mask is replaced by them."""
    if earlier is None or isinstance(earlier, MaskPrompt):
        return prompt
    return replace(
        earlier, points=(*earlier.points, *prompt.points), labels=(*earlier.labels, *prompt.labels)
    )


def added(earlier: TrackPrompt | None, prompt: Prompt) -> Prompt:
    """A prompt beside what a frame has already. Raises TrackError where it cannot be added."""
    if prompt.mask_logits is not None or (not prompt.points and prompt.box is None):
        raise TrackError(
            "A prompt needs a click or a box; a mask is a prompt of its own, and clicks go without."
        )
    if prompt.box is not None and earlier is not None and isinstance(earlier, Prompt):
        raise TrackError(
            "A box cannot be added to the clicks of a frame: replace them (clear: true), with the box in the same "
            "prompt as its clicks."
        )
    return joined(earlier, prompt)
