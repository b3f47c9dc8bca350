"""The frames of tracks as the client knows them: videos, embedded pictures, ids.

Does not know about requests.
"""

import math
import operator
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from sam2_client.errors import Sam2Error
from sam2_client.holdings import check_id
from sam2_client.images import EmbedResult, ImageT, KnownImage
from sam2_client.masks import Embedded
from sam2_client.named_files import PICTURE_SUFFIXES
from sam2_client.pictures import Picture, PictureSource, is_one_picture

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".gif"}


@dataclass(frozen=True, slots=True, eq=False)
class VideoOptions:
    """Which frames of a file make the video, and its name. None leaves a value to the server."""

    video_id: str | None = None
    replace: bool = False
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    max_frames: int | None = None

    def to_query(self) -> dict[str, str]:
        """Return the query of /videos. Raises TypeError or ValueError for a wrong type."""
        query: dict[str, str] = {}
        if self.video_id is not None:
            check_id(self.video_id)
            query["video_id"] = self.video_id
        if self.replace:
            query["replace"] = "true"
        for name in ("fps", "start_s", "end_s"):
            if (value := getattr(self, name)) is not None:
                if isinstance(value, str | bool) or not math.isfinite(value):
                    raise ValueError(f"{name} is {value!r}, but must be a finite number")
                query[name] = repr(float(value))
        if self.max_frames is not None:
            query["max_frames"] = str(operator.index(self.max_frames))
        return query


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A video that the server has stored."""

    video_id: str
    frames: int
    width: int
    height: int
    fps: float
    times: tuple[float, ...] = field(repr=False)
    file: Picture | None = field(repr=False)
    """Used to upload it again if the server has evicted it. None if only its id is known."""
    query: dict[str, str] = field(repr=False)
    """Its options, as they were sent with the file."""


class KnownVideo:
    """A video that the server has stored: a sequence of frames."""

    def __init__(self, stored: StoredVideo) -> None:
        self._stored = stored

    @property
    def video_id(self) -> str:
        """Your own name for the video, or a hash of the file and its options."""
        return self._stored.video_id

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self._stored.frames

    @property
    def width(self) -> int:
        """In pixels, turned upright."""
        return self._stored.width

    @property
    def height(self) -> int:
        """In pixels, turned upright."""
        return self._stored.height

    @property
    def fps(self) -> float:
        """Frames a second: as asked for, or the mean rate of the file."""
        return self._stored.fps

    @property
    def times(self) -> Sequence[float]:
        """When each frame is shown, in seconds after the file's first frame."""
        return self._stored.times

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.video_id!r}, {self.frames} frames, {self.width} x {self.height})"


FrameSources: TypeAlias = PictureSource | KnownVideo | Iterable[PictureSource | KnownImage]
"""A video: its path, its bytes, or an uploaded one. Or pictures: a folder, or a list of pictures as `embed` takes
them, and of embedded ones."""


@dataclass(frozen=True, slots=True)
class Source:
    """The frames of a track, all on the server."""

    video: StoredVideo | None = None
    images: tuple[Embedded, ...] = ()
    ids: tuple[str, ...] = ()
    """Pictures of which the client knows only the ids."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they are known."""
        known = self.video or (self.images[0] if self.images else None)
        return (known.height, known.width) if known is not None else None

    @property
    def count(self) -> int:
        """Number of frames."""
        return self.video.frames if self.video is not None else len(self.images) or len(self.ids)

    @property
    def times(self) -> Sequence[float]:
        """When each frame is shown; empty for pictures."""
        return self.video.times if self.video is not None else ()

    def to_wire(self) -> dict[str, Any]:
        """Return the fields for /tracks and /propagate."""
        if self.video is not None:
            return {"video_id": self.video.video_id}
        return {"frames": [each.image_id for each in self.images] or list(self.ids)}

    def picture(self, index: int) -> Picture | None:
        """Return the picture that was uploaded as this frame, if the client still has it."""
        return self.images[index].picture if index < len(self.images) else None


def video_file(source: str | os.PathLike[str] | bytes) -> Picture:
    """Return the file of a video, ready to be uploaded. Raises TypeError for what is none, such as an array."""
    if not isinstance(source, str | os.PathLike | bytes):
        raise TypeError(f"{type(source).__name__} is not a video: pass a path, or the bytes of a file")
    return Picture(source)


def sorted_out(
    frames: FrameSources | None, image_ids: Sequence[str] | None
) -> Source | Picture | list[PictureSource | KnownImage]:
    """Return frames that are on the server already, the file of a video, or a list of pictures.

    Raises TypeError or ValueError for what is none of them, or more than one.
    """
    if (frames is None) == (image_ids is None):
        raise TypeError("give either frames or image_ids")
    if image_ids is not None:
        if isinstance(image_ids, str) or not all(isinstance(each, str) for each in image_ids):
            raise TypeError(f"image_ids is {image_ids!r}, but must be a list of ids")
        return Source(ids=tuple(image_ids))
    if isinstance(frames, KnownVideo):
        return Source(frames._stored)
    if isinstance(frames, str | os.PathLike):
        if not os.fspath(frames):
            raise ValueError("the name is empty: name a video, or a folder of pictures")
        path = Path(frames)
        return list(pictures_in(path)) if path.is_dir() else Picture(frames)
    if isinstance(frames, bytes):
        return Picture(frames)
    if isinstance(frames, KnownImage | Image.Image) or not isinstance(frames, Iterable):
        raise TypeError(f"{type(frames).__name__} is neither a video nor a list of pictures")
    if is_one_picture(frames):
        raise TypeError("this array is one picture: a track needs a list of them, one for each frame")
    return list(frames)


def joined(frames: Sequence[PictureSource | KnownImage], uploads: Sequence[EmbedResult[ImageT]]) -> Source:
    """Return the frames once their pictures are embedded; `uploads` has those that were not, in order.

    Raises the error of the first picture that failed, with its frame.
    """
    if not frames:
        raise ValueError("a track needs at least one frame")
    results = iter(uploads)
    found: list[Embedded] = []
    for index, frame in enumerate(frames):
        if isinstance(frame, KnownImage):
            if frame.region is not None:
                raise ValueError(f"frame {index} is a part of a picture: a track needs whole ones")
            found.append(frame._embedded)
            continue
        result = next(results)
        if result.image is None:
            error = result.error or ValueError("it was not embedded")
            if isinstance(error, Sam2Error):
                where = (
                    f"frame {index} ({frame})" if isinstance(frame, str | os.PathLike) else f"frame {index}"
                )
                error.message = f"{where}: {error.message}"
                error.args = (error.message,)
            raise error
        found.append(result.image._embedded)
    return Source(images=tuple(found))


def in_order(files: Iterable[Path]) -> list[Path]:
    """Return files in the order of their names, numbers in them by their value: 2.png before 10.png."""

    def key(file: Path) -> list[tuple[int, str]]:
        parts = re.split(r"([0-9]+)", file.as_posix())
        return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)]

    return sorted(files, key=key)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder, in the order of their names. Raises ValueError if it has none."""
    files = (each for each in folder.iterdir() if not each.name.startswith("."))
    found = in_order(each for each in files if each.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(f"{folder} has no pictures: {', '.join(sorted(PICTURE_SUFFIXES))}")
    return found
