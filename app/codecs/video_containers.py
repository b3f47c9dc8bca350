"""Looks at the container of a video before FFmpeg does: its kind, whether it is whole, what its tables claim.

The kind is told by content and fixes the one demuxer that may read the file, so that no playlist or list of other
files is ever followed. Does not know about codecs and frames.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from app.codecs.part_limits import (
    MAX_GIF_VIDEO_BLOCKS,
    MAX_VIDEO_BOXES,
    MAX_VIDEO_EDITS,
    MAX_VIDEO_SAMPLES,
)
from app.errors import InvalidVideo

Demuxer: TypeAlias = Literal["mov", "matroska", "gif"]
"""FFmpeg's name of the one reader that may open a file."""

WANTED = "Send an MP4, MOV, WebM or GIF file."
CONVERT = "Convert it to H.264: ffmpeg -i VIDEO -c:v libx264 -pix_fmt yuv444p video.mp4"
"""In yuv420p it would fail for an odd width or height."""

_MOV = re.compile(rb".{4}(ftyp|moov|mdat|moof|wide|free|skip|pnot)", re.DOTALL)
_PICTURE = re.compile(rb".{4}ftyp(avi[fs]|he[iv][a-z]|m[is]f1)", re.DOTALL)
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_GIF = re.compile(rb"GIF8[79]a")
_LOOKS_LIKE = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (rb"\s*#EXTM3U", "a playlist, which names other files"),
        (rb"\s*ffconcat", "a list of other files"),
        (rb"RIFF.{4}WEBP|\x89PNG|\xff\xd8\xff|II\*\0|MM\0\*|BM", "a picture: POST it to /embed"),
        (rb"ID3|\xff[\xfb\xf3\xf1]|fLaC|RIFF.{4}WAVE", "audio"),
        (rb"\s*<", "an HTML or XML document"),
    )
)
_OTHERS = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (rb"RIFF.{4}AVI ", "an AVI"),
        (rb"OggS", "an Ogg file"),
        (rb"FLV\x01", "an FLV"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
        (rb"\x00\x00\x01[\xba\xb3]", "an MPEG program stream"),
        (rb"\x47.{187}\x47", "an MPEG transport stream"),
    )
)
"""Containers of videos that are not read here."""

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf"}
_KIND = re.compile(rb"[\x20-\x7e\xa9]{4}")
"""FFmpeg reads no box of another kind."""
_CHECK_EVERY = 4096


HEAD_BYTES = 1024


def demuxer_of(head: bytes) -> Demuxer:
    """Return the demuxer for a file that begins like this. Raises InvalidVideo if no such file is read here."""
    if not head:
        raise InvalidVideo(f"The body is empty. {WANTED}")
    if _PICTURE.match(head):
        raise InvalidVideo(f"The body is a picture: POST it to /embed. {WANTED}")
    if _MOV.match(head):
        return "mov"
    if head.startswith(_EBML):
        return "matroska"
    if _GIF.match(head):
        return "gif"
    for pattern, what in _LOOKS_LIKE:
        if pattern.match(head):
            raise InvalidVideo(f"The body looks like {what}. {WANTED}")
    for pattern, what in _OTHERS:
        if pattern.match(head):
            raise InvalidVideo(f"The body is {what}, which is not read here. {CONVERT}")
    raise InvalidVideo(f"The body is not a video in a supported container. {WANTED}")


def check_container(data: bytes, check: Callable[[], None]) -> None:
    """Check that the container of a video file is whole and of a sane size.

    Raises InvalidVideo if it is not a video container that is read here, is cut off, or claims so much that FFmpeg
    would allocate too much for it. Calls `check` now and then.
    """
    demuxer = demuxer_of(data[:HEAD_BYTES])
    if demuxer == "mov":
        _check_boxes(data, check)
    elif demuxer == "matroska":
        _check_segment(data)
    else:
        _check_blocks(data, check)


def _cut_off(what: str) -> InvalidVideo:
    return InvalidVideo(f"The video is cut off: {what}. Send the whole file.")


class _Box(NamedTuple):
    kind: bytes
    start: int
    """Where its content begins."""
    stop: int


@dataclass(slots=True)
class _Claims:
    """What the tables of one track claim."""

    samples: int = 0
    sample_bytes: int = 0
    """0 if each sample has its own size."""
    timed: int = 0
    delta: int | None = None
    """How long each sample lasts, if all last equally long."""
    edits: int = 0
    is_audio: bool = False

    def check(self) -> None:
        """Raise InvalidVideo if FFmpeg's index of the track would be too large."""
        # FFmpeg indexes audio without compression by chunk.
        if self.is_audio and self.sample_bytes and self.delta == 1:
            return
        samples = max(self.samples, self.timed)
        if samples > MAX_VIDEO_SAMPLES:
            raise InvalidVideo(f"A track claims {samples} samples; the limit is {MAX_VIDEO_SAMPLES}. Cut it.")
        if self.edits * samples > MAX_VIDEO_EDITS:
            raise InvalidVideo(f"The edit list of a track has {self.edits} entries. Save the video again.")


