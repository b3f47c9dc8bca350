"""Videos on the page: dropped, scrubbed, clicked on, tracked, corrected, stopped, undone, forgotten."""

import json
import threading
from functools import partial
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route

from tests.fakes import RADII, disc_mask, picture
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH, Visitor
from tests.page.watcher import Watcher
from tests.small_videos import clip

FRAMES = 6
DISC = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
OTHER = disc_mask(420, 300, RADII[2], height=HEIGHT, width=WIDTH)
HELD = disc_mask(200, 150, RADII[1], height=HEIGHT, width=WIDTH)
"""What the fake makes of a disc on the next frame."""
NOTHING = DISC & False


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return clip(frames=FRAMES, size=(WIDTH, HEIGHT))


@pytest.fixture
def watcher(visitor: Visitor, mp4: bytes) -> Watcher:
    """A visitor whose video is ready for clicks."""
    watcher = Watcher(visitor)
    watcher.open(mp4)
    return watcher


def tracks_of(server: PageServer) -> list[dict[str, Any]]:
    return list(httpx.get(f"{server.url}tracks", trust_env=False).json()["tracks"])


def points_of(server: PageServer) -> dict[int, dict[str, list[list[float]]]]:
    """Return the clicks of each object by frame, as the server has them; none where it has no track."""
    tracks = tracks_of(server)
    if not tracks:
        return {}
    (track,) = tracks
    return {
        each["object"]: {frame: prompts[-1]["point_coords"] for frame, prompts in each["prompts"].items()}
        for each in track["objects"]
    }


def test_its_part_of_the_page_is_loaded_when_a_video_comes(visitor: Visitor, mp4: bytes) -> None:
    visitor.add(("cat.png", picture(WIDTH, HEIGHT)))
    late = ("/page/video/", "/client/tracks.js", "/client/videos.js")
    assert [url for url in visitor.requests if any(each in url for each in late)] == []
    watcher = Watcher(visitor)
    watcher.open(mp4)
    assert {each for each in late if any(each in url for url in visitor.requests)} == {late[0], late[2]}
    assert visitor.find("[data-save=polygons]").is_hidden()
    visitor.find("[aria-label^='cat.png']").click()
    visitor.until(watcher.timeline.is_hidden)
    assert visitor.find("[data-save=polygons]").is_visible()


def test_frames_are_reached_by_keys_slider_and_number_and_played(watcher: Watcher) -> None:
    visitor = watcher.visitor
    shades = []
    for key, frame in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 5),
        ("Home", 0),
        ("Shift+ArrowRight", 5),
    ):
        visitor.press(key)
        watcher.until_at(frame)
        shades.append(shade(visitor))
    assert all(
        abs(found - (20 + 10 * frame)) <= 3 for found, frame in zip(shades, (1, 2, 1, 5, 0, 5), strict=True)
    )
    visitor.find("[aria-label='Frame number']").fill("3")
    visitor.press("Enter")
    watcher.until_at(2)
    visitor.find("[aria-label='Frame number']").fill("5.8")  # there is no frame 4.8
    visitor.press("Enter")
    watcher.until_at(5)
    visitor.find("#timeline input[type=range]").fill("4")
    watcher.until_at(4)
    visitor.press("Home")
    watcher.until_at(0)
    visitor.find("#stage").focus()
    visitor.press("Enter", "ArrowRight")  # moves the cross
    assert watcher.frame == 0
    visitor.press("Escape", "ArrowRight")
    watcher.until_at(1)
    visitor.press("Home")
    watcher.until_at(0)
    visitor.press(" ")
    visitor.until(watcher.button("Pause").is_visible)
    watcher.until_at(FRAMES - 1)
    visitor.until(watcher.button("Play").is_visible)


