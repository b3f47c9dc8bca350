"""What Client does when the connection breaks in the middle of a track, or the server has lost it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_server import Served
from track_files import CLIP, FOLLOWED, MIDDLE, Breaking, begun, frames_in, indexes, is_about

import sam2_client
from sam2_client import Client, Sam2Error, Track, frame_lines

pytestmark = pytest.mark.usefixtures("waited")
ORDER = [2, 3, 4, 5, 1, 0]


@pytest.mark.parametrize("cuts", [(0,), (1,), (3,), (4,), (5,), (6,), (1, 0, 2), (2, 2, 2)], ids=str)
def test_after_a_cut_it_goes_on_where_it_was(
    served: Served, cuts: tuple[int, ...], waited: list[float]
) -> None:
    transport = Breaking(*cuts)
    with Client(served.url, transport=transport) as client, begun(client) as track:
        frames = list(track.propagate(direction="both"))
        assert indexes(frames) == ORDER
        assert all(is_about(frame.masks[1].to_numpy(), FOLLOWED) for frame in frames[1:])
        assert not transport.cuts
        assert all(0.25 <= each <= 0.7 for each in waited)
        asked = transport.asked.count("POST propagate")
        assert asked >= len(cuts) + (sum(cuts) < len(ORDER))


def test_a_reply_that_stops_coming_goes_on_too(served: Served) -> None:
    transport = Breaking(2, 0, how=httpx.ReadTimeout)
    with Client(served.url, transport=transport) as client, begun(client) as track:
        assert indexes(track.propagate()) == [2, 3, 4, 5]
    transport = Breaking(2, how=httpx.ReadTimeout)
    client = Client(served.url, transport=transport, retries=0)
    with client, begun(client) as track, pytest.raises(sam2_client.TimedOut):
        list(track.propagate())


def test_ranges_go_on_too(served: Served) -> None:
    for asked, order in (
        ({"end": 4}, [2, 3, 4]),
        ({"start": 4, "direction": "backward", "end": 1}, [4, 3, 2, 1]),
    ):
        transport = Breaking(1, 1)
        with Client(served.url, transport=transport) as client, begun(client) as track:
            assert indexes(track.propagate(**asked)) == order  # type: ignore[arg-type]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_connection_that_keeps_breaking_is_given_up(served: Served, retries: int) -> None:
    # The server has noticed each cut before anybody asks again: else it says that the track is busy.
    transport = Breaking(2, *[0] * retries, on_cut=served.trouble.until_idle)
    with Client(served.url, transport=transport, retries=retries) as client, begun(client) as track:
        got = []
        with pytest.raises(sam2_client.ConnectionFailed, match="broken"):
            got += [frame.index for frame in track.propagate()]
        transport.cuts.clear()
        frames = track.propagate()
        assert indexes(frames) == [4, 5]


@pytest.mark.parametrize("lost", ["track", "video", "both"])
def test_what_the_server_loses_in_the_middle_is_made_again(client: Client, served: Served, lost: str) -> None:
    def lose() -> None:
        if lost != "video":
            client.find_track("lost").delete()
        if lost != "track":
            client.video(video_id).delete()

    transport = Breaking(3, on_cut=lose)
    with Client(served.url, transport=transport) as other, begun(other, track_id="lost") as track:
        video_id = track._state.begun.video_id or other.upload_video(CLIP).video_id
        transport.asked.clear()
        frames = list(track.propagate(direction="both"))
        assert indexes(frames) == ORDER
        assert all(frame.error is None for frame in frames)
        assert all(is_about(frame.masks[1].to_numpy(), FOLLOWED) for frame in frames[1:])
        assert transport.asked.count("POST videos") == (lost != "track")
        assert transport.asked.count("POST prompts") == (lost != "video")


def test_a_track_that_is_lost_is_begun_anew_with_its_prompts(client: Client) -> None:
    track = begun(client, track_id="expired")
    track.click([(10, 10)], frame=1, object=2)
    track.click([(50, 30)], frame=1, object=3)
    track.remove(3)
    client.find_track("expired").delete()
    assert list(track.click(MIDDLE, frame=4, object=2).masks) == [1, 2]
    assert track.prompts() == {1: [2], 2: [1, 4]}
    client.find_track("expired").delete()
    assert indexes(track.propagate()) == [1, 2, 3, 4, 5]
    track.delete()
    for ask in (lambda: track.click(MIDDLE), lambda: list(track.propagate()), track.prompts):
        with pytest.raises(sam2_client.TrackNotFound):
            ask()


def test_what_this_client_did_not_begin_it_cannot_make_again(client: Client) -> None:
    begun(client, track_id="elsewhere")
    found = client.find_track("elsewhere")
    video = client.video(client.upload_video(CLIP).video_id)
    client.find_track("elsewhere").delete()
    with pytest.raises(
        sam2_client.TrackNotFound, match=r"It may have expired.* does not have what it was begun from"
    ):
        found.click(MIDDLE)
    video.delete()
    with pytest.raises(sam2_client.VideoNotFound, match=r"POST|video_id"):
        client.track(video)
    with pytest.raises(sam2_client.VideoNotFound):
        video.frame(0)


def test_a_video_that_is_lost_is_uploaded_again(client: Client) -> None:
    video = client.upload_video(CLIP, "clip", fps=5)
    client.video("clip").delete()
    assert video.frame(2).width == video.width
    client.video("clip").delete()
    with client.track(video) as track:
        client.video("clip").delete()
        track.click(MIDDLE)
        client.video("clip").delete()
        assert indexes(track.propagate()) == [0, 1, 2]
        assert client.video("clip").fps == 5
        client.video("clip").delete()
        assert track.picture(1).width == video.width


def test_pictures_that_are_lost_are_embedded_again(client: Client, tmp_path: Path, served: Served) -> None:
    folder = frames_in(tmp_path / "frames")
    with client.track(folder) as track:
        ids = [each.image_id for each in track._state.source.images]  # type: ignore[union-attr]
        client.delete(ids[0])
        track.click([(30, 20)])
        for lost in ids[0], ids[2]:
            client.delete(lost)
        frames = list(track.propagate())
        assert [(frame.index, frame.error) for frame in frames] == [(n, None) for n in range(4)]
        for lost in ids:
            client.delete(lost)
        client.find_track(track.track_id).delete()
        assert indexes(track.propagate(start=0)) == [0, 1, 2, 3]


def test_pictures_of_which_only_ids_are_known_are_errors_of_their_frames(
    client: Client, tmp_path: Path
) -> None:
    folder = frames_in(tmp_path / "frames")
    ids = [client.embed(folder / f"{number}.png").image_id for number in range(8, 12)]
    with client.track(image_ids=ids) as track:
        track.click([(30, 20)])
        client.delete(ids[2])
        frames = list(track.propagate())
        assert [type(frame.error) for frame in frames] == [
            type(None),
            type(None),
            sam2_client.ImageNotFound,
            type(None),
        ]
        client.delete(ids[0])
        with pytest.raises(sam2_client.ImageNotFound):
            track.click([(20, 20)])


def test_one_request_for_all_cannot_go_on(served: Served) -> None:
    prompts = [sam2_client.TrackPrompt(points=MIDDLE)]
    with Client(served.url, transport=Breaking(2)) as client:
        frames = client.propagate(CLIP, prompts)
        assert [next(frames).index, next(frames).index] == [0, 1]
        with pytest.raises(sam2_client.ConnectionFailed):
            next(frames)


def test_an_error_in_the_last_line_is_raised_or_waited_for(client: Client, served: Served) -> None:
    lines = {"Content-Type": "application/x-ndjson"}

    def ends_with(code: str) -> tuple[int, dict[str, str], bytes]:
        return 200, lines, json.dumps({"error": {"code": code, "message": "So."}}).encode() + b"\n"

    with begun(client) as track:
        served.trouble.replies += [busy_track(track), ends_with("overloaded")]
        assert indexes(track.propagate()) == [2, 3, 4, 5]
        served.trouble.replies += [busy_track(track), ends_with("inference_failed")]
        with pytest.raises(sam2_client.InferenceFailed, match="So"):
            list(track.propagate())


def busy_track(track: Track) -> tuple[int, dict[str, str], bytes]:
    """The description of a track, as the client asks for it before a propagation."""
    body = {
        "track_id": track.track_id,
        "frames": 6,
        "width": 64,
        "height": 48,
        "model": "fake",
        "tracker": "memory",
        "objects": [{"object": 1, "prompts": {"2": []}}],
    }
    return 200, {}, json.dumps(body).encode()


FRAME = {"frame": 2, "objects": []}
MASK = {"rle": {"size": [48, 64], "counts": "0"}, "iou": 1, "stability": 1, "area": 0, "bbox": [0] * 4}


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense\n",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b'{"other": 1}\n',
        b'{"done": true}\n',
        b'{"frame": "2", "objects": []}\n',
        b'{"frame": -1, "objects": []}\n',
        b'{"frame": 3, "objects": []}\n',
        b'{"frame": 2}\n',
        json.dumps(FRAME).encode() + b"\n" + json.dumps(FRAME).encode() + b"\n",
        json.dumps(FRAME | {"objects": [{"object": 1}]}).encode() + b"\n",
        json.dumps(FRAME | {"objects": [{"object": 1, "score": 1, "visible": 1, "masks": [MASK]}]}).encode()
        + b"\n",
        json.dumps(FRAME | {"error": "so"}).encode() + b"\n",
        b"x" * 5000,
    ],
    ids=lambda body: body[:40].decode(),
)
def test_lines_that_are_none_of_the_service(
    client: Client, served: Served, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_lines, "MOST_LINE_BYTES", 4000)
    with begun(client) as track:
        for media_type in ("application/x-ndjson", "application/json"):
            served.trouble.replies += [busy_track(track), (200, {"Content-Type": media_type}, body)]
            with pytest.raises(Sam2Error) as caught:
                list(track.propagate())
            assert isinstance(caught.value, sam2_client.UnexpectedReply)
        squeezed = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        served.trouble.replies += [busy_track(track), (200, squeezed, body)]
        with pytest.raises(sam2_client.UnexpectedReply, match="compressed"):
            list(track.propagate())


@pytest.mark.parametrize(
    "change",
    [{"frames": 0}, {"frames": 10**9}, {"width": 10**6}, {"track_id": None, "tracker": []}, {"objects": 5}],
)
def test_tracks_and_videos_that_are_none(client: Client, served: Served, change: dict[str, Any]) -> None:
    with begun(client) as track:
        body = json.loads(busy_track(track)[2]) | change
        if change.keys() != {"track_id", "tracker"}:
            served.trouble.replies.append((200, {}, json.dumps(body).encode()))
            with pytest.raises(sam2_client.UnexpectedReply):
                list(track.propagate())
        video = {"video_id": "a", "frames": 6, "width": 64, "height": 48, "fps": 1, "times": [0] * 5} | change
        served.trouble.replies.append((200, {}, json.dumps(video).encode()))
        with pytest.raises(sam2_client.UnexpectedReply):
            client.video("a")
        served.trouble.replies.append((200, {}, b"[]"))
        with pytest.raises(sam2_client.UnexpectedReply):
            track.clear(frame=0)
        for body in (b"[]", b"{nonsense", b'{"frame": 0}'):
            served.trouble.replies.append((200, {}, body))
            with pytest.raises(sam2_client.UnexpectedReply):
                track.click(MIDDLE)
