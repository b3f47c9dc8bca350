"""What Client does when the reply to a prompt or to the beginning of a track is lost."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from client_server import Served
from track_files import CLIP, MIDDLE, begun, frames_in

import sam2_client
from sam2_client import Client
from tests.small_videos import clip

pytestmark = pytest.mark.usefixtures("waited")


class Deaf(httpx.BaseTransport):
    """Loses the reply to the first POST to `path` that succeeds after `listens` is False.

    Without a `failure` it is a proxy that loses it.
    """

    def __init__(
        self, path: str = "prompts", failure: type[httpx.RequestError] | None = httpx.ReadError
    ) -> None:
        self.real, self.listens = httpx.HTTPTransport(), True
        self.path, self.failure = path, failure

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.real.handle_request(request)
        is_it = request.method == "POST" and request.url.path.endswith(self.path) and response.is_success
        if is_it and not self.listens:
            self.listens = True
            response.read()
            if self.failure is None:
                return httpx.Response(502, html="<h1>502 Bad Gateway</h1>")
            raise self.failure("lost", request=request)
        return response

    def close(self) -> None:
        self.real.close()


class Losing(httpx.BaseTransport):
    """Loses the reply to the first POST /tracks, whatever it is."""

    def __init__(self, failure: type[httpx.RequestError]) -> None:
        self.real, self.failure, self.lost = httpx.HTTPTransport(), failure, False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.real.handle_request(request)
        if request.url.path == "/tracks" and not self.lost:
            self.lost = True
            response.read()
            raise self.failure("lost", request=request)
        return response

    def close(self) -> None:
        self.real.close()


@pytest.mark.parametrize("failure", [httpx.ReadError, None])
@pytest.mark.parametrize(
    "then",
    [{"points": [(40, 20)]}, {"box": (10, 10, 30, 30), "clear": True}, {"points": [(40, 20)], "clear": True}],
)
def test_a_click_whose_reply_is_lost_does_not_count_twice(
    served: Served, then: dict[str, Any], failure: type[httpx.RequestError] | None
) -> None:
    transport, clicks = Deaf(failure=failure), []
    with Client(served.url, transport=transport) as client:
        for listens in (True, False):
            with client.track(CLIP) as track:
                track.click(box=(5, 5, 40, 40))
                track.click([(20, 20)], [0])
                transport.listens = listens
                track.click(**then)
                prompt = httpx.get(f"{served.url}/tracks/{track.track_id}", trust_env=False).json()[
                    "objects"
                ][0]
                shown = track.click([(1, 1)], [0]).masks[1].to_numpy()
                clicks.append((prompt["prompts"]["0"][-1], shown))
    (once, mask), (twice, same) = clicks
    assert np.array_equal(mask, same)
    if not then.get("clear"):
        assert twice == {
            "point_coords": [[20, 20], [40, 20]],
            "point_labels": [0, 1],
            "box": [5, 5, 40, 40],
            "has_mask": False,
            "clear": True,
        }
    else:
        assert once == twice


def test_a_click_is_not_given_twice_when_a_track_is_made_again_either(served: Served) -> None:
    transport = Deaf()
    with Client(served.url, transport=transport) as client, client.track(CLIP, track_id="again") as track:
        track.click([(20, 20)])
        track.click([(40, 20)], [0])
        client.find_track("again").delete()
        transport.listens = False
        track.click([(10, 40)], frame=1)
        told = httpx.get(f"{served.url}/tracks/again", trust_env=False).json()["objects"][0]["prompts"]["0"]
        given = [(each["point_coords"], each["clear"]) for each in told]
        assert given == [([[20, 20]], True), ([[40, 20]], False)]


def test_a_click_on_a_track_of_others_whose_reply_is_lost_keeps_theirs(
    served: Served, client: Client
) -> None:
    transport = Deaf()
    with Client(served.url, transport=transport) as other, client.track(CLIP, track_id="shared") as track:
        track.click([(20, 20)])
        found = other.find_track("shared")
        transport.listens = False
        found.click([(40, 20)], [0])
        told = httpx.get(f"{served.url}/tracks/shared", trust_env=False).json()["objects"][0]["prompts"]["0"]
        assert told[-1]["point_coords"] == [[20, 20], [40, 20]]


def test_a_track_whose_reply_is_lost_is_its_own(served: Served, client: Client, tmp_path: Path) -> None:
    for frames, failure in ((CLIP, httpx.ReadError), (frames_in(tmp_path / "frames"), None)):
        transport = Deaf("tracks", failure)
        transport.listens = False
        with Client(served.url, transport=transport) as other, other.track(frames, track_id="mine") as track:
            assert transport.listens
            assert track.track_id == "mine"
            track.click(MIDDLE)
            with pytest.raises(sam2_client.TrackIdConflict):
                client.track(frames, track_id="mine")


def test_a_track_of_others_is_not_taken_for_its_own(served: Served, client: Client) -> None:
    with begun(client, track_id="theirs"):  # it has a prompt
        for failure in (httpx.ReadError, httpx.ConnectError):
            transport = Losing(failure)
            with Client(served.url, transport=transport) as other, pytest.raises(sam2_client.TrackIdConflict):
                other.track(CLIP, track_id="theirs")
            assert transport.lost
    client.track(clip(frames=3), track_id="theirs")
    with Client(served.url, transport=Losing(httpx.ReadError)) as other:
        with pytest.raises(sam2_client.TrackIdConflict):
            other.track(CLIP, track_id="theirs")
        client.find_track("theirs").delete()
