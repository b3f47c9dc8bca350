"""Writes pictures as an MP4 with PyAV, which is optional. Does not know what is on them."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

_CODEC: Final = "libx264"
_BT709, _BT601, _LIMITED = 1, 6, 1
"""As H.273 numbers matrices, primaries and curves; and PyAV's number of the range 16 to 235."""
_HD_WIDTH, _HD_HEIGHT = 1280, 576
_TICKS = 90_000
"""A second in units of time stamps, as is usual for videos."""


def require() -> None:
    """Raise ValueError if PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise ValueError("an overlay requires PyAV, which is not installed: pip install av")


class OverlayVideo:
    """An MP4 (H.264) that every player shows. It is complete once it is closed."""

    def __init__(self, file: Path, *, rate: float) -> None:
        """`rate` is about how many frames a second there will be. Raises OSError, and ValueError as `require`."""
        require()
        import av

        file.open("wb").close()  # FFmpeg opens it with the first frame, and does not say which file it cannot
        self._output = av.open(str(file), "w", format="mp4")
        try:
            self._stream = self._output.add_stream(_CODEC, rate=Fraction(rate).limit_denominator(1000))
        except ValueError as error:
            self._output.close()
            file.unlink(missing_ok=True)
            raise ValueError(
                f"this PyAV was built without {_CODEC}, which writes H.264; that of PyPI has it: pip install av"
            ) from error
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
        # Frames in the order of their times: else the file says that it ends before a frame that comes late.
        self._stream.options = {"crf": "18", "bf": "0"}
        self._last: int | None = None
        self._start = 0.0
        self._matrix = _BT709
        self.count = 0
        """Frames so far."""

    def add(self, picture: Image.Image, time: float) -> None:
        """Add a picture in RGB, all of one size, shown from `time` on, in seconds after any start."""
        import av

        pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:  # the colours of H.264 have half the size
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._last is None:
            self._open(*pixels.shape[:2])
            self._start = time
        stamp = round((time - self._start) * _TICKS)
        stamp = stamp if self._last is None else max(stamp, self._last + 1)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self._matrix, dst_color_range=_LIMITED
        )
        frame.pts, frame.time_base = stamp, Fraction(1, _TICKS)
        self._output.mux(self._stream.encode(frame))
        self._last = stamp
        self.count += 1

    def _open(self, height: int, width: int) -> None:
        """Say the size and the colours. The matrix is the one that players take without being told."""
        self._matrix = _BT709 if width >= _HD_WIDTH or height > _HD_HEIGHT else _BT601
        coder = self._stream.codec_context
        self._stream.height, self._stream.width = height, width
        coder.colorspace, coder.color_range = self._matrix, _LIMITED
        coder.color_primaries = coder.color_trc = _BT709

    def close(self) -> None:
        """Write the rest. A file without a picture is not a video: delete it."""
        if self.count:
            self._output.mux(self._stream.encode())
        self._output.close()
