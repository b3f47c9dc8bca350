"""Videos and tracks of the JavaScript client: upload, frames, prompts, propagations that go on, errors."""

import base64
import json
import threading
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route

from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH
from tests.page.web_tools import WebTool
from tests.small_videos import clip

FRAMES = 5
BEGIN = """const bytes = Uint8Array.from(atob(given[0]), (c) => c.charCodeAt(0));
  const video = await client.video(new Blob([bytes], { type: "video/mp4" }));
  const track = await client.track(video);
  const first = await track.click([200, 150], { frame: 1 });
"""


@pytest.fixture(scope="module")
def mp4() -> str:
    return base64.b64encode(clip(frames=FRAMES, size=(WIDTH, HEIGHT))).decode()


def test_a_video_has_frames_and_options(tool: WebTool, mp4: str) -> None:
    reply = tool.run(
        """const shares = [], bytes = Uint8Array.from(atob(given[0]), (c) => c.charCodeAt(0));
        const onProgress = (share) => shares.push(share);
        const wishes = { videoId: "few", replace: true, startS: 0.1, maxFrames: 2, onProgress };
        const video = await client.video(new Blob([bytes]), wishes);
        const { type } = await video.frame(1), png = await video.frame(1, { type: "image/png" });
        const { width } = await createImageBitmap(png), again = await client.openVideo("few");
        await video.delete();
        const gone = await caught(client.openVideo("few"));
        return [video.frames, video.times, type, png.type, width, again.frames, shares.at(-1), gone.code];""",
        mp4,
    )
    assert reply == [2, [0.1, 0.2], "image/jpeg", "image/png", WIDTH, 2, 1, "video_not_found"]


def test_what_is_no_video_is_said_in_words(tool: WebTool) -> None:
    """A picture was answered with advice on curl, and null with what it lacks."""
    refused, none = tool.run("return [await caught(client.video(file)), await caught(client.video(null))];")
    assert (refused["status"], refused["code"]) == (422, "invalid_video")
    assert refused["message"].startswith("The body looks like a picture: POST it to /embed.")
    assert (none["name"], none["message"]) == ("TypeError", "A video is a File or a Blob.")


def test_objects_are_followed_both_ways_and_taken_back(tool: WebTool, mp4: str) -> None:
    reply = tool.run(
        f"""{BEGIN}
        const {{ object, mask, visible }} = first.objects[0], frames = [];
        await track.prompt({{ box: [10, 10, 90, 90] }}, {{ frame: 1, object: 2 }});
        for await (const {{ frame, objects }} of track.propagate({{ direction: "both" }}))
          frames.push([frame, objects.length]);
        await track.removeObject(2);
        const dropped = await track.clearPrompts({{ frame: 1 }});
        const {{ objects }} = await (await client.openTrack(track.trackId)).describe();
        await track.delete();
        const gone = await caught(track.click([1, 1], {{ frame: 0 }}));
        return [object, mask.area > 0, visible, frames, dropped, objects, gone.code,
          track.tracker, track.frames];""",
        mp4,
    )
    assert reply[:4] == [1, True, True, [[1, 2], [2, 2], [3, 2], [4, 2], [0, 2]]]
    assert "Object 1 is dropped" in reply[4]
    assert reply[5:] == [[], "track_not_found", "mask_prompt", FRAMES]


