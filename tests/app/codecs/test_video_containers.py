"""Containers of videos: told by content, whole, and of a sane size; nothing else is ever opened."""

import io
import struct
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from app.codecs import video_containers
from app.codecs.video_containers import check_container, demuxer_of
from app.codecs.video_files import survey
from app.codecs.video_times import Sampling
from app.errors import ImageTooLarge, InvalidVideo, ValidationFailed, VideoTooLarge
from tests.small_videos import box, clip


def nothing() -> None:
    """Nobody gives up."""


def use(data: bytes) -> None:
    """Do what an upload does."""
    check_container(data, nothing)
    options = Sampling()
    survey(
        io.BytesIO(data),
        options,
        max_pixels=10**6,
        max_frames=100,
        check=nothing,
        turn=lambda _: nullcontext(),
    )


WHOLE: dict[str, Callable[[], bytes]] = {
    "MP4": clip,
    "MP4 with its index in front": lambda: clip(options={"movflags": "faststart"}),
    "MP4 in fragments": lambda: clip(options={"movflags": "frag_keyframe+empty_moov"}),
    "MOV": lambda: clip("mov"),
    "WebM": lambda: clip("webm", "libvpx-vp9"),
    "GIF": lambda: clip("gif", "gif", pix_fmt="gray"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_whole_is_taken_and_what_is_cut_off_is_not(kind: str) -> None:
    """Cut off anywhere, but within the last bytes of a GIF, which many programs do not write."""
    data = WHOLE[kind]()
    use(data)
    for left in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        with pytest.raises(InvalidVideo):
            use(data[: int(left * len(data))])
    use(data + bytes(4))


@pytest.mark.parametrize("layout", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("tail", [b"\xf3\xa1" * 300, b"\0\0\0\3\xff\xfe" * 9, bytes(99)], ids=len)
def test_what_is_behind_the_last_box_is_nothing_that_is_missing(tail: bytes, layout: str) -> None:
    """Some cameras write there. A file that ends within a box is still cut off."""
    whole = clip(options={"movflags": layout} if layout else None)
    use(whole + tail)
    with pytest.raises(InvalidVideo, match="cut off"):
        use(whole[:-9])


def test_a_recording_of_a_browser_has_no_size() -> None:
    """MediaRecorder writes WebM as it comes: segment and clusters of unknown size, and no index."""
    use(clip("webm", "libvpx", options={"live": "1"}))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "list of other files"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI, .*ffmpeg -i"),
        (b"\x89PNG\r\n\x1a\n", "/embed"),
        (box(b"ftyp", b"avif\0\0\0\0"), "/embed"),
        (b"OggS\0", "Ogg.*ffmpeg -i"),
        (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "Windows Media.*ffmpeg -i"),
        (b"ID3\4\0", "audio"),
        (b"<html>", "HTML"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "not a video"),
        (bytes(500), "not a video"),
        (box(b"ftyp", b"isom\0\0\0\0"), "no index"),
        (box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", b""), "Save it again|holds no video"),
        (b"\x1aE\xdf\xa3", "ends in its header"),
        (b"\x1aE\xdf\xa3\x80\x00\x00\x00\x00", "segment"),
        (b"GIF89a", "not complete"),
        (b"GIF89a\1\0\1\0\0\0\0\x99", "broken"),
        (b"GIF89a\1\0\1\0\0\0\0;", "no video|no frames|cannot be opened|decoded"),
    ],
)
def test_what_is_no_video_is_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(InvalidVideo, match=said):
        use(data)


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"ffconcat version 1.0\nfile 'clip.mp4'\n",
    ],
)
def test_a_playlist_with_the_head_of_a_video_opens_nothing(data: bytes, tmp_path: Path) -> None:
    """The demuxer is fixed by the first bytes, so FFmpeg does not guess by the rest."""
    (tmp_path / "clip.mp4").write_bytes(clip())
    for head in (box(b"ftyp", b"isom\0\0\0\0"), b"GIF89a\1\0\1\0\0\0\0", b"\x1aE\xdf\xa3\x80\x18S\x80g\xff"):
        with pytest.raises(InvalidVideo):
            use(head + data)


def test_a_reference_to_another_file_is_not_followed(tmp_path: Path) -> None:
    """A MOV may say that its frames lie in another file (a data reference that is not self-contained)."""
    other = tmp_path / "other.mov"
    other.write_bytes(clip("mov"))
    alias = box(b"url ", bytes(4) + f"file://{other}".encode() + b"\0")
    data = clip("mov", options={"movflags": "faststart"})
    at = data.index(b"dref") - 4
    size = struct.unpack_from(">I", data, at)[0]
    grown = box(b"dref", bytes(4) + struct.pack(">I", 1) + alias)
    data = data[:at] + grown + data[at + size :]
    for holder in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = data.index(holder) - 4
        old = struct.unpack_from(">I", data, where)[0]
        data = data[:where] + struct.pack(">I", old + len(grown) - size) + data[where + 4 :]
    with pytest.raises(InvalidVideo, match="No frame"):  # all of them would be found in the other file
        use(data)


