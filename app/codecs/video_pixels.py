"""Turns decoded video frames into RGB pixels as a browser shows them.

Turned by the display matrix, with square pixels, in the frame's own matrix and range of colours, alpha over white.
Does not know about files and time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from app.codecs.part_limits import check_size
from app.codecs.upright import Pixels, over_white, upright

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame
    from av.sidedata.sidedata import SideData

# signs of a, b, c, d of the matrix -> EXIF's orientation
_ORIENTATIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
_BT709, _UNSPECIFIED, _BT2020, _BT2020_CONSTANT = 1, 2, 9, 10
_KNOWN_MATRICES = (1, 4, 5, 6, 7, 9)
"""Those that swscale has coefficients for, as H.273 numbers them."""
_LIMITED = 1
_GREYS = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)
"""From 16..235 to 0..255, which swscale does for colours alone."""
_HD_WIDTH, _HD_HEIGHT = 1280, 576
_EXACT = 2 | 8192
"""swscale's BILINEAR and FULL_CHR_H_INT, without which more than 8 bits, and scaled frames, have white at 253."""
_WHOLE_ROWS = 0x40000
"""swscale's ACCURATE_RND. Without it, yuva420p of a width that 8 does not divide becomes RGBA whose last columns
are not written: what was in that memory shows."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The size of all frames of a video, and how they are turned. Taken from its first frame."""

    stored: tuple[int, int]
    """Width and height with square pixels, before the turn."""
    orientation: int
    """As EXIF numbers them."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        width, height = self.stored
        return (height, width) if self.orientation >= 5 else (width, height)


def geometry_of(frame: VideoFrame, aspect: Fraction | None, *, max_pixels: int) -> Geometry:
    """Return the geometry of a video from its first frame and the shape of its pixels, width by height.

    Pixels that are not square are made so as browsers do: the shorter side grows, so that nothing is lost. Raises
    ImageTooLarge for more than `max_pixels`.
    """
    width, height = frame.width, frame.height
    if aspect and aspect > 1:
        width = round(width * aspect)
    elif aspect and aspect > 0:
        height = round(height / aspect)
    check_size((width, height), max_pixels, what="video")
    return Geometry((width, height), _orientation(frame))


def _orientation(frame: VideoFrame) -> int:
    """Return how the display matrix turns a frame; 1 for none, and for turns by anything but a quarter."""
    side = frame.side_data.get("DISPLAYMATRIX")
    matrix = bytes(cast("SideData", side)) if side is not None else b""
    if len(matrix) != 36:
        return 1
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    return _ORIENTATIONS.get(tuple((value > 0) - (value < 0) for value in (a, b, c, d)), 1)


def to_pixels(frame: VideoFrame, geometry: Geometry) -> Pixels:
    """Return a frame as shown: (height, width, 3), RGB, contiguous, scaled to the video's size."""
    has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    width, height = geometry.stored
    matrix = _matrix(frame)
    pixels = frame.to_ndarray(
        format="rgba" if has_alpha else "rgb24",
        width=width,
        height=height,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=_EXACT | (_WHOLE_ROWS if has_alpha else 0),
        threads=1,
    )
    shown: Pixels = pixels.astype(np.uint8, copy=False)
    if frame.color_range == _LIMITED and len(frame.format.components) == 1 and not frame.format.has_palette:
        shown = _GREYS[shown]
    if has_alpha:
        shown = over_white(
            Image.fromarray(shown)
        ).copy()  # torch warns of pixels that are Pillow's and read-only
    if geometry.orientation == 1:
        return np.ascontiguousarray(shown)
    return upright(
        lambda top, bottom: shown[top:bottom], size=geometry.stored, orientation=geometry.orientation
    )


def _matrix(frame: VideoFrame) -> int:
    """Return the matrix from YUV to RGB, in swscale's numbers, which are H.273's.

    Sets it on frames whose own one swscale would refuse. Without one, as browsers: BT.709 for HD, else BT.601.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return int(frame.colorspace)
    matrix = int(frame.colorspace)
    if matrix == _BT2020_CONSTANT:
        matrix = _BT2020
    elif matrix not in _KNOWN_MATRICES:
        matrix = _BT709 if frame.width >= _HD_WIDTH or frame.height > _HD_HEIGHT else 5
    frame.colorspace = matrix
    return matrix