def test_a_propagation_that_is_left_goes_on_and_other_calls_wait_for_its_end(
    tool: WebTool, tool_server: PageServer, mp4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits, decode = threading.Semaphore(2), tool_server.segmenter.decode

    def permitted(jobs: Any) -> Any:
        permits.acquire()
        return decode(jobs)

    monkeypatch.setattr(tool_server.segmenter, "decode", permitted)
    begun = f"""{BEGIN}
        window.track = track;
        const frames = [];
        for await (const {{ frame }} of track.propagate()) if (frames.push(frame) === 2) break;
        return frames;"""
    assert tool.run(begun, mp4) == [1, 2]
    going_on = """window.rest = (async () => {
          const frames = [];
          for await (const { frame } of track.propagate()) frames.push(frame);
          return frames;
        })();"""
    tool.run(going_on)
    permits.release(100)
    assert tool.run("return window.rest;") in ([3, 4], [4])
    aborted = """const abort = new AbortController(), { signal } = abort;
        const all = async () => {
          for await (const _ of track.propagate({ from: 1, signal })) abort.abort(new RangeError("enough"));
        };
        return [(await caught(all())).message, (await track.click([210, 150], { frame: 2 })).frame];"""
    assert tool.run(aborted) in (["enough", 2], [None, 2])


def test_pictures_are_frames_and_one_that_is_gone_is_an_error_of_its_frame(
    tool: WebTool, tool_server: PageServer
) -> None:
    tool.run(
        """const names = ["a", "b", "c"];
        const pictures = await Promise.all(names.map((imageId) => client.embed(file, { imageId })));
        window.track = await client.track([pictures[0], "b", "c"]);
        await track.click([200, 150], { frame: 0 });"""
    )
    httpx.delete(f"{tool_server.url}images/b", trust_env=False)
    frames = tool.run(
        """const frames = [];
        for await (const { frame, objects, error } of track.propagate())
          frames.push([frame, objects.length, error ? [error.name, error.status, error.code] : null]);
        return frames;"""
    )
    assert frames == [[0, 1, None], [1, 0, ["ApiError", 404, "image_not_found"]], [2, 1, None]]


def test_the_end_of_a_propagation_is_told_from_a_cut(tool: WebTool, mp4: str) -> None:
    replies = iter(
        [
            '{"frame": 1, "objects": []}\n',
            '{"error": {"code": "overloaded", "message": "Too much."}}\n',
            "<html>A page of a proxy</html>",
        ]
    )

    def answer(route: Route) -> None:
        body = next(replies)
        kind = "text/html" if body.startswith("<") else "application/x-ndjson"
        route.fulfill(body=body, content_type=kind)

    tool.page.route("**/propagate", answer)
    cut, failed, foreign = tool.run(
        f"""{BEGIN}
        const all = async () => {{ for await (const _ of track.propagate()); }};
        return [await caught(all()), await caught(all()), await caught(all())];""",
        mp4,
    )
    assert (cut["status"], cut["code"]) == (0, "connection_failed")
    assert (failed["status"], failed["code"], failed["message"]) == (503, "overloaded", "Too much.")
    assert foreign["code"] == "unexpected_reply"


def test_a_propagation_that_falls_silent_ends_and_goes_on_where_it_was(
    tool: WebTool, tool_server: PageServer, mp4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits, decode = threading.Semaphore(2), tool_server.segmenter.decode

    def permitted(jobs: Any) -> Any:
        permits.acquire()
        return decode(jobs)

    monkeypatch.setattr(tool_server.segmenter, "decode", permitted)
    try:
        code, message, frames = tool.run(
            f"""{BEGIN}
            window.track = track;
            const frames = [];
            const follow = async () => {{
              for await (const {{ frame }} of track.propagate({{ deadlineS: 1 }})) {{
                frames.push(frame);
                if (frame === 2) await new Promise((resolve) => setTimeout(resolve, 1200));
              }}
            }};
            const {{ code, message }} = await caught(follow());
            return [code, message, frames];""",
            mp4,
        )
    finally:
        permits.release(FRAMES)
    assert (code, frames) == ("timed_out", [1, 2])
    assert "no frame within 1 s" in message
    rest = tool.run(
        """const frames = [];
        for await (const { frame } of track.propagate()) frames.push(frame);
        return frames;"""
    )
    assert rest[-1] == FRAMES - 1


@pytest.mark.parametrize(("status", "code"), [(0, "connection_failed"), (502, "unexpected_reply")])
def test_a_click_whose_reply_was_lost_is_not_sent_twice(
    tool: WebTool, mp4: str, status: int, code: str
) -> None:
    bodies: list[dict[str, object]] = []

    def lose(route: Route) -> None:
        bodies.append(json.loads(route.request.post_data or ""))
        if status:
            route.fulfill(status=status, body="<h1>Bad gateway</h1>", content_type="text/html")
        else:
            route.abort()

    tool.run(f"{BEGIN} window.track = track;", mp4)
    tool.page.route("**/prompts", lose)
    script = "return (await caught(track.click([9, 9], { frame: 0, clear: given[0], deadlineS: 2 }))).code;"
    assert tool.run(script, False) == code
    assert len(bodies) == 1
    tool.run(script, True)
    assert len(bodies) > 2, "replacing is the same twice"


def test_a_track_whose_reply_was_lost_is_its_own(tool: WebTool, mp4: str) -> None:
    lost: list[str] = []

    def lose(route: Route) -> None:
        if lost or route.request.method != "POST":
            route.continue_()
            return
        lost.append(route.fetch().text())
        route.abort()

    tool.page.route("**/tracks", lose)
    again, conflict, retried = tool.run(
        """const bytes = Uint8Array.from(atob(given[0]), (c) => c.charCodeAt(0)), retried = [];
        const video = await client.video(new Blob([bytes], { type: "video/mp4" }));
        const onRetry = ({ code }) => retried.push(code);
        const track = await client.track(video, { trackId: "mine", onRetry });
        await track.click([200, 150], { frame: 1 });
        return [track.trackId, (await caught(client.track(video, { trackId: "mine" }))).code, retried];""",
        mp4,
    )
    assert len(lost) == 1
    assert (again, conflict, retried) == ("mine", "track_id_conflict", ["connection_failed"])
