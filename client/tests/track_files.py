"""What the tests of tracks share: videos of a few frames, and a connection that breaks."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from sam2_client import Client, Track, TrackedFrame
from tests.fakes import RADII, disc_mask, picture
from tests.small_videos import HEIGHT, WIDTH, clip

CLIP = clip(frames=6)
MIDDLE = [(WIDTH / 2, HEIGHT / 2)]
"""A click."""
CLICKED = disc_mask(*MIDDLE[0], RADII[2], height=HEIGHT, width=WIDTH)
FOLLOWED = disc_mask(*MIDDLE[0], RADII[1], height=HEIGHT, width=WIDTH)
"""What the fake makes of the click, and on the next frames of the box around it: a smaller disc."""


def begun(client: Client, **options: Any) -> Track:
    """Begin a track of CLIP with a click on frame 2."""
    track = client.track(CLIP, **options)
    track.click(MIDDLE, frame=2)
    return track


def indexes(frames: Iterable[TrackedFrame]) -> list[int]:
    """Return the numbers of frames, in order."""
    return [frame.index for frame in frames]


def is_about(mask: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two masks are the same but for the rounding of a box."""
    return bool((mask & expected).sum() > 0.9 * (mask | expected).sum())


def frames_in(folder: Path, count: int = 4) -> Path:
    """Write pictures of different shades, 8.png and so on, and return their folder."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number + 8}.png").write_bytes(picture(shade=10 * number))
    (folder / "notes.txt").write_text("no picture")
    return folder


class Breaking(httpx.BaseTransport):
    """Sends requests, and breaks the connection after so many lines of each reply of a propagation."""

    def __init__(
        self,
        *cuts: int,
        on_cut: Callable[[], object] = lambda: None,
        how: type[httpx.RequestError] = httpx.ReadError,
    ) -> None:
        self.cuts, self.how = list(cuts), how
        self.asked: list[str] = []
        self.real = httpx.HTTPTransport()
        self._on_cut = on_cut

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx calls it."""
        self.asked.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        response = self.real.handle_request(request)
        if request.url.path.endswith("propagate") and self.cuts:
            failure = self.how("broken", request=request)
            stream = _Cut(response.stream, self.cuts.pop(0), failure, self._on_cut)
            return httpx.Response(response.status_code, headers=response.headers, stream=stream)
        return response

    def close(self) -> None:
        """As httpx calls it."""
        self.real.close()


class _Cut(httpx.SyncByteStream):
    def __init__(
        self, stream: object, lines: int, failure: httpx.RequestError, on_cut: Callable[[], object]
    ) -> None:
        assert isinstance(stream, httpx.SyncByteStream)
        self._stream, self._lines, self._failure, self._on_cut = stream, lines, failure, on_cut

    def __iter__(self) -> Iterator[bytes]:
        left = self._lines
        for piece in self._stream:
            for line in piece.splitlines(keepends=True):
                if not left:
                    self._stream.close()
                    self._on_cut()
                    raise self._failure
                yield line
                left -= line.endswith(b"\n")

    def close(self) -> None:
        self._stream.close()
