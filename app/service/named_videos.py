"""What videos are called: their names, the keys of their files, and the image ids of their frames.

Does not know which of them exist.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from app.codecs.video_containers import check_container
from app.codecs.video_files import Video
from app.codecs.video_times import Sampling
from app.scheduling.abandoned import check_wanted

_OPTIONS = ("fps", "from", "to", "first")


@dataclass(frozen=True, slots=True)
class NamedVideo:
    """A video under one of its names."""

    video_id: str
    width: int
    height: int
    frames: int
    fps: float
    times_s: tuple[float, ...]

    @classmethod
    def of(cls, video_id: str, video: Video) -> Self:
        """Return what is known of a video, under a name."""
        frames = video.frames
        return cls(video_id, video.width, video.height, len(video), frames.fps, frames.times_s)


def checked_digest(data: bytes) -> str:
    """Return the SHA-256 of a file that looks whole. Raises InvalidVideo."""
    check_container(data, check_wanted)
    return hashlib.sha256(data).hexdigest()


def file_digest(content: str) -> str:
    """Return the SHA-256 of a content's file."""
    return content[:64]


def frame_id(content: str, video: Video, number: int) -> str:
    """Return the image id of a frame: the same one in all videos of a file, whatever their options."""
    return hashlib.sha256(f"{file_digest(content)} at {video.frames.ticks[number]}".encode()).hexdigest()


def frame_ids(content: str, video: Video) -> list[str]:
    """Return the image ids of all frames, which takes 4 ms for each thousand."""
    return [frame_id(content, video, number) for number in range(len(video))]


def content_of(digest: str, sampling: Sampling) -> str:
    """Return the key of a file, named by its SHA-256, with these options; names.py adds the tenant."""
    return f"{digest}-{sampling.words}" if sampling.words else digest


def sampling_of(content: str) -> Sampling:
    """Return the options that a content's key holds, between its digest and its tenant's hash."""
    words = [part for part in content.split("-")[1:] if part.startswith(_OPTIONS)]  # no hash begins like this
    return Sampling.of_words(words[0] if words else "")
