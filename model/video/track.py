"""A track: objects that are prompted on some frames of a video and followed through the others.

The story of Meta's SAM2VideoPredictor (facebookresearch/sam2 2b90b9f), with three deviations:

- A correction on a tracked frame is kept when the track passes it again, unless `corrections` is "plain".
- An object that has no prompt to start from any more is dropped, where Meta's predictor fails for all objects.
- What no step near the present one can see is forgotten, so memory is bounded. A correction far behind the present
  frame therefore sees prompted frames alone, and no mask to build on: step to the frames before it first.

Frames come with their embeddings; the track keeps none. Not thread-safe. What asks the network says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from model.errors import TrackError
from model.masks.cleaning import fill_in_video
from model.network.config import VideoConfig
from model.types import Embedding, Prompt
from model.video.object_track import ObjectTrack, Pending, added
from model.video.values import (
    ABSENT,
    Direction,
    Frame,
    MaskPrompt,
    ObjectMask,
    Output,
    Request,
    Seen,
    TrackPrompt,
    dropped,
)


class VideoNetwork(Protocol):
    """What a track asks. model/video/network.py and the tests' fake implement it."""

    @property
    def video(self) -> VideoConfig:
        """How far memories reach."""

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the logits."""

    def decode(self, embedding: Embedding, requests: Sequence[Request]) -> list[Output]:
        """Several objects on one frame, whose clicks are equally many, as one batch. No memories yet."""

    def take_mask(self, embedding: Embedding, prompt: MaskPrompt) -> Output:
        """The user's mask as if it were the decoder's."""

    def remember(self, embedding: Embedding, outputs: Sequence[Output], *, prompted: bool) -> list[Tensor]:
        """Memories of several objects on one frame. Of a prompted one, only the sign of the mask is remembered."""


class Track:
    """Objects, and what is remembered of them. At 1024 px and in float32 an object holds at most

    - 769 KiB for each frame with a prompt (the mask 256, the memory 512, the pointer 1 KiB), and
    - 5.3 MiB for all others once it has been tracked one way: seven frames of 769 KiB, nine pointers. Where it is
      tracked over frames that were tracked the other way, twice that at most.
    """

    def __init__(
        self,
        network: VideoNetwork,
        *,
        num_frames: int,
        corrections: Literal["kept", "plain"] = "kept",
        max_hole_area: float = 0,
        max_conditioning: int | None = None,
    ) -> None:
        """`max_hole_area` is Meta's fill_hole_area, in pixels of the logits. A frame looks at no more than
        `max_conditioning` (2 or more) prompted frames, where that is said; each costs a step as much as any other.
        """
        if num_frames < 1:
            raise TrackError(f"A video has one frame or more, not {num_frames}.")
        if max_conditioning is not None and max_conditioning < 2:
            raise TrackError(f"max_conditioning must be 2 or more, not {max_conditioning}.")
        self.num_frames = num_frames
        self._network = network
        self._keeps_corrections = corrections == "kept"
        self._max_hole_area = max_hole_area
        self._max_conditioning = max_conditioning
        self._objects: dict[int, ObjectTrack] = {}

    @property
    def objects(self) -> dict[int, dict[int, TrackPrompt]]:
        """Objects in the order added, each with its prompts by frame."""
        return {each: dict(found.prompts) for each, found in self._objects.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all memories, masks and pointers."""
        return sum(each.nbytes for each in self._objects.values())

    @property
    def unsettled(self) -> tuple[int, ...]:
        """Frames that have prompts since the last step: `settle` them before the next."""
        return tuple(dict.fromkeys(frame for each in self._objects.values() for frame in each.pending))

    @property
    def first_frame(self) -> int | None:
        """Where a track starts by default: the earliest conditioning frame of any object."""
        starts = [
            frame
            for each in self._objects.values()
            for frame in (*each.conditioning, *(f for f, p in each.pending.items() if p.is_conditioning))
        ]
        return min(starts, default=None)

    def passed(self, object_id: int) -> dict[int, Direction]:
        """Frames on which an object has been tracked, and which way."""
        return dict(self._object(object_id).tracked)

    @torch.inference_mode()
    def prompt(
        self,
        frame: Frame,
        object_id: int,
        prompt: TrackPrompt,
        *,
        replaces: bool = False,
        anew: bool = False,
    ) -> list[ObjectMask]:
        """Say where an object is; returns all objects on that frame. Asks the network.

        Clicks are added to those that the object has on this frame, or replace them; a box always starts anew, and
        must say so if there is anything to replace. Clicks replace a mask, and a mask replaces clicks. Either way,
        clicks build on the mask that the frame has so far, as in Meta's code, but where they are `anew`. An unknown
        object is a new one.

        Raises TrackError for a frame outside of the video, and for a prompt that cannot be added.
        """
        self._check(frame)
        known = self._objects.get(object_id)
        found = known or ObjectTrack(self._network.video, self.num_frames, self._max_conditioning)
        earlier = None if replaces else found.prompts.get(frame.index)
        if isinstance(prompt, Prompt):
            prompt = added(earlier, prompt)
        output = self._filled(self._answer(found, frame, prompt, anew=anew))
        # Nothing has changed so far, so that a prompt that failed leaves no trace.
        found.prompts[frame.index] = prompt
        found.pending[frame.index] = Pending(
            output, is_conditioning=self._keeps_corrections or not found.is_correction(frame.index)
        )
        self._objects[object_id] = found
        return self.shown(frame.index)

    @torch.inference_mode()
    def settle(self, frame: Frame) -> None:
        """Make the memories of a frame's new prompts. Asks the network, if there are any."""
        self._check(frame)
        waiting = [each for each in self._objects.values() if frame.index in each.pending]
        if not waiting:
            return
        outputs = [each.pending[frame.index].output for each in waiting]
        memories = self._network.remember(frame.embedding, outputs, prompted=True)
        for each, output, memory in zip(waiting, outputs, memories, strict=True):
            each.settle(frame.index, replace(output, memory=memory))

    @torch.inference_mode()
    def step(self, frame: Frame, *, direction: Direction = Direction.FORWARD) -> list[ObjectMask]:
        """Follow all objects to a frame; returns them in the order added. Asks the network.

        Conditioning frames keep their masks, all others are computed, also before an object's first prompt.
        Raises TrackError while prompts of other frames are not settled, and if there is no object.
        """
        self._check(frame)
        self.settle(frame)
        if self.unsettled:
            raise TrackError(
                f"Frames {', '.join(map(str, self.unsettled))} have new prompts, and no memory yet: settle them."
            )
        if not self._objects:
            raise TrackError("There is no object to follow. Prompt one on any frame first.")
        sought = [each for each in self._objects.values() if frame.index not in each.conditioning]
        requests = [Request(each.seen_from(frame.index, direction)) for each in sought]
        if requests:
            outputs = self._network.decode(frame.embedding, requests)
            memories = self._network.remember(frame.embedding, outputs, prompted=False)
            for each, output, memory in zip(sought, outputs, memories, strict=True):
                each.others[frame.index] = self._filled(replace(output, memory=memory))
        for each in self._objects.values():
            each.tracked[frame.index] = direction
            each.forget_what_no_step_sees(frame.index)
        return self.shown(frame.index)

    def shown(self, frame: int) -> list[ObjectMask]:
        """All objects on a frame, in the order added, as far as they are held."""
        return [self._shown(each, found, frame) for each, found in self._objects.items()]

    def remove_object(self, object_id: int) -> tuple[int, ...]:
        """Forget an object; returns the frames that had prompts of it. An unknown one has none."""
        found = self._objects.pop(object_id, None)
        return tuple(sorted(found.prompts)) if found is not None else ()

    def clear_prompts(self, frame: int, object_id: int) -> str | None:
        """Take an object's prompts on a frame back. What the frame shows stays until it is tracked again.

        An object that has no prompt to start from any more is dropped; that is said in words, which are returned.
        """
        found = self._objects.get(object_id)
        if found is None:
            return None
        found.forget_prompt(frame)
        if found.is_conditioned:
            return None
        del self._objects[object_id]
        return dropped(object_id, frame)

    def _answer(self, found: ObjectTrack, frame: Frame, prompt: TrackPrompt, *, anew: bool) -> Output:
        if isinstance(prompt, MaskPrompt):
            return self._network.take_mask(frame.embedding, prompt)
        shown = found.shown(frame.index) if not anew else None
        seen: Seen | None = None
        if found.is_correction(frame.index):
            seen = found.seen_from(frame.index, found.tracked[frame.index])
        earlier = shown.logits if shown is not None else None
        (output,) = self._network.decode(frame.embedding, [Request(seen, prompt, earlier)])
        return output

    def _filled(self, output: Output) -> Output:
        """Meta's order: the memory of a tracked frame is made before, that of a prompted one after."""
        if self._max_hole_area <= 0 or output.logits is None:
            return output
        logits = fill_in_video(output.logits.cpu().numpy(), max_hole_area=self._max_hole_area)
        return replace(output, logits=torch.from_numpy(logits).to(output.logits.device))

    def _shown(self, object_id: int, found: ObjectTrack, frame: int) -> ObjectMask:
        output = found.shown(frame)
        if output is not None:
            logits = output.logits.cpu().numpy() if output.logits is not None else None
            return ObjectMask(object_id, logits, output.object_score, output.iou)
        if frame in found.tracked:
            return ObjectMask(object_id, None, ABSENT, 0.0)
        nothing = torch.full(self._network.mask_size, ABSENT).numpy()
        return ObjectMask(object_id, nothing, ABSENT, 0.0)

    def _object(self, object_id: int) -> ObjectTrack:
        found = self._objects.get(object_id)
        if found is None:
            raise TrackError(f"There is no object {object_id}. {_known(self._objects)}")
        return found

    def _check(self, frame: Frame) -> None:
        if not 0 <= frame.index < self.num_frames:
            raise TrackError(
                f"Frame {frame.index} is not in the video, whose frames are 0 to {self.num_frames - 1}."
            )


def _known(objects: Iterable[int]) -> str:
    return f"Known are {', '.join(map(str, objects))}." if objects else "None has been prompted yet."
