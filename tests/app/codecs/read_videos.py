"""Video files as the service reads them, for tests: surveyed, and frame by frame."""

import io
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt

from app.codecs.video_containers import check_container
from app.codecs.video_files import Reader, Video, survey
from app.codecs.video_times import Sampling

MAX_PIXELS = 10**6


def nothing() -> None:
    """Nobody gives up."""


def surveyed(data: bytes, *, max_pixels: int = MAX_PIXELS, most: int = 1000, **options: float) -> Video:
    """What is known of a file."""
    check_container(data, nothing)
    return survey(
        io.BytesIO(data),
        Sampling(**options),  # type: ignore[arg-type]  # max_frames is one of them, an int
        max_pixels=max_pixels,
        max_frames=most,
        check=nothing,
        turn=lambda _: nullcontext(),
    )


def reader(data: bytes, video: Video) -> Reader:
    """A decoder of a file."""
    return Reader(io.BytesIO(data), video.demuxer, video.packets, max_pixels=MAX_PIXELS)


def frames_of(data: bytes, **options: float) -> list[npt.NDArray[np.uint8]]:
    """All frames, in order."""
    video = surveyed(data, **options)
    decoder = reader(data, video)
    return [decoder.read(video, number, nothing) for number in range(len(video))]
