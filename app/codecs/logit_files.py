"""Mask logits as an npz file of float32 arrays, at the picture's size and as the decoder gave them.

Written piece by piece, because one mask of 12 megapixels takes 48 MB. Does not know about HTTP.
"""

import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_PIECE_BYTES = 1 << 20


def npz_bytes(masks: int, *, height: int, width: int) -> int:
    """Return about how many bytes the file has."""
    return 4 * masks * height * width


def npz(logits_nhw: Sequence[Floats], *, height: int, width: int) -> Iterator[bytes]:
    """Yield an npz file in pieces: `masks` (n, height, width) and `low_res_masks` (n, h, w), float32.

    `masks` are the logits after bilinear upsampling (align_corners=False); above zero is the object.
    """
    low = np.ascontiguousarray(logits_nhw, np.float32)
    file = _Pieces()
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("low_res_masks.npy", "w") as member:
            np.lib.format.write_array(member, low)
        with archive.open("masks.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(low), height, width)}
            np.lib.format.write_array_header_1_0(member, header)
            for logits_hw in low:
                for rows in _upsampled(logits_hw, height=height, width=width):
                    member.write(rows.tobytes())
                    yield file.taken()
    yield file.taken()


def _upsampled(logits_hw: Floats, *, height: int, width: int) -> Iterator[Floats]:
    """Yield logits at the picture's size, some rows (rows, width) at a time."""
    left, right, to_right = _sources(logits_hw.shape[1], width)
    wide = logits_hw[:, left] * (1 - to_right) + logits_hw[:, right] * to_right  # (h, width)
    above, below, to_below = _sources(logits_hw.shape[0], height)
    step = max(1, _PIECE_BYTES // (4 * width))
    for begin in range(0, height, step):
        rows = slice(begin, begin + step)
        weight = to_below[rows, np.newaxis]
        yield (wide[above[rows]] * (1 - weight) + wide[below[rows]] * weight).astype("<f4")


def _sources(
    samples: int, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each of `size` pixels: the samples on both sides of its centre, and the weight of the second."""
    place = np.maximum((np.arange(size) + 0.5) * (samples / size) - 0.5, 0).astype(np.float32)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, samples - 1), place - first


class _Pieces:
    """A file that is only written, and taken away in between."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        written, self._written = self._written, []
        return b"".join(written)
