"""Tracks and videos on a real Ray: two Devices and a Front, started by the command.

One cluster for all tests, in their order: the last one kills. Needs the extra `cluster` (make test-cluster).
"""

import io
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from tests.app.cluster.running_cluster import CLICK, Cluster, listed, wait_until
from tests.fakes import picture
from tests.small_videos import FRAMES, HEIGHT, WIDTH, box, clip

pytest.importorskip("ray", reason="the extra cluster is not installed; make test-cluster does")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def _pictures(cluster: Cluster) -> None:
    """Embed p0 to p15, some on each Device."""
    with cluster.client() as client:
        wait_until(lambda: listed(client) == 2)
        for i in range(16):
            query, kind = {"image_id": f"p{i}"}, {"Content-Type": "image/png"}
            reply = client.post("/embed", params=query, content=picture(shade=i), headers=kind)
            assert reply.status_code == 200, reply.text


def begin_track(client: httpx.Client, frames: int) -> str:
    """Begin a track of pictures that are there, with a click on the first. Return its path."""
    body = {"frames": [f"p{i % 16}" for i in range(frames)]}
    track = client.post("/tracks", json=body).json()["track_id"]
    reply = client.post(f"/tracks/{track}/prompts", json=CLICK | {"frame": 0, "object": 1})
    assert reply.status_code == 200, reply.text
    return f"/tracks/{track}"


def test_tracks_are_followed_over_the_pictures_of_all_devices(cluster: Cluster) -> None:
    encodes = cluster.encodes()
    with cluster.client() as client:
        tracks = [begin_track(client, 16) for _ in range(6)]
        for track in tracks:
            found = [
                json.loads(line) for line in client.post(f"{track}/propagate", json={}).text.splitlines()
            ]
            assert [each.get("frame") for each in found] == [*range(16), None]
            assert found[-1] == {"done": True}
            assert client.get(track).json()["done"] == [[0, 15]]
        listed = client.get("/tracks").json()["tracks"]
        assert [each["done"] for each in listed] == [[[0, 15]]] * 6
        text = client.get("/metrics").text
        held = re.findall(r'sam2_track_bytes{device="\w+"} (\S+)', text)
        assert len(held) == 2
        assert all(map(float, held))
        for track in tracks:
            assert client.delete(track).status_code == 204
        assert client.get(tracks[0]).json()["error"]["code"] == "track_not_found"
    assert cluster.encodes() == encodes


def settled(read: Callable[[], int]) -> int:
    """Return a number once it changes no more."""
    before = -1
    while before != (now := read()):
        before = now
        time.sleep(0.5)
    return now


def test_who_leaves_a_propagation_stops_it_and_goes_on_later(cluster: Cluster) -> None:
    (cluster.folder / "slow").write_text("0.05")
    with cluster.client() as client:
        track = begin_track(client, 200)
        with client.stream("POST", f"{track}/propagate", json={}) as reply:
            lines = reply.iter_lines()
            assert [json.loads(next(lines))["frame"] for _ in range(3)] == [0, 1, 2]
        went_on_at = settled(lambda: client.get(track).json()["next"]["forward"])
        assert 2 < went_on_at < 100
        (cluster.folder / "slow").unlink()
        with client.stream("POST", f"{track}/propagate", json={}) as reply:
            assert json.loads(next(reply.iter_lines()))["frame"] == went_on_at
        client.delete(track)


def test_a_device_does_not_run_far_ahead_of_a_client_that_does_not_read(cluster: Cluster) -> None:
    with cluster.client() as client, cluster.client() as sleeper:
        track = begin_track(client, 3000)
        wanted = {"mask_format": "rle_uncompressed", "return_logits": True}
        with sleeper.stream("POST", f"{track}/propagate", json=wanted) as reply:
            lines = reply.iter_lines()  # held, because its end closes the connection
            next(lines)
            done = settled(lambda: client.get(track).json()["done"][-1][1])
            logging.getLogger(__name__).info("The device was %d frames ahead", done)
            assert 0 < done < 2999
        one = {"from": 0, "to": 0}
        wait_until(
            lambda: client.post(f"{track}/propagate", json=one).status_code == 200, 10
        )  # else it is busy
        client.delete(track)


def test_a_video_of_many_parts_is_stored_and_shown_by_any_device(cluster: Cluster) -> None:
    video = clip() + box(b"free", bytes(20 * 2**20))
    with cluster.client() as client:
        headers = {"Content-Type": "video/mp4"}
        reply = client.post("/videos", params={"video_id": "clip"}, content=video, headers=headers)
        assert (reply.status_code, reply.json()["frames"]) == (200, FRAMES)
        picture = client.get("/videos/clip/frames/5").content
        assert Image.open(io.BytesIO(picture)).size == (WIDTH, HEIGHT)
        assert [each["bytes"] for each in client.get("/videos").json()["videos"]] == [len(video)]
        cut_off = client.post("/videos", params={"video_id": "x"}, content=video[:-9], headers=headers)
        assert cut_off.json()["error"]["code"] == "invalid_video"
        assert client.delete("/videos/clip").status_code == 204


def test_kill_9_of_the_device_that_follows_a_track_costs_no_frame(cluster: Cluster) -> None:
    encodes = cluster.encodes()
    (cluster.folder / "slow").write_text("0.05")
    with cluster.client() as client:
        wait_until(lambda: listed(client) == 2)
        track = begin_track(client, 40)
        followed = re.search(r'sam2_track_bytes{device="(\w+)"} [1-9]', client.get("/metrics").text)
        assert followed is not None
        pids = {each["id"]: each["pid"] for each in client.get("/cluster").json()["devices"]}
        with client.stream("POST", f"{track}/propagate", json={}) as reply:
            lines = reply.iter_lines()
            found = [json.loads(next(lines)) for _ in range(5)]
            os.kill(pids[followed[1]], signal.SIGKILL)
            found += [json.loads(line) for line in lines]
        assert [each.get("frame") for each in found] == [*range(40), None], found[-1]
        assert found[-1] == {"done": True}
        said = client.get(track).json()
        assert [len(each["prompts"]["0"]) for each in said["objects"]] == [1]
        client.delete(track)
    (cluster.folder / "slow").unlink()
    assert cluster.encodes() == encodes
