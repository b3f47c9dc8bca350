"""Videos that are being read: what is known of each, and its decoder at the place where the last frame left it.

Everything here runs in worker threads, one at a time for each video. Bounded in number, in bytes and in time. Does
not know about names and tenants.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import BinaryIO

from app.codecs.upright import Pixels
from app.codecs.video_files import Reader, Video, survey
from app.codecs.video_times import Sampling
from app.errors import InvalidFrame, InvalidVideo
from app.scheduling.abandoned import check_wanted

MOST_READERS = 6
"""Decoders that stay open. Each holds up to 64 MiB of decoded frames, and the frames that its codec refers to."""
IDLE_S = 20.0
"""Seconds after which a decoder that nobody used is closed."""
MOST_PACKETS = 4_000_000
"""Packets of all known videos together; a packet takes 18 bytes."""
_EACH = 1000
"""What a known video counts beside its packets."""
SMALL_PIXELS = 12_500_000
"""Larger videos are decoded one at a time, because a codec may refer to 16 earlier frames."""
_WAIT_S = 0.05

Open = Callable[[], BinaryIO | None]


class VideoGone(Exception):
    """The file was evicted or removed."""


@dataclass(slots=True, eq=False)
class _Known:
    """One video. Whoever holds `lock` may use the rest."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    video: Video | None = None
    reader: Reader | None = None
    file: BinaryIO | None = None
    used: float = 0.0

    def shut(self) -> None:
        """Close decoder and file."""
        if self.reader is not None:
            self.reader.close()
        if self.file is not None:
            self.file.close()
        self.reader = self.file = None


class OpenVideos:
    """Known videos by content. Any number of threads may call it."""

    def __init__(self, *, max_pixels: int, max_frames: int) -> None:
        self._max_pixels, self._max_frames = max_pixels, max_frames
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # least recently used first
        self._large = threading.Lock()

    def peek(self, content: str) -> Video | None:
        """Return what is known of a video, without waiting; None if nothing is."""
        known = self._known.get(content)
        return known.video if known is not None else None

    def describe(self, content: str, open_file: Open, sampling: Sampling) -> Video:
        """Return what is known of a video; survey it first if that is nothing.

        Raises VideoGone, and as `survey`.
        """
        with self._using(content) as known:
            return self._surveyed(known, open_file, sampling)

    def read(self, content: str, open_file: Open, sampling: Sampling, number: int) -> Pixels:
        """Return a frame. Raises VideoGone, InvalidFrame, and as `survey`."""
        with self._using(content) as known:
            video = self._surveyed(known, open_file, sampling)
            pixels = video.width * video.height
            with self._turn(pixels):
                try:
                    return self._read(known, video, open_file, number)
                finally:
                    if pixels > SMALL_PIXELS:
                        known.shut()

    def contents(self) -> set[str]:
        """Return the contents of all known videos."""
        with self._lock:
            return set(self._known)

    def forget(self, content: str) -> None:
        """Drop what is known of a video. Whoever reads it at this moment closes its decoder. Does not wait."""
        with self._lock:
            known = self._known.pop(content, None)
        if known is not None:
            _shut_if_idle(known)

    def close(self) -> None:
        """Forget all videos."""
        for content in list(self._known):
            self.forget(content)

    def tend(self, *, idle_s: float = IDLE_S) -> None:
        """Close decoders that nobody used for so long. Does not wait for those in use."""
        with self._lock:
            known = list(self._known.values())
        before = monotonic() - idle_s
        for each in known:
            if each.used <= before:
                _shut_if_idle(each)

    def _surveyed(self, known: _Known, open_file: Open, sampling: Sampling) -> Video:
        if known.video is None:
            with _opened(open_file) as file:
                known.video = survey(
                    file,
                    sampling,
                    max_pixels=self._max_pixels,
                    max_frames=self._max_frames,
                    check=check_wanted,
                    turn=self._turn,
                )
        return known.video

    def _turn(self, pixels: int) -> AbstractContextManager[None]:
        return _held(self._large) if pixels > SMALL_PIXELS else nullcontext()

    def _read(self, known: _Known, video: Video, open_file: Open, number: int) -> Pixels:
        try:
            if known.reader is None:
                known.file = _open(open_file)
                known.reader = Reader(known.file, video.demuxer, video.packets, max_pixels=self._max_pixels)
            return known.reader.read(video, number, check_wanted)
        except InvalidFrame:
            raise  # the decoder goes on
        except InvalidVideo as error:
            known.shut()
            raise InvalidFrame.of_number(number, video.frames.times_s[number]) from error
        except OSError:  # the disk
            known.shut()
            raise

    @contextmanager
    def _using(self, content: str) -> Iterator[_Known]:
        with self._lock:
            known = self._known.setdefault(content, _Known())
            self._known.move_to_end(content)
        try:
            with _held(known.lock):
                yield known
                known.used = monotonic()
        finally:
            if self._known.get(content) is not known:
                _shut_if_idle(known)  # it was forgotten meanwhile
            self._limit()

    def _limit(self) -> None:
        """Close the decoders, and forget the videos, that were used longest ago, beyond the limits."""
        with self._lock:
            newest_first = list(reversed(self._known.items()))
        readers = packets = 0
        for content, known in newest_first:
            readers += known.reader is not None
            if readers > MOST_READERS:
                _shut_if_idle(known)
            packets += _EACH + (len(known.video.packets.ticks) if known.video is not None else 0)
            if known.video is None or packets > MOST_PACKETS:
                with self._lock:
                    if not known.lock.locked() and self._known.get(content) is known:
                        del self._known[content]
                _shut_if_idle(known)


def _shut_if_idle(known: _Known) -> None:
    if known.lock.acquire(blocking=False):
        try:
            known.shut()
        finally:
            known.lock.release()


@contextmanager
def _held(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock. While waiting for it, notice that nobody wants the result any more."""
    while not lock.acquire(timeout=_WAIT_S):
        check_wanted()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _opened(open_file: Open) -> Iterator[BinaryIO]:
    with _open(open_file) as file:
        yield file


def _open(open_file: Open) -> BinaryIO:
    file = open_file()
    if file is None:
        raise VideoGone
    return file