def _check_boxes(data: bytes, check: Callable[[], None]) -> None:
    kinds, track, fragments = set[bytes](), _Claims(), _Claims()
    for count, box in enumerate(_boxes(data, 0, len(data), depth=0)):
        if count > MAX_VIDEO_BOXES:
            raise InvalidVideo(f"The video has more than {MAX_VIDEO_BOXES} boxes. Save it again.")
        if count % _CHECK_EVERY == 0:
            check()
        kinds.add(box.kind)
        if box.kind == b"trak":
            track.check()
            track = _Claims()
        elif box.kind == b"cmov":
            raise InvalidVideo("The header of this video is compressed (cmov). Save the video again.")
        elif box.kind == b"trun":
            fragments.samples += _number(data, box.start + 4, box.stop)
        else:
            _note(track, box, data)
    track.check()
    fragments.check()
    if not kinds & {b"moov", b"moof"}:
        raise _cut_off("it has no index (moov), which cameras write at the end")


def _boxes(data: bytes, at: int, end: int, *, depth: int) -> Iterator[_Box]:
    while at + 8 <= end:
        size, kind, head = _number(data, at, end), data[at + 4 : at + 8], 8
        if size == 1:  # the size is in 64 bits
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:  # up to the end
            size = end - at
        if depth == 0 and not _KIND.fullmatch(kind) and not head <= size <= end - at:
            return  # no box: what some cameras write behind the last one, and FFmpeg ends there too
        if size < head:
            raise InvalidVideo("The boxes of this video are broken. Save it again.")
        if at + size > end and depth == 0:
            raise _cut_off(f"{at + size - end} bytes are missing")
        box = _Box(kind, at + head, min(at + size, end))
        yield box
        if kind in _HOLDERS and depth < len(_HOLDERS):
            yield from _boxes(data, box.start, box.stop, depth=depth + 1)
        at += size


def _note(track: _Claims, box: _Box, data: bytes) -> None:
    first, second = (_number(data, at, box.stop) for at in (box.start + 4, box.start + 8))
    if box.kind == b"stsz":
        track.sample_bytes, track.samples = first, second
    elif box.kind == b"stz2":
        track.samples = second
    elif box.kind == b"hdlr":
        track.is_audio = data[box.start + 8 : box.start + 12] == b"soun"
    elif box.kind == b"elst":
        track.edits = first
    elif box.kind in (b"stts", b"ctts"):
        entries = min(first, (box.stop - box.start - 8) // 8)
        pairs = np.frombuffer(data, ">u4", 2 * max(0, entries), box.start + 8 if entries > 0 else 0)
        track.timed = max(track.timed, int(pairs[::2].sum(dtype=np.int64)))
        if box.kind == b"stts":
            track.delta = int(pairs[1]) if entries == 1 else None


def _number(data: bytes, at: int, end: int) -> int:
    return int.from_bytes(data[at : min(at + 4, end)], "big")


def _check_segment(data: bytes) -> None:
    """Check the size that a WebM claims. Recordings of browsers claim none."""
    size, at = _vint(data, 4)
    at += size or 0
    if data[at : at + 4] != _SEGMENT:
        raise (
            _cut_off("it ends before its first segment")
            if at >= len(data)
            else InvalidVideo("The segment of this WebM is missing. Save it again.")
        )
    size, at = _vint(data, at + 4)
    if size is not None and at + size > len(data):
        raise _cut_off(f"{at + size - len(data)} bytes are missing")


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """Return a size as EBML writes it, None for an unknown one, and where its content begins."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        raise _cut_off("it ends in its header")
    mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length], "big") & mask
    return None if value == mask else value, at + length


def _check_blocks(data: bytes, check: Callable[[], None]) -> None:
    """Walk an animated GIF to its trailer. One without it is taken if it ends with a whole block."""
    blocks = 0

    def count() -> None:
        # Called before each block: one without data takes three bytes, and a file has millions of those.
        nonlocal blocks
        blocks += 1
        if blocks > MAX_GIF_VIDEO_BLOCKS:
            raise InvalidVideo(f"The GIF has more than {MAX_GIF_VIDEO_BLOCKS} blocks. Save it again.")
        if blocks % _CHECK_EVERY == 0:
            check()

    try:
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while at < len(data) and data[at] != 0x3B:
            count()
            if data[at] == 0x2C:  # a picture: descriptor, palette, code size, blocks
                flags = data[at + 9]
                at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            elif data[at] == 0x21:
                at += 2
            else:
                raise InvalidVideo("The blocks of this GIF are broken. Save it again.")
            while data[at]:
                count()
                at += 1 + data[at]
            at += 1
    except IndexError:
        raise _cut_off("its last block is not complete") from None
