"""Frames of video files: the order of asking changes nothing, and what is broken or too large is said."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from app.codecs import video_files
from app.codecs.video_containers import CONVERT
from app.codecs.video_files import Reader
from app.codecs.video_pixels import Geometry
from app.errors import ImageTooLarge, InvalidFrame, InvalidVideo, VideoTooLarge
from tests.app.codecs.read_videos import frames_of, nothing, reader, surveyed
from tests.small_videos import (
    FRAMES,
    HEIGHT,
    WIDTH,
    clip,
    number_of,
    sound,
    with_broken_packet,
    with_edits,
)

KINDS: dict[str, Callable[[], bytes]] = {
    "H.264 with B-frames": clip,
    "H.264 in MOV": lambda: clip("mov"),
    "H.264 in fragments": lambda: clip(options={"movflags": "frag_keyframe+empty_moov"}),
    "HEVC of 10 bits": lambda: clip(codec="libx265", pix_fmt="yuv420p10le"),
    "VP9": lambda: clip("webm", "libvpx-vp9"),
    "VP8": lambda: clip("webm", "libvpx"),
    "MPEG-4": lambda: clip(codec="mpeg4"),
    "ProRes": lambda: clip("mov", "prores_ks", pix_fmt="yuv422p10le"),
    "GIF": lambda: clip("gif", "gif", pix_fmt="gray"),
    "Animation with a palette": lambda: clip("mov", "qtrle", pix_fmt="gray"),
    "uncompressed with a palette": lambda: clip("mov", "rawvideo", pix_fmt="gray"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_gives_the_same_frames(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards and at random, while nothing is kept, so that every way to seek is taken."""
    data = KINDS[kind]()
    video = surveyed(data)
    in_order = frames_of(data)
    assert (len(video), video.width, video.height) == (FRAMES, WIDTH, HEIGHT)
    assert [number_of(pixels) for pixels in in_order] == list(range(FRAMES))
    assert in_order[0].shape == (HEIGHT, WIDTH, 3)
    assert in_order[0].flags.c_contiguous
    monkeypatch.setattr(video_files, "KEPT_BYTES", 0)
    monkeypatch.setattr(video_files, "_NEAR", 0)
    decoder = reader(data, video)
    numbers = [*reversed(range(FRAMES)), *(7 * number % FRAMES for number in range(FRAMES))]
    for number in numbers:
        assert np.array_equal(decoder.read(video, number, nothing), in_order[number])


def test_an_edit_list_that_shows_a_part_twice_can_be_read_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Packets that are decoded for one part, and not shown, have the time stamps of the next part."""
    data = with_edits(clip(), [(600, 600), (600, 600), (400, 1500)])  # its first frame is at 200 ms
    shown = [*range(4, 10), *range(4, 10), *range(13, 17)]
    video = surveyed(data)
    assert [number_of(pixels) for pixels in frames_of(data)] == shown
    monkeypatch.setattr(video_files, "KEPT_BYTES", 0)
    monkeypatch.setattr(video_files, "_NEAR", 0)
    decoder = reader(data, video)
    for number in reversed(range(len(shown))):
        assert number_of(decoder.read(video, number, nothing)) == shown[number]


@pytest.mark.parametrize(("b_frames", "keyint"), [(0, 10), (3, 4)])
def test_a_file_of_intra_refresh_can_be_read_in_any_order(
    b_frames: int, keyint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no key frames but the first. A decoder that begins elsewhere has whole frames a while later: with
    B-frames, which refresh nothing, longer than from one such place to the next.
    """
    data = clip(frames=40, x264=f"intra-refresh=1:keyint={keyint}", b_frames=b_frames, size=(320, HEIGHT))
    in_order = frames_of(data)
    monkeypatch.setattr(video_files, "KEPT_BYTES", 0)
    video = surveyed(data)
    decoder = reader(data, video)
    for number in reversed(range(40)):
        assert np.array_equal(decoder.read(video, number, nothing), in_order[number])


def test_frames_in_order_cost_one_decode_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """And backwards too, as long as the kept frames hold a group of pictures."""
    data = clip(group=20, b_frames=0)
    video = surveyed(data)
    steps: list[int] = []
    step = Reader._step
    monkeypatch.setattr(Reader, "_step", lambda self: (steps.append(1), step(self))[1])
    decoder = reader(data, video)
    for number in (*range(FRAMES), *reversed(range(FRAMES))):
        decoder.read(video, number, nothing)
    assert len(steps) <= FRAMES + 1