def full(version_and_flags: bytes, *numbers: int) -> bytes:
    """The content of a table: its version, and numbers of 32 bits."""
    return version_and_flags + b"".join(struct.pack(">I", number) for number in numbers)


def track(*tables: bytes, edits: bytes = b"", handler: bytes = b"vide") -> bytes:
    """A movie of one track with these tables."""
    media = box(b"hdlr", full(bytes(4), 0) + handler + bytes(13)) + box(
        b"minf", box(b"stbl", b"".join(tables))
    )
    return box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", box(b"trak", edits + box(b"mdia", media)))


HUGE = 2**31
BOMBS = {
    "samples of one size": track(box(b"stsz", full(bytes(4), 1, HUGE))),
    "samples of small sizes": track(box(b"stz2", full(bytes(4), 4, HUGE))),
    "durations": track(box(b"stts", full(bytes(4), 1, HUGE, 2))),
    "offsets": track(box(b"ctts", full(bytes(4), 1, HUGE, 2))),
    "samples of sound": track(
        box(b"stsz", full(bytes(4), 1, HUGE)), box(b"stts", full(bytes(4), 1, HUGE, 2)), handler=b"soun"
    ),
    "edits": track(
        box(b"stsz", full(bytes(4), 0, 100_000)), edits=box(b"edts", box(b"elst", full(bytes(4), 100_000)))
    ),
    "samples of fragments": box(b"ftyp", b"isom\0\0\0\0")
    + box(b"moov", b"")
    + 3 * box(b"moof", box(b"traf", box(b"trun", full(bytes(4), 1_000_000)))),
    "a compressed header": box(b"ftyp", b"qt  \0\0\0\0") + box(b"moov", box(b"cmov", bytes(40))),
    "boxes of no size": box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", b"\0\0\0\1trak" + bytes(8)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_claims_are_checked_before_ffmpeg_allocates_for_them(bomb: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidVideo):
        check_container(BOMBS[bomb], nothing)
    assert time.process_time() - started < 1


def test_an_hour_of_plain_sound_is_not_a_bomb() -> None:
    """Each of its values is a sample, and FFmpeg indexes it by chunk."""
    hour = 48_000 * 3600
    check_container(
        track(
            box(b"stsz", full(bytes(4), 2, hour)), box(b"stts", full(bytes(4), 1, hour, 1)), handler=b"soun"
        ),
        nothing,
    )


def test_boxes_and_blocks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_containers, "MAX_VIDEO_BOXES", 50)
    monkeypatch.setattr(video_containers, "MAX_GIF_VIDEO_BLOCKS", 5)
    with pytest.raises(InvalidVideo, match="50 boxes"):
        check_container(clip() + 60 * box(b"free", b""), nothing)
    with pytest.raises(InvalidVideo, match="5 blocks"):
        check_container(clip("gif", "gif", pix_fmt="gray"), nothing)
    for blocks in (b"\x21\xfe" + 6 * b"\1x", 6 * b"\x21\xfe\0"):  # the file is cut off behind them
        with pytest.raises(InvalidVideo, match="5 blocks"):
            check_container(b"GIF89a\1\0\1\0\0\0\0" + blocks, nothing)


def test_a_long_check_ends_when_nobody_waits() -> None:
    def gone() -> None:
        raise TimeoutError

    head = b"GIF89a\1\0\1\0\0\0\0"
    blocks, empty = b"\x21\xfe" + 5000 * b"\1x" + b"\0;", 5000 * b"\x21\xfe\0" + b";"
    for data in (clip(), head + blocks, head + empty):
        with pytest.raises(TimeoutError):
            check_container(data, gone)


@pytest.mark.parametrize("kind", ["MP4", "WebM", "GIF"])
def test_damage_anywhere_is_an_error_in_words_or_none(kind: str) -> None:
    """One byte after the other is overwritten: FFmpeg's errors never come out as they are."""
    data = WHOLE[kind]()
    for at in range(0, len(data), max(1, len(data) // 60)):
        for value in (0, 255):
            with suppress(InvalidVideo, ImageTooLarge, VideoTooLarge, ValidationFailed):
                use(data[:at] + bytes([value]) + data[at + 1 :])


def test_the_kind_is_told_by_content() -> None:
    assert [demuxer_of(make()) for make in WHOLE.values()] == ["mov"] * 4 + ["matroska", "gif"]