def shade(visitor: Visitor) -> int:
    """The grey of the frame that is shown, at its lower right."""
    x, y = visitor.place(WIDTH - 20, HEIGHT - 20)
    stage = visitor.find("#stage").bounding_box()
    assert stage is not None
    script = (
        "([x, y]) => document.getElementById('picture').getContext('2d').getImageData(x, y, 1, 1).data[0]"
    )
    return int(visitor.page.evaluate(script, [x - stage["x"], y - stage["y"]]))


def test_a_click_is_tracked_and_corrected_with_several_objects(watcher: Watcher, server: PageServer) -> None:
    visitor = watcher.visitor
    visitor.press("ArrowRight")
    watcher.until_at(1)
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    watcher.track()
    watcher.until_at(FRAMES - 1)
    visitor.until_seen(HELD)
    visitor.press("Home")
    watcher.until_at(0)
    visitor.until_seen(NOTHING)
    watcher.track("Track back")
    visitor.until_seen(HELD)
    visitor.press("a")
    visitor.press("ArrowRight", "ArrowRight", "ArrowRight")
    watcher.until_at(3)
    visitor.click(420, 300)
    visitor.until_seen(HELD | OTHER)
    assert watcher.keyframes() == ["object 1: prompts on frame 2", "object 2: prompts on frame 4"]
    visitor.click(300, 300, button="right")
    visitor.until(lambda: points_of(server).get(2) == {"3": [[420, 300], [300, 300]]})
    watcher.track("Track all")
    visitor.press(",")
    visitor.press("Home")
    watcher.until_at(0)
    visitor.until(lambda: visitor.colour(200, 152) != visitor.colour(424, 304) != (0, 0, 0))
    visitor.press(".")
    watcher.until_at(1)
    assert points_of(server) == {1: {"1": [[200, 150]]}, 2: {"3": [[420, 300], [300, 300]]}}


