"""When the frames of a video file are shown, and which of them a sampling takes."""

import pytest

from app.codecs.video_times import Sampling
from app.errors import ValidationFailed
from tests.app.codecs.read_videos import frames_of, surveyed
from tests.small_videos import FRAMES, clip, number_of

UNEVEN_MS = [0, 40, 80, 500, 540, 1000]


def test_times_are_those_of_the_file() -> None:
    video = surveyed(clip("webm", "libvpx-vp9", frames=6, times_ms=UNEVEN_MS))
    assert video.frames.times_s == (0.0, 0.04, 0.08, 0.5, 0.54, 1.0)
    assert video.frames.fps == 5.0


def test_fps_samples_by_time() -> None:
    """Where the file has few frames, the one on screen is repeated; where it has many, they are left out."""
    data = clip("webm", "libvpx-vp9", frames=6, times_ms=UNEVEN_MS)
    video = surveyed(data, fps=10)
    assert video.frames.times_s[:6] == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    shown = [number_of(pixels) for pixels in frames_of(data, fps=10)]
    assert shown[:11] == [0, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5]
    assert video.frames.fps == 10


def test_a_rate_of_the_file_itself_takes_each_frame_once() -> None:
    """WebM rounds times to milliseconds: at 30 a second the third frame is at 67 ms, after 66.7."""
    data = clip("webm", "libvpx-vp9", frames=12, times_ms=[round(1000 * number / 30) for number in range(12)])
    assert [number_of(pixels) for pixels in frames_of(data, fps=30)][:12] == list(range(12))


def test_a_tick_as_long_as_a_frame_brings_no_frame_forward() -> None:
    """Some MP4s count time in frames. Half a tick before its time a frame was said to be on screen."""
    data = clip(frames=10, options={"video_track_timescale": "10"})
    assert surveyed(data).packets.tick_s == 0.1
    assert [number_of(pixels) for pixels in frames_of(data, fps=24)] == [k * 10 // 24 for k in range(24)]
    data = clip("gif", "gif", frames=9, times_ms=[10 * round(100 * k / 30) for k in range(9)], pix_fmt="gray")
    assert [number_of(pixels) for pixels in frames_of(data, fps=30)][:9] == list(range(9))


def test_range_and_number() -> None:
    data = clip()
    assert [number_of(pixels) for pixels in frames_of(data, start_s=0.5, end_s=0.9)] == [5, 6, 7, 8]
    assert surveyed(data, start_s=0.5, end_s=0.9).frames.times_s == (0.5, 0.6, 0.7, 0.8)
    assert [number_of(pixels) for pixels in frames_of(data, start_s=1.5, max_frames=2)] == [15, 16]
    assert surveyed(data, start_s=1.0, fps=5, max_frames=3).frames.times_s == (1.0, 1.2, 1.4)
    assert len(surveyed(data, end_s=100)) == FRAMES


def test_a_range_without_frames_is_an_error() -> None:
    for options in ({"start_s": 2.0}, {"start_s": 0.51, "end_s": 0.59}):
        with pytest.raises(ValidationFailed):
            surveyed(clip(), **options)


def test_a_single_frame_has_a_rate() -> None:
    video = surveyed(clip(frames=1))
    assert (len(video), video.frames.times_s) == (1, (0.0,))
    assert video.frames.fps > 0


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(fps=12.5), Sampling(start_s=1, end_s=2.25), Sampling(29.97, 0.5, 10.0, 100)],
)
def test_options_survive_as_words(sampling: Sampling) -> None:
    assert Sampling.of_words(sampling.words) == sampling
