"""Video files: what a video is, and its frames by number, decoded when they are asked for.

A reader goes on from where it was, so that frames in order cost one decode each, and keeps the last frames that it
decoded, so that the order may be backwards too. Does not know where files come from, or about threads.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from app.codecs.part_limits import check_size
from app.codecs.upright import Pixels
from app.codecs.video_containers import HEAD_BYTES, Demuxer, demuxer_of
from app.codecs.video_pixels import Geometry, geometry_of, to_pixels
from app.codecs.video_streams import (
    Packets,
    decoder_of,
    list_packets,
    open_container,
    opened,
    packets_of,
    video_stream,
)
from app.codecs.video_times import Frames, Sampling, choose_frames
from app.errors import InvalidFrame, InvalidVideo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

KEPT_BYTES = 64 * 2**20
"""Decoded frames that a reader keeps: 21 of 1920 x 1080, so that a run backwards goes 21 frames at a time."""

_NEAR = 8
"""A key frame so many packets ahead is reached by decoding up to it, which a seek would not beat."""


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """What is known of a video file without its pixels: the frames that were chosen, and where they are."""

    demuxer: Demuxer
    packets: Packets
    frames: Frames
    geometry: Geometry

    def __len__(self) -> int:
        """The number of chosen frames."""
        return len(self.frames.times_s)

    @property
    def width(self) -> int:
        """Of the frames as shown, in pixels."""
        return self.geometry.size[0]

    @property
    def height(self) -> int:
        """Likewise."""
        return self.geometry.size[1]


def survey(
    file: BinaryIO,
    sampling: Sampling,
    *,
    max_pixels: int,
    max_frames: int,
    check: Callable[[], None],
    turn: Callable[[int], AbstractContextManager[None]],
) -> Video:
    """List the packets of a video, choose frames, and decode the first one of the file that can be.

    Raises InvalidVideo, ImageTooLarge, VideoTooLarge and ValidationFailed. Calls `check` now and then,
    and decodes within `turn`, which gets the number of pixels of a frame.
    """
    demuxer = demuxer_of(file.read(HEAD_BYTES))
    with opened(file, demuxer) as (container, stream):
        decoder_of(stream, max_pixels=max_pixels)  # before anything else: other codecs are not worth a look
        check_size((stream.width, stream.height), max_pixels, what="video")
        packets = list_packets(container, stream, check)
        aspect, pixels = stream.sample_aspect_ratio, stream.width * stream.height
    frames = choose_frames(
        packets.shown,
        last_ticks=packets.last_ticks,
        tick_s=packets.tick_s,
        sampling=sampling,
        most=max_frames,
    )
    if not pixels:
        raise InvalidVideo("The frames of this video have no size. Save it again.")
    with turn(pixels), closing(Reader(file, demuxer, packets, max_pixels=max_pixels)) as reader:
        # Of the file, not of those chosen: all videos of a file share the embeddings of its frames.
        first = reader.any_frame(int(packets.shown[0]), check)
        if first is None:
            raise InvalidVideo("No frame of this video can be decoded. Save it again.")
        geometry = geometry_of(first, aspect, max_pixels=max_pixels)
    return Video(demuxer, packets, frames, geometry)


class Reader:
    """The decoder of one file. One thread at a time."""

    def __init__(self, file: BinaryIO, demuxer: Demuxer, packets: Packets, *, max_pixels: int) -> None:
        """Open the file. Raises InvalidVideo."""
        self._file, self._demuxer, self._packets = file, demuxer, packets
        shown = np.flatnonzero(packets.is_shown)  # others may have the time stamp of a shown one
        order = shown[np.argsort(packets.ticks[shown], kind="stable")]
        self._sorted, self._order = packets.ticks[order], order
        self._keys = _known_keys(packets)
        self._max_pixels = max_pixels
        self._kept: OrderedDict[int, VideoFrame] = OrderedDict()  # by time stamp, least recently used first
        self._kept_bytes = 0
        self._container: InputContainer
        self._stream: VideoStream
        self._decoder: VideoCodecContext
        self._packets_left: Iterator[Packet[VideoStream]]
        self._next: Packet[VideoStream] | None
        """The packet after a seek, which was read to know it."""
        self._begun: int
        """The place of the packet at which decoding began."""
        self._fed: int
        """The place of the next packet to decode."""
        self._first_out: int | None
        """The first time stamp that came out of the decoder since the last seek."""
        self._last_out: int | None
        """The latest one."""
        self._is_over: bool
        self._open()

    def close(self) -> None:
        """Release the decoder and the kept frames. The file is the caller's."""
        self._forget()
        self._container.close()

    def read(self, video: Video, number: int, check: Callable[[], None]) -> Pixels:
        """Return a chosen frame as shown. Raises InvalidFrame if its data are broken."""
        import av

        frame = self.frame_at(int(video.frames.ticks[number]), check)
        if frame is None:
            raise InvalidFrame.of_number(number, video.frames.times_s[number])
        try:
            return to_pixels(frame, video.geometry)
        except (av.FFmpegError, ValueError) as error:  # it cannot convert such pixels, or scale them so much
            raise InvalidFrame.of_number(number, video.frames.times_s[number]) from error

    def frame_at(self, at: int, check: Callable[[], None]) -> VideoFrame | None:
        """Return the frame with a time stamp; None if its data are broken."""
        if at in self._kept:
            self._kept.move_to_end(at)
            return self._kept[at]
        self._go_to(at)
        found, back = self._decode_to(at, check), 1
        while found is None and self._begun and (self._begun >= self._start_for(at) or self._has_missed(at)):
            # Without key frames (intra refresh), a decoder that begins here has whole frames only a while later:
            # with B-frames, behind several more places at which decoding may begin.
            self._seek(self._keys[max(0, bisect.bisect_left(self._keys, self._begun) - back)])
            found, back = self._decode_to(at, check), 2 * back
        return found

    def _has_missed(self, at: int) -> bool:
        """Whether the frame with a time stamp came before all that the decoder gave since the last seek."""
        return self._first_out is None or self._first_out > at

    def _decode_to(self, at: int, check: Callable[[], None]) -> VideoFrame | None:
        """Go on until the frame with a time stamp, or one after it."""
        found: VideoFrame | None = None
        while found is None and (self._last_out is None or self._last_out < at):
            check()
            out = self._step()
            # Not from those kept: the decoder may give many at its end, and keep only the last of them.
            found = next((frame for frame in out if frame.pts == at), None)
            if self._is_over:
                break
        return found

    def any_frame(self, at: int, check: Callable[[], None]) -> VideoFrame | None:
        """Return the first frame that can be decoded on the way to a time stamp, or after it."""
        self._go_to(at)
        while True:
            check()
            if out := self._step():
                return out[0]
            if self._is_over:
                return None

    def _go_to(self, at: int) -> None:
        start = self._start_for(at)
        has_passed = self._last_out is not None and self._last_out >= at
        # Who asked before may have gone right after a seek: then nothing has come out, but decoding begins behind.
        if has_passed or self._is_over or not self._begun <= start <= self._fed + _NEAR:
            self._seek(start)

    def _start_for(self, at: int) -> int:
        """Return the place of the packet where decoding must begin for a frame: a key frame not shown after it."""
        ticks = self._packets.ticks
        place = int(self._order[np.searchsorted(self._sorted, at)])
        for key in reversed(self._keys[: bisect.bisect_right(self._keys, place)]):
            if ticks[key] <= at:
                return key
        return 0

    def _seek(self, start: int) -> None:
        """Go to the packet at a place, by the container's index, or from the beginning if that leads beyond."""
        import av

        self._decoder.flush_buffers()
        self._first_out = self._last_out = None
        self._is_over = False
        if start and self._demuxer != "gif":
            ticks = int(self._packets.ticks[start])
            try:
                self._container.seek(ticks, stream=self._stream, backward=True)
            except av.FFmpegError:
                pass
            else:
                self._packets_left = packets_of(self._container, self._stream)
                if self._skip_to(start):
                    return
        self._container.close()
        self._open()
        self._skip_to(start)

    def _skip_to(self, start: int) -> bool:
        """Read packets until the one at a place; false if it does not come. It is known by its time stamp, which is
        that of a key frame of its own, or the first one of the file.
        """
        wanted = int(self._packets.ticks[start])
        for packet in self._packets_left:
            if _ticks_of(packet) == wanted:
                self._begun = self._fed = start
                self._next = packet
                if self._packets.palette is not None:
                    packet.set_sidedata(self._packets.palette)
                return True
        return False

    def _step(self) -> list[VideoFrame]:
        """Decode one packet, or what is left at the end. Returns the frames that are ready, ascending in time."""
        import av

        packet, self._next = self._next, None
        try:
            packet = packet or next(self._packets_left, None)
        except InvalidVideo:  # the container is broken here, and was not when its packets were listed
            packet = None
        self._is_over = packet is None
        self._fed += packet is not None
        try:
            frames = self._decoder.decode(packet)
        except (av.FFmpegError, ValueError):
            frames = []  # this packet's frame will be missing
        whole = [frame for frame in frames if frame.pts is not None and not frame.is_corrupt]
        for frame in whole:
            self._keep(frame)
        out = [frame.pts for frame in frames if frame.pts is not None]
        if out:
            self._first_out = out[0] if self._first_out is None else self._first_out
            self._last_out = max(out)
        return whole

    def _keep(self, frame: VideoFrame) -> None:
        if frame.pts is None or frame.pts in self._kept:
            return
        self._kept[frame.pts] = frame
        self._kept_bytes += _bytes_of(frame)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= _bytes_of(oldest)

    def _open(self) -> None:
        self._container = open_container(self._file, self._demuxer)
        self._stream = video_stream(self._container)
        self._decoder = decoder_of(self._stream, max_pixels=self._max_pixels)
        self._packets_left = packets_of(self._container, self._stream)
        self._next = None
        self._begun = self._fed = 0
        self._first_out = self._last_out = None
        self._is_over = False

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0


def _known_keys(packets: Packets) -> list[int]:
    """Return the places at which decoding may begin, ascending; the first one is 0.

    After a seek, a packet is known by its time stamp. So others with that of another packet are left out: frames
    that repeat, and packets that an edit list shows twice, or decodes without showing them.
    """
    _, place, count = np.unique(packets.ticks, return_inverse=True, return_counts=True)
    keys = np.flatnonzero(packets.is_key & (count[place] == 1)).tolist()
    return [0, *(key for key in keys if key)]


def _ticks_of(packet: Packet[VideoStream]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _bytes_of(frame: VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
