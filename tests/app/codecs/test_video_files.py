"""Frames of video files: which they are, when, how they look, and that the order of asking changes nothing."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.codecs import video_files
from app.codecs.images import decode_image
from app.codecs.video_containers import check_container
from app.codecs.video_files import Reader, Video, survey
from app.codecs.video_pixels import geometry_of, to_pixels
from app.codecs.video_times import Sampling
from app.errors import ImageTooLarge, InvalidFrame, InvalidVideo, ValidationFailed, VideoTooLarge
from tests.small_videos import (
    FRAMES,
    HEIGHT,
    MATRICES,
    WIDTH,
    clip,
    drawing,
    number_of,
    sound,
    with_broken_packet,
    with_matrix,
)

MAX_PIXELS = 10**6
SMALL = (WIDTH, HEIGHT)


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


@pytest.mark.parametrize("turn", MATRICES)
def test_the_display_matrix_turns_frames(turn: int) -> None:
    """A telephone held upright: the white quarter goes to another corner, and sides change places."""
    data = with_matrix(clip(frames=3), MATRICES[turn])
    video = surveyed(data)
    expected = np.rot90(drawing(1), -turn // 90)
    assert (video.height, video.width) == expected.shape[:2]
    shown = frames_of(data)[1]
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() < 60
    assert np.abs(shown.astype(int) - expected).mean() < 3


def test_a_mirrored_matrix_mirrors_and_an_odd_angle_turns_nothing() -> None:
    data = clip(frames=2)
    plain = frames_of(data)[0]
    assert np.array_equal(frames_of(with_matrix(data, (-1, 0, 0, 1)))[0], plain[:, ::-1])
    assert np.array_equal(frames_of(with_matrix(data, (1, 1, -1, 1)))[0], plain)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (85, HEIGHT)), (Fraction(1, 2), (WIDTH, 96)), (Fraction(1), (WIDTH, HEIGHT))],
)
def test_pixels_become_square_as_in_browsers(aspect: Fraction, size: tuple[int, int]) -> None:
    data = clip(frames=2, aspect=aspect)
    video = surveyed(data)
    assert (video.width, video.height) == size
    assert frames_of(data)[0].shape == (size[1], size[0], 3)


def test_a_frame_of_another_size_is_scaled_to_the_first() -> None:
    first, second = (av.VideoFrame.from_ndarray(drawing(3, width=width)) for width in (64, 96))
    geometry = geometry_of(first, None, max_pixels=MAX_PIXELS)
    shown = to_pixels(second, geometry)
    assert shown.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(shown.astype(int) - drawing(3))[:, :28].max() < 3


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


def test_other_codecs_are_refused() -> None:
    with pytest.raises(InvalidVideo, match="ffv1"):
        surveyed(clip("matroska", "ffv1", frames=2))


def test_a_gif_looks_as_its_first_frame_does_to_embed() -> None:
    """Transparent pixels are white, and frames are laid over each other."""
    frames = []
    for number in range(4):
        image = Image.new("P", (WIDTH, HEIGHT), 0)
        image.putpalette([0, 0, 0, 250, 20, 20, 20, 20, 250])
        image.paste(1 + number % 2, (8 * number, 8, 8 * number + 8, 16))
        frames.append(image)
    file = io.BytesIO()
    frames[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[100, 200, 100, 100],
        transparency=0,
        disposal=2,
    )
    data = file.getvalue()
    shown = frames_of(data)
    assert np.array_equal(shown[0], decode_image(data, max_pixels=MAX_PIXELS))
    assert tuple(shown[0][40, 40]) == (255, 255, 255)
    assert tuple(shown[3][10, 28]) == (20, 20, 250)
    assert tuple(shown[3][10, 4]) == (255, 255, 255)
    assert surveyed(data).frames.times_s == (0.0, 0.1, 0.3, 0.4)


def test_alpha_of_webm_is_laid_over_white() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[:, WIDTH // 2 :, 3] = 255
    drawings = [
        av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva420p") for _ in range(3)
    ]
    shown = frames_of(clip("webm", "libvpx-vp9", pix_fmt="yuva420p", drawings=drawings))[2]
    assert shown[24, 8].min() > 245
    assert shown[24, 56].max() < 20


@pytest.mark.parametrize(
    ("matrix", "full_range", "size"),
    [
        (1, False, (64, 48)),
        (5, False, (64, 48)),
        (1, True, (64, 48)),
        (9, False, (64, 48)),
        (2, False, (1280, 720)),
    ],
)
def test_colours_are_converted_with_the_matrix_and_range_of_the_file(
    matrix: int, full_range: bool, size: tuple[int, int]
) -> None:
    """Red, in YUV by the formula of H.273; without a matrix, HD is BT.709."""
    red_share, blue_share = {
        1: (0.2126, 0.0722),
        5: (0.299, 0.114),
        9: (0.2627, 0.0593),
        2: (0.2126, 0.0722),
    }[matrix]
    y, u, v = red_share, -red_share / (2 * (1 - blue_share)), 0.5
    scale, offset, chroma = (255, 0, 255) if full_range else (219, 16, 224)
    planes = [round(offset + scale * y), round(128 + chroma * u), min(255, round(128 + chroma * v))]
    frames = []
    for _ in range(2):
        frame = av.VideoFrame(*size, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frames.append(frame)
    data = coloured(frames, matrix, full_range, size)
    shown = frames_of(data)[0][10, 10]
    assert np.abs(shown.astype(int) - (255, 0, 0)).max() <= 4, shown


def coloured(frames: list[av.VideoFrame], matrix: int, full_range: bool, size: tuple[int, int]) -> bytes:
    """A clip of frames, tagged with their matrix and range."""
    for frame in frames:
        frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10, options={"qp": "1", "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full_range else 1
        for number, frame in enumerate(frames):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


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


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(fps=12.5), Sampling(start_s=1, end_s=2.25), Sampling(29.97, 0.5, 10.0, 100)],
)
def test_options_survive_as_words(sampling: Sampling) -> None:
    assert Sampling.of_words(sampling.words) == sampling
