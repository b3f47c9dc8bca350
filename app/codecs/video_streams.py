"""Opens the video stream of a file with FFmpeg, and lists its packets without decoding them.

A file is read through a Python object, by the one demuxer that its content was found to need. Nothing else can be
opened: no other file, no address. PyAV is imported when the first
video comes: that takes 20 MB of memory and a tenth of a second. Does not know which frames are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from app.codecs.video_containers import CONVERT, Demuxer
from app.codecs.video_times import Ticks
from app.errors import InvalidVideo, VideoTooLarge

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.packet import PacketSideData
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MAX_PACKETS = 500_000
"""Four and a half hours at 30 frames a second. More take too long to list, and 8 MB in memory."""

CODECS = (
    "h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "vp8", "libvpx", "mpeg4", "mpeg2video", "mpeg1video",
    "h263", "mjpeg", "prores", "dnxhd", "cfhd", "qtrle", "png", "gif", "rawvideo", "v210", "svq3",
)  # fmt: skip
"""FFmpeg's decoders that may run: those that cameras, browsers and editors write into these containers."""

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these ignore alpha, which WebM keeps beside the frames."""

_READ_AT_ONCE = 1 << 18
_CHECK_EVERY = 512


@dataclass(frozen=True, slots=True, eq=False)
class Packets:
    """The packets of a video stream in the order of the file, which is that of decoding."""

    ticks: Ticks
    """When the frame of each appears."""
    is_key: npt.NDArray[np.bool_]
    """Whether decoding may begin there."""
    is_shown: npt.NDArray[np.bool_]
    last_ticks: int
    """How long the last frame stays."""
    tick_s: float
    palette: PacketSideData | None = None
    """The colours of indices, as QuickTime has up to 256. FFmpeg gives them with the first packet alone."""

    @property
    def shown(self) -> Ticks:
        """The time stamps of all frames, ascending, each once."""
        return np.unique(self.ticks[self.is_shown])


def _refuse(url: str, *_: object) -> object:
    raise PermissionError(f"a video may not open {url!r}")


@contextmanager
def opened(file: BinaryIO, demuxer: Demuxer) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file. Raises InvalidVideo."""
    container = open_container(file, demuxer)
    try:
        yield container, video_stream(container)
    finally:
        container.close()


def open_container(file: BinaryIO, demuxer: Demuxer) -> InputContainer:
    """Open a file with one demuxer and no other. Raises InvalidVideo."""
    import av

    av.logging.set_level(av.logging.PANIC)  # what FFmpeg says of uploaded files
    file.seek(0)
    # PyAV 19 has no such option: it keeps bytes that are no text.
    errors: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
    try:
        container = av.open(
            file,
            mode="r",
            format=demuxer,
            io_open=_refuse,
            container_options={"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"},
            buffer_size=_READ_AT_ONCE,
            **errors,
        )
        return cast("InputContainer", container)
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise InvalidVideo(f"The video cannot be opened ({_reason(error)}). Save it again.") from error


def video_stream(container: InputContainer) -> VideoStream:
    """Return the first stream of moving pictures; cover art is none. Raises InvalidVideo."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = sorted({"cover art" if each.type == "video" else each.type for each in container.streams})
    held = f", only {' and '.join(kinds)}" if kinds else ""
    raise InvalidVideo(f"The file holds no video{held}. Send a file with a video stream.")


def decoder_of(stream: VideoStream, *, max_pixels: int) -> VideoCodecContext:
    """Return the decoder of a stream. It rejects frames of more pixels. Raises InvalidVideo."""
    import av
    from av.codec import Codec
    from av.video.codeccontext import VideoCodecContext

    try:
        name = stream.codec_context.codec.name
    except (AttributeError, av.FFmpegError):
        name = ""
    if name not in CODECS:
        raise InvalidVideo(
            f"The video is coded as {name or 'something unknown'}, which is not read here. {CONVERT}"
        )
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.codec.canonical_name in _ALPHA_DECODERS:
        codec = Codec(_ALPHA_DECODERS[decoder.codec.canonical_name], "r")
        decoder = cast("VideoCodecContext", VideoCodecContext.create(codec))
    decoder.options = {"max_pixels": str(max_pixels)}
    decoder.thread_count = 1  # the workers are threads already
    return decoder


def list_packets(container: InputContainer, stream: VideoStream, check: Callable[[], None]) -> Packets:
    """Read all packets of a stream. Raises InvalidVideo and VideoTooLarge. Calls `check` now and then."""
    ticks, keys, shown = list[int](), list[bool](), list[bool]()
    last = last_ticks = 0
    palette: PacketSideData | None = None
    for packet in packets_of(container, stream):
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None:
            raise InvalidVideo("The frames of this video have no time stamps. Save it again.")
        if len(ticks) == MAX_PACKETS:
            raise VideoTooLarge(f"The video has more than {MAX_PACKETS} frames. Cut it into several.")
        if len(ticks) % _CHECK_EVERY == 0:
            check()
        if not ticks and packet.has_sidedata("palette"):
            palette = packet.get_sidedata("palette")
        ticks.append(at)
        keys.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not _is_hidden(packet, stream))
        if shown[-1] and (at >= last or not last_ticks):
            last, last_ticks = at, max(1, packet.duration or 0)
    tick_s = float(stream.time_base or 0)
    if not any(shown) or not tick_s:
        raise InvalidVideo("The video has no frames. Save it again.")
    arrays = np.array(ticks, np.int64), np.array(keys, np.bool_), np.array(shown, np.bool_)
    return Packets(*arrays, last_ticks, tick_s, palette)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets with data from here to the end. Raises InvalidVideo if the container is broken there."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, ValueError) as error:
            raise InvalidVideo(
                f"The video is broken or cut off ({_reason(error)}). Send it again."
            ) from error
        if packet is None:
            return
        if packet.size:
            yield packet


def _is_hidden(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a packet holds only a frame for others to refer to, as VP8 has (RFC 6386, section 9.1)."""
    return stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