def test_kept_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip()
    video = surveyed(data)
    monkeypatch.setattr(video_files, "KEPT_BYTES", 5 * WIDTH * HEIGHT * 3 // 2)
    decoder = reader(data, video)
    for number in range(FRAMES):
        decoder.read(video, number, nothing)
    assert 1 <= len(decoder._kept) <= 5


def test_too_many_frames_and_pixels() -> None:
    with pytest.raises(VideoTooLarge, match="SAM2_MAX_VIDEO_FRAMES"):
        surveyed(clip(), most=19)
    with pytest.raises(ImageTooLarge, match="megapixels"):
        surveyed(clip(), max_pixels=WIDTH * HEIGHT - 1)
    with pytest.raises(ImageTooLarge):  # 64 x 48 pixels that are 20 times as wide as high
        surveyed(clip(aspect=Fraction(20)), max_pixels=WIDTH * HEIGHT * 10)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("mp4", "mpeg4"), ("mov", "prores_ks")])
def test_a_broken_frame_is_an_error_of_its_own(container: str, codec: str) -> None:
    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    whole = clip(container, codec, group=1, b_frames=0, pix_fmt=pix_fmt)
    data = with_broken_packet(whole, "mov", 7)
    video = surveyed(data)
    decoder = reader(data, video)
    assert len(video) == FRAMES
    for number in (7, 8, 6, 7, *range(FRAMES)):
        if number == 7:
            with pytest.raises(InvalidFrame, match=r"Frame 7 \(at 0.7 s\)"):
                decoder.read(video, number, nothing)
        else:
            assert number_of(decoder.read(video, number, nothing)) == number


def test_a_frame_that_ffmpeg_cannot_scale_is_an_error_in_words() -> None:
    """Its pixels are thousands of times as high as wide."""
    data = clip(frames=2, size=(16, 2))
    video = replace(surveyed(data), geometry=Geometry((16, 40_000), 1))
    with pytest.raises(InvalidFrame, match="Frame 0 "):
        reader(data, video).read(video, 0, nothing)


def test_what_is_advised_for_other_files_does_for_an_odd_width_and_height() -> None:
    """As FFV1 has them: libx264 refuses them in yuv420p."""
    _, codec, _, pix_fmt, _ = CONVERT.split(" VIDEO ")[1].split()
    data = clip(codec=codec, pix_fmt=pix_fmt, size=(63, 47), frames=3)
    video = surveyed(data)
    assert [number_of(reader(data, video).read(video, each, nothing)) for each in range(3)] == [0, 1, 2]


def test_a_broken_first_frame_leaves_the_others() -> None:
    data = with_broken_packet(clip(group=5, b_frames=0), "mov", 0)
    video = surveyed(data)
    decoder = reader(data, video)
    with pytest.raises(InvalidFrame, match="Frame 0 "):
        decoder.read(video, 0, nothing)
    assert number_of(decoder.read(video, 12, nothing)) == 12


def test_a_video_without_any_whole_frame_is_an_error() -> None:
    data = clip(frames=3, group=1)
    for number in range(3):
        data = with_broken_packet(data, "mov", number)
    with pytest.raises(InvalidVideo, match="No frame"):
        surveyed(data)


def test_sound_without_pictures() -> None:
    with pytest.raises(InvalidVideo, match="no video, only audio"):
        surveyed(sound())


def test_a_song_with_its_cover_is_said_to_hold_that() -> None:
    """It held "no video, only audio and video"."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        tone, cover = output.add_stream("aac", rate=8000), output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
        output.mux([*cover.encode(picture), *cover.encode()])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        output.mux([*tone.encode(silence), *tone.encode()])
    with pytest.raises(InvalidVideo, match=r"no video, only audio and cover art\."):
        surveyed(file.getvalue())


def test_other_codecs_are_refused() -> None:
    with pytest.raises(InvalidVideo, match="ffv1"):
        surveyed(clip("matroska", "ffv1", frames=2))


def test_a_long_search_ends_when_nobody_waits() -> None:
    """And goes on from there when somebody asks again."""
    data = clip(group=20, b_frames=0)
    video = surveyed(data)
    decoder = reader(data, video)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        decoder.read(video, 15, check)
    assert number_of(decoder.read(video, 15, nothing)) == 15


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_nobody_waits_for_costs_no_later_frame(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended right after a seek, it left a decoder behind the next frame, which was said to be broken."""
    data = KINDS[kind]()
    video = surveyed(data)
    monkeypatch.setattr(video_files, "KEPT_BYTES", 0)
    monkeypatch.setattr(video_files, "_NEAR", 0)

    def give_up() -> None:
        raise TimeoutError

    for left in range(FRAMES):
        decoder = reader(data, video)
        for number in (0, 2, 5, 9):
            with suppress(TimeoutError):  # none where it is kept
                decoder.read(video, left, give_up)
            assert number_of(decoder.read(video, number, nothing)) == number