def test_a_propagation_is_stopped_and_goes_on(
    watcher: Watcher, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = watcher.visitor
    permits, decode = threading.Semaphore(3), server.segmenter.decode  # of the click, and of frames 1 and 2

    def permitted(jobs: Any) -> Any:
        permits.acquire()
        return decode(jobs)

    monkeypatch.setattr(server.segmenter, "decode", permitted)
    asked: list[int] = []
    visitor.page.on(
        "request",
        lambda sent: asked.append(sent.post_data_json["from"]) if sent.url.endswith("/propagate") else None,
    )
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    watcher.button("Track forward").click()
    stop = watcher.button("Stop")
    stop.wait_for()
    visitor.until(lambda: stop.evaluate("(button) => button === document.activeElement"))
    watcher.until_at(2)
    visitor.press("Escape")
    watcher.until_tracked()
    permits.release(100)
    assert visitor.alert() == ""
    watcher.track()
    watcher.until_at(FRAMES - 1)
    visitor.until_seen(HELD)
    assert asked == [0, 3]
    assert visitor.alert() == ""


def test_a_click_while_tracking_goes_first(watcher: Watcher, server: PageServer) -> None:
    visitor = watcher.visitor
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    server.segmenter.gate.clear()
    watcher.button("Track forward").click()
    watcher.button("Stop").wait_for()
    visitor.press("n")
    visitor.click(420, 300)
    server.segmenter.gate.set()
    watcher.until_tracked()
    visitor.until(lambda: len(points_of(server)) == 2)
    assert visitor.alert() == ""


def test_undo_and_redo_change_the_track_on_the_server(watcher: Watcher, server: PageServer) -> None:
    visitor = watcher.visitor
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    watcher.track()
    visitor.press("End")
    watcher.until_at(FRAMES - 1)
    visitor.click(420, 300)
    visitor.until(lambda: points_of(server)[1].get("5") == [[420, 300]])
    visitor.press("z")
    visitor.until(lambda: points_of(server) == {1: {"0": [[200, 150]]}})
    visitor.until_seen(HELD)
    visitor.find("[aria-label='Delete object 1']").click()
    visitor.until(lambda: points_of(server) == {})
    visitor.until_seen(NOTHING)
    visitor.press("z")
    visitor.until(lambda: points_of(server) == {1: {"0": [[200, 150]]}})
    visitor.until_seen(HELD)
    visitor.press("z")
    watcher.until_at(0)
    visitor.until_seen(NOTHING)
    visitor.press("y")
    visitor.until_seen(DISC)
    watcher.button("Take the selected object's prompts on this frame back").click()
    visitor.until(lambda: points_of(server) == {})
    assert visitor.find("#objects li").count() == 0


def test_what_the_server_forgets_it_gets_again(watcher: Watcher, server: PageServer) -> None:
    visitor = watcher.visitor
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    (track,) = tracks_of(server)
    httpx.delete(f"{server.url}tracks/{track['track_id']}", trust_env=False)
    httpx.delete(f"{server.url}videos/{track['video_id']}", trust_env=False)
    watcher.track()
    watcher.until_at(FRAMES - 1)
    visitor.until_seen(HELD)
    (track,) = tracks_of(server)
    httpx.delete(f"{server.url}tracks/{track['track_id']}", trust_env=False)
    visitor.click(420, 300)
    visitor.until(lambda: points_of(server) == {1: {"0": [[200, 150]], "5": [[420, 300]]}})
    assert visitor.alert() == ""


def test_a_track_that_is_pushed_out_again_and_again_is_said_and_goes_on_when_told_to(
    watcher: Watcher, server: PageServer
) -> None:
    """As by another window, where the server holds one track."""
    visitor = watcher.visitor

    def has(clicks: int) -> bool:
        return bool(tracks_of(server)) and len(points_of(server).get(1, {}).get("0", ())) == clicks

    for clicks, place in enumerate(((200, 150), (420, 300), (100, 90)), start=1):
        visitor.click(*place)
        visitor.until(partial(has, clicks))
        (track,) = tracks_of(server)
        httpx.delete(f"{server.url}tracks/{track['track_id']}", trust_env=False)
    visitor.click(300, 200)
    visitor.until(lambda: "another window or program takes its place" in visitor.alert())
    assert tracks_of(server) == []
    visitor.find("button.open").click()
    visitor.until(partial(has, 4))


def test_work_is_there_after_a_reload(watcher: Watcher) -> None:
    visitor = watcher.visitor
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    watcher.track()
    watcher.until_at(FRAMES - 1)
    visitor.until(lambda: '"frame":5' in visitor.stored())
    visitor.page.reload()
    watcher.until_ready()
    watcher.until_at(FRAMES - 1)
    visitor.until_seen(HELD)
    visitor.press("Home")
    watcher.until_at(0)
    visitor.click(420, 300)
    watcher.track()
    assert visitor.alert() == ""


@pytest.mark.parametrize("forgotten", [False, True])
def test_after_a_cut_tracking_goes_on_or_begins_anew_if_the_frames_before_are_forgotten(
    watcher: Watcher, forgotten: bool
) -> None:
    visitor = watcher.visitor
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    visitor.press("End")
    watcher.until_at(FRAMES - 1)
    visitor.click(200, 150)
    visitor.until_seen(DISC)
    asked: list[dict[str, Any]] = []

    def cut(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or ""))
        if len(asked) > 1:
            route.continue_()
            return
        lines = route.fetch().text().splitlines(keepends=True)
        route.fulfill(body="".join(lines[:2]), content_type="application/x-ndjson")

    visitor.page.route("**/propagate", cut)
    if forgotten:
        known = {"done": [], "next": {"forward": None, "backward": None}}
        visitor.page.route("**/tracks/*", lambda route: route.fulfill(json=known))
    watcher.track("Track back")
    assert [each["from"] for each in asked] == [FRAMES - 1, FRAMES - 1 if forgotten else FRAMES - 3]
    assert {each["direction"] for each in asked} == {"backward"}
    assert visitor.alert() == ""
    watcher.until_at(0)
    for frame in range(1, FRAMES - 1):
        visitor.press("ArrowRight")
        watcher.until_at(frame)
        visitor.until_seen(HELD)
