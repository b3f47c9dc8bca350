"""What `sam2 track` writes: masks as PNG, a COCO data set, a video with objects in colour.

Does not know how objects are followed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sam2_client import coco
from sam2_client.messages import complain, say
from sam2_client.overlay_video import OverlayVideo
from sam2_client.tracked import TrackedFrame, TrackedMask
from sam2_client.whole_files import require_writable, whole


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames that are tracked."""

    name: str
    """The video's file name, or the folder's."""
    width: int
    height: int
    length: int
    """Number of frames."""
    fps: float
    file_names: Callable[[int], str]
    """COCO's file_name of each frame."""
    picture: Callable[[int], Image.Image]
    """Reads a frame."""


class MaskFiles:
    """A PNG for each object and frame."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, frame: TrackedFrame) -> None:
        """Write the masks of a frame, each file at once or not at all."""
        for number, mask in frame.masks.items():
            file = masks_of(self._folder, number) / f"{frame.index:06d}.png"
            file.parent.mkdir(exist_ok=True)
            with whole(file) as new:
                mask.to_pil().save(new, "PNG")
            self._count += 1

    def close(self, *, is_complete: bool) -> Path | None:
        """Say what is written."""
        if is_complete:
            say(f"{self.name}: {self._count} masks")
        return self._folder if self._count else None


@dataclass(slots=True)
class CocoFile:
    """A COCO data set of frames."""

    file: Path
    clip: Clip
    label: Callable[[int], str]
    simplify: float | None
    _found: dict[int, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    """Objects and annotations by frame."""
    _times: dict[int, float] = field(default_factory=dict)
    _objects: dict[int, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise OSError if the file cannot be written: at the end, what is done would be lost."""
        require_writable(self.file)

    def add(self, frame: TrackedFrame) -> None:
        """Keep the masks of a frame."""
        if frame.error is None:
            if frame.time is not None:
                self._times[frame.index] = frame.time
            self._objects |= dict.fromkeys(frame.masks)
            self._found[frame.index] = [
                (number, self._annotation(mask))
                for number, mask in frame.masks.items()
                if mask.visible and mask.area
            ]

    def close(self, *, is_complete: bool) -> Path | None:
        """Write the file, or what there is of it beside it."""
        if not self._found:
            return None
        partial = partial_of(self.file)
        data = self._dataset()
        coco.write(self.file if is_complete else partial, data)
        if not is_complete:
            return partial
        partial.unlink(missing_ok=True)
        counts = ", ".join(f"{len(data[what])} {what}" for what in ("images", "annotations", "tracks"))
        say(f"{self.file}: {counts}")
        return self.file

    def _annotation(self, mask: TrackedMask) -> dict[str, Any]:
        shape = coco.shape(mask, simplify=self.simplify)
        return {
            **shape,
            "iscrowd": 0,
            "score": mask.iou,
            "stability": mask.stability,
            "object_score": mask.score,
        }

    def _dataset(self) -> dict[str, Any]:
        clip = self.clip
        names = list(dict.fromkeys(self.label(number) for number in sorted(self._objects)))
        categories = {number: names.index(self.label(number)) + 1 for number in self._objects}
        frames = sorted(self._found)
        annotations = [
            {
                "image_id": index + 1,
                "video_id": 1,
                "track_id": number,
                "category_id": categories[number],
                **annotation,
            }
            for index in frames
            for number, annotation in self._found[index]
        ]
        return {
            **coco.head(),
            "videos": [
                {
                    "id": 1,
                    "name": clip.name,
                    "width": clip.width,
                    "height": clip.height,
                    "length": clip.length,
                    "fps": clip.fps,
                }
            ],
            "images": [
                {
                    **coco.image(index + 1, clip.file_names(index), clip.width, clip.height),
                    "video_id": 1,
                    "frame_index": index,
                    **({"time_s": self._times[index]} if index in self._times else {}),
                }
                for index in frames
            ],
            "tracks": [
                {"id": number, "category_id": categories[number], "video_id": 1}
                for number in sorted(self._objects)
            ],
            "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
            "categories": [
                {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)
            ],
        }


class OverlayFile:
    """A video of the frames, with objects in colour."""

    def __init__(self, file: Path, clip: Clip, *, in_order: bool) -> None:
        """`in_order` says whether frames come as they are shown; otherwise they are drawn at the end."""
        self._file, self._clip, self._in_order = file, clip, in_order
        self._partial = partial_of(file)
        self._video = OverlayVideo(self._partial, rate=clip.fps)
        self._waiting: list[TrackedFrame] = []

    def add(self, frame: TrackedFrame) -> None:
        """Draw a frame, or keep it until its turn comes."""
        if frame.error is not None:
            return
        if self._in_order:
            self._draw(frame)
        else:
            self._waiting.append(frame)

    def close(self, *, is_complete: bool) -> Path | None:
        """Complete the video. It gets its name if it is whole."""
        try:
            for frame in sorted(self._waiting, key=lambda each: each.index):
                self._draw(frame)
        finally:
            self._video.close()
            if not self._video.count:
                self._partial.unlink(missing_ok=True)
        if not self._video.count or not is_complete:
            return self._partial if self._video.count else None
        self._partial.replace(self._file)
        say(f"{self._file}: {self._video.count} frames")
        return self._file

    def _draw(self, frame: TrackedFrame) -> None:
        time = frame.time if frame.time is not None else frame.index / self._clip.fps
        self._video.add(frame.overlay(self._clip.picture(frame.index)), time)


Output = MaskFiles | CocoFile | OverlayFile


def close(outputs: Sequence[Output], *, is_complete: bool, frames: int) -> None:
    """Close all outputs, each whatever becomes of the others. After a cut, say what is kept of `frames`."""
    kept: list[str] = []
    failure: Exception | None = None
    for output in outputs:
        try:
            file = output.close(is_complete=is_complete)
        except Exception as error:
            failure = failure or error
        else:
            kept += [str(file)] if file is not None else []
    if not is_complete and frames and kept:
        complain(f"stopped: {frames} frames are done and kept in {', '.join(kept)}")
    if failure is not None:
        raise failure


def masks_of(folder: Path, object_id: int) -> Path:
    """Return where the masks of an object are."""
    return folder / f"{object_id:03d}"


def partial_of(file: Path) -> Path:
    """Return where an output is until it is complete."""
    return file.with_name(f"{file.stem}.partial{file.suffix}")
