"""Videos of a few frames, made in milliseconds: frame k is grey of shade 10 k + 20, its top left quarter white."""

import io
import struct
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 64, 48
FRAMES = 20

MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}
"""a, b, c, d of the display matrix for a turn clockwise, in degrees."""


def drawing(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Return frame `number` as RGB."""
    pixels = np.full((height, width, 3), 20 + 10 * (number % 20), np.uint8)
    pixels[: height // 2, : width // 2] = 255
    return pixels


def number_of(pixels: npt.NDArray[np.uint8]) -> int:
    """Return which frame this is, from its grey at the bottom right; compression does not move it that far."""
    return round((float(pixels[-8:, -8:].mean()) - 20) / 10)


def clip(
    container: str = "mp4",
    codec: str = "libx264",
    *,
    frames: int = FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times_ms: Sequence[int] = (),
    pix_fmt: str = "yuv420p",
    group: int = 8,
    b_frames: int = 2,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    x264: str = "",
    drawings: Sequence[av.VideoFrame] = (),
) -> bytes:
    """Return a video of `frames` frames, at 10 a second or at `times_ms`, with a key frame every `group` frames."""
    # FFmpeg opens a file again to put the index in front.
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "clip"
    with folder, av.open(str(path), "w", format=container, container_options=options or {}) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = group
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        if codec == "libx264":
            preset = "ultrafast" if not b_frames else "veryfast"
            stream.options = {"preset": preset, "crf": "12", "x264-params": x264}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number in range(len(drawings) or frames):
            if drawings:
                frame = drawings[number]
            else:
                frame = av.VideoFrame.from_ndarray(drawing(number, width=size[0], height=size[1]))
            frame.pts = times_ms[number] if times_ms else 100 * number
            frame.time_base = Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        output.close()
        return path.read_bytes()


def sound() -> bytes:
    """Return an MP4 of a quarter of a second of silence, without video."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 12288), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def with_matrix(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Write a, b, c, d of the display matrix into the head of an MP4's track."""
    a, b, c, d = (value << 16 for value in matrix)
    at = mp4.index(b"tkhd") + 4 + 40
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def with_broken_packet(data: bytes, container: str, number: int) -> bytes:
    """Overwrite the data of the frame that appears as `number`."""
    with av.open(io.BytesIO(data), format=container) as opened:
        packets = sorted(
            (packet.pts, packet.pos, packet.size) for packet in opened.demux(video=0) if packet.size
        )
    _, at, size = packets[number]
    return data[:at] + bytes(size) + data[at + size :]


def box(kind: bytes, content: bytes) -> bytes:
    """Return a box of an MP4."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def with_edits(mp4: bytes, edits: Sequence[tuple[int, int]]) -> bytes:
    """Give an MP4 with its index at the end an edit list: durations and starts, in ms."""
    scale = int.from_bytes(mp4[(at := mp4.index(b"mdhd") + 16) : at + 4], "big") // 1000
    entries = b"".join(struct.pack(">IiI", duration, start * scale, 1 << 16) for duration, start in edits)
    new = box(b"edts", box(b"elst", struct.pack(">II", 0, len(edits)) + entries))
    at = mp4.index(b"edts") - 4
    end = at + int.from_bytes(mp4[at : at + 4], "big")
    changed = bytearray(mp4[:at] + new + mp4[end:])
    for holder in (b"moov", b"trak"):
        start = mp4.index(holder) - 4
        size = int.from_bytes(mp4[start : start + 4], "big") + len(new) - (end - at)
        changed[start : start + 4] = struct.pack(">I", size)
    return bytes(changed)


def one_after_the_other(first: bytes, second: bytes) -> bytes:
    """Join two WebM, of frames at 10 a second, to one whose frames change in size, as recordings of calls do."""
    file, at = io.BytesIO(), 0
    with av.open(io.BytesIO(first)) as model, av.open(file, "w", format="webm") as output:
        stream = output.add_stream_from_template(model.streams.video[0])
        for part in (first, second):
            with av.open(io.BytesIO(part)) as given:
                for packet in given.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = 100 * at
                        packet.stream, at = stream, at + 1
                        output.mux(packet)
    return file.getvalue()
