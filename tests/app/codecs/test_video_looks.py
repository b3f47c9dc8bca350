"""Frames of video files look as browsers and viewers show them: turned, with square pixels, in their colours."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from app.codecs.images import decode_image
from app.codecs.video_pixels import geometry_of, to_pixels
from tests.app.codecs.read_videos import MAX_PIXELS, frames_of, surveyed
from tests.small_videos import (
    HEIGHT,
    MATRICES,
    WIDTH,
    clip,
    drawing,
    number_of,
    one_after_the_other,
    with_matrix,
)


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


def test_all_videos_of_a_file_have_the_size_of_its_first_frame() -> None:
    """They share the embeddings of its frames, so a track of one could not use those of another."""
    data = one_after_the_other(clip("webm", "libvpx"), clip("webm", "libvpx", size=(32, 24)))
    for options in ({}, {"start_s": 3.0}, {"start_s": 1.0, "end_s": 2.5}):
        video = surveyed(data, **options)
        assert (video.width, video.height) == (WIDTH, HEIGHT)
    assert number_of(frames_of(data, start_s=3.0)[0]) == 10


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
    assert all(frame.flags.writeable for frame in shown), "torch warns of others"
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


@pytest.mark.parametrize("width", [65, 66, 71])
def test_frames_with_alpha_are_written_to_their_last_column(width: int) -> None:
    """FFmpeg writes eight pixels at a time, and left out what is behind the last eight."""
    drawn = av.VideoFrame(width, HEIGHT, "yuva420p")
    for plane, value in zip(drawn.planes, (126, 128, 128, 255), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    data = clip("webm", "libvpx-vp9", size=(width, HEIGHT), pix_fmt="yuva420p", drawings=[drawn] * 2)
    shown = frames_of(data)[1]
    assert shown.shape == (HEIGHT, width, 3)
    assert np.abs(shown.astype(int) - 128).max() < 3


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


@pytest.mark.parametrize("aspect", [None, Fraction(2)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p10le"])
def test_white_is_white_in_10_bits_and_scaled_too(pix_fmt: str, aspect: Fraction | None) -> None:
    """By default, white is 253 there."""
    shift, kind = (2, np.uint16) if "10" in pix_fmt else (0, np.uint8)
    levels = []
    for y in (16, 126, 235):
        frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
        for number, plane in enumerate(frame.planes):
            value = (128 if number else y) << shift
            plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind))
        shown = frames_of(clip(pix_fmt=pix_fmt, aspect=aspect, drawings=[frame, frame]))[0]
        levels.append(shown[10, 10].tolist())
    assert levels == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_black_of_a_video_without_colours_is_black(pix_fmt: str) -> None:
    """Its range is 16 to 235, as that of others. Monochrome cameras write such HEVC."""
    drawings = [
        av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH), y, np.uint8), "gray") for y in (16, 126, 235)
    ]
    for each in drawings:
        each.color_range = 2  # as it is, while it becomes 10 bits
    data = clip(
        codec="libx265",
        pix_fmt=pix_fmt,
        group=1,
        drawings=[each.reformat(format=pix_fmt) for each in drawings],
    )
    levels = np.array([pixels[10, 10] for pixels in frames_of(data)], int)
    assert np.abs(levels - [[0], [128], [255]]).max() <= 1


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
