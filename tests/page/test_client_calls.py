"""Calls of the JavaScript client: embed and click, retries, keys, aborts, errors."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Route
from pycocotools import mask as coco_mask

from app.errors import ServiceError
from app.names_errors import NamesUnreachable
from app.track_errors import TrackBusy
from tests.fakes import RADII, disc_mask
from tests.page.conftest import PageServer
from tests.page.visitor import HEIGHT, WIDTH
from tests.page.web_tools import WebTool

DISC = disc_mask(200, 150, RADII[2], height=HEIGHT, width=WIDTH)
CLICK = "const picture = await client.embed(file); const masks = await picture.click([200, 150]);"


def failing(times: int, status: int, code: str, **headers: str) -> Callable[[Route], None]:
    """Return a handler that refuses so many requests and lets later ones through."""
    left = [times]

    def handle(route: Route) -> None:
        if left[0] == 0:
            return route.fallback()
        left[0] -= 1
        body = json.dumps({"error": {"code": code, "message": f"Made up: {code}."}})
        return route.fulfill(status=status, body=body, content_type="application/json", headers=headers)

    return handle


def test_embed_and_click(tool: WebTool) -> None:
    reply = tool.run(
        f"""{CLICK}
        const [best] = masks;
        return {{ count: masks.length, size: [picture.width, picture.height], rle: best.rle, iou: best.iou,
          area: best.area, logits: typeof best.logits }};"""
    )
    assert reply["count"] == 3
    assert reply["size"] == [WIDTH, HEIGHT]
    assert np.array_equal(coco_mask.decode(reply["rle"]), DISC)
    assert (reply["area"], reply["iou"], reply["logits"]) == (DISC.sum(), 1, "string")


def test_an_error_in_a_line_has_the_status_of_its_code(tool: WebTool) -> None:
    def below(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
        for child in error.__subclasses__():
            yield child
            yield from below(child)

    elsewhere = {"not_offered", "not_found"}  # of doors, and where no WebSocket is
    known = {error.code: error.status for error in below(ServiceError) if error.code not in elsewhere}
    assert TrackBusy.code in known
    assert NamesUnreachable.code in known
    script = """const { errorOfLine } = await import('/client/tracks.js');
        return given[0].map((code) => errorOfLine({ code, message: "" }).status);"""
    assert dict(zip(known, tool.run(script, list(known)), strict=True)) == known


def test_a_picture_comes_from_an_address_and_has_a_name_and_progress(tool: WebTool) -> None:
    sizes = tool.run(
        """const shares = [];
        const onProgress = (share) => shares.push(share);
        const { imageId } = await client.embed(URL.createObjectURL(file), { imageId: "mine", onProgress });
        const { width } = await client.open("mine");
        const gone = await caught(client.embed(new URL("/nothing.png", location.origin)));
        return [imageId, width, shares.at(-1), gone.code, gone.message];"""
    )
    assert sizes[:4] == ["mine", WIDTH, 1, "picture_not_fetched"]
    assert "/nothing.png cannot be fetched: status 404" in sizes[4]


def test_a_mask_is_refined_by_its_logits_or_its_pixels(tool: WebTool, tool_server: PageServer) -> None:
    tool.run(
        f"""{CLICK}
        const more = {{ points: [[200, 150], [300, 150]], labels: [1, 0] }};
        await picture.decode({{ ...more, mask: masks[0] }}, {{ maxHoleArea: 4, maxSprinkleArea: 4 }});
        const [plain] = await picture.decode({{ box: [10, 20, 300, 200] }}, {{ logits: false }});
        await picture.decode({{ ...more, mask: plain, multimask: true }});
        return plain.logits;"""
    )
    assert tool_server.prompts() == [((1,), False), ((1, 0), True), ((), False), ((1, 0), True)]


def test_many_prompts_are_one_request(tool: WebTool, tool_server: PageServer) -> None:
    counts = tool.run(
        """const picture = await client.embed(file);
        const masks = await picture.decodeMany([{ points: [[9, 9]] }, { box: [1, 2, 30, 40] }]);
        return masks.map(({ length }) => length);"""
    )
    assert counts == [3, 1]


@pytest.mark.parametrize(
    ("status", "code"), [(503, "overloaded"), (429, "rate_limited"), (502, "unexpected_reply")]
)
def test_a_busy_server_is_asked_again_after_its_own_time(tool: WebTool, status: int, code: str) -> None:
    tool.page.route("**/decode", failing(2, status, code, **{"Retry-After": "0"}))
    retries = tool.run(
        """const heard = [], picture = await client.embed(file);
        const onRetry = ({ status, code }, seconds) => heard.push([status, code, seconds]);
        const masks = await picture.click([200, 150], { onRetry });
        return [masks.length, heard];"""
    )
    assert retries == [3, [[status, code, 0]] * 2]


def test_a_wrong_argument_rejects_the_promise(tool: WebTool) -> None:
    """These threw before there was a promise, past `.catch`."""
    calls = [
        "client.model(null)",
        "picture.decodeMany(null)",
        "picture.decodeMany([null])",
        "track.click([1, 2])",
    ]
    begun = "const picture = await client.embed(file), track = await client.track([picture]);"
    script = "; ".join(f"names.push(await {call}.catch(({{ name }}) => name))" for call in calls)
    assert tool.run(f"{begun} const names = []; {script}; return names;") == ["TypeError"] * len(calls)


@pytest.mark.parametrize("options", ["{}", "{ onProgress: () => {} }"])
def test_a_redirect_that_loses_an_upload_is_told(tool: WebTool, options: str) -> None:
    """It was "GET /embed: Method Not Allowed", which nobody had sent."""
    tool.page.route("**/embed", lambda route: route.fulfill(status=301, headers={"Location": "/embed?here"}))
    error = tool.run(f"return await caught(client.embed(file, {options}));")
    assert error["code"] == "unexpected_reply"
    assert error["message"].endswith("/embed?here: give the client the address of that server.")


def test_retries_end(tool: WebTool) -> None:
    tool.page.route("**/model", failing(9, 503, "overloaded", **{"Retry-After": "0"}))
    count = "let count = 0; const few = new Client(location.origin, { retries: 2 });"
    error, count = tool.run(f"{count} return [await caught(few.model({{ onRetry: () => count++ }})), count];")
    assert (error["status"], error["code"], error["message"]) == (503, "overloaded", "Made up: overloaded.")
    assert count == 2


def test_who_would_be_late_anyway_is_told_at_once(tool: WebTool) -> None:
    tool.page.route("**/model", failing(1, 503, "not_ready", **{"Retry-After": "7"}))
    error = tool.run("return caught(client.model({ deadlineS: 5 }));")
    assert (error["code"], error["retryAfterS"]) == ("not_ready", 7)


def test_a_deadline_ends_a_request(tool: WebTool, tool_server: PageServer) -> None:
    tool_server.segmenter.gate.clear()
    error = tool.run("return caught(client.embed(file, { deadlineS: 0.2 }));")
    assert (error["name"], error["status"], error["code"]) == ("ApiError", 0, "timed_out")
    assert error["message"] == "There was no answer within 0.2 s, the deadline of this call."


def test_a_deadline_ends_the_fetch_of_a_picture(tool: WebTool) -> None:
    tool.page.route("**/slow.png", lambda _: None)  # no answer
    error = tool.run("return caught(client.embed('/slow.png', { deadlineS: 0.2 }));")
    assert (error["status"], error["code"]) == (0, "timed_out")


def test_retry_after_may_be_a_date(tool: WebTool) -> None:
    past = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    tool.page.route("**/model", failing(1, 503, "overloaded", **past))
    assert tool.run("return (await client.model()).model;") == "fake"


@pytest.mark.parametrize("progress", ["", "onProgress() {}, "])
def test_an_abort_ends_an_upload(tool: WebTool, tool_server: PageServer, progress: str) -> None:
    tool_server.segmenter.gate.clear()
    error = tool.run(
        f"""const abort = new AbortController();
        setTimeout(() => abort.abort(), 50);
        return [await caught(client.embed(file, {{ {progress}signal: abort.signal }})),
          await caught(client.embed(file, {{ {progress}signal: AbortSignal.abort() }}))];"""
    )
    assert [one["name"] for one in error] == ["AbortError"] * 2


def test_an_abort_ends_a_wait(tool: WebTool) -> None:
    tool.page.route("**/model", failing(9, 503, "overloaded", **{"Retry-After": "3600"}))
    error = tool.run(
        """const abort = new AbortController();
        const onRetry = () => abort.abort(new RangeError("enough"));
        return caught(client.model({ signal: abort.signal, onRetry, deadlineS: 1e9 }));"""
    )
    assert (error["name"], error["message"]) == ("RangeError", "enough")


def test_an_evicted_picture_is_embedded_again_once_for_all_that_miss_it(
    tool: WebTool, tool_server: PageServer
) -> None:
    tool.run("window.picture = await client.embed(file, { imageId: 'mine' });")
    tool_server.forget()
    requests: list[str] = []
    tool.page.on("request", lambda request: requests.append(request.url))
    counts = tool.run(
        """const hover = client.hover();
        const clicks = [[200, 150], [90, 90]].map((point) => picture.click(point));
        const all = await Promise.all([...clicks, hover.click(picture, [80, 80])]);
        hover.close();
        return all.map(({ length }) => length);"""
    )
    assert counts == [3, 3, 3]
    assert len(tool_server.segmenter.encoded) == 2
    assert len([url for url in requests if "/embed" in url]) == 1


def test_without_the_file_at_hand_it_is_an_error(tool: WebTool, tool_server: PageServer) -> None:
    tool.run("await client.embed(file, { imageId: 'mine' }); window.opened = await client.open('mine');")
    tool_server.forget()
    error = tool.run("return caught(opened.click([200, 150]));")
    assert (error["name"], error["status"], error["code"]) == ("ApiError", 404, "image_not_found")
    assert error["requestId"]


def test_an_error_says_what_the_server_said(tool: WebTool) -> None:
    script = """const picture = await client.embed(file);
    const wrong = await caught(picture.decode({ points: [[1, 2]], labels: [5] }));
    return [wrong, await caught(picture.click([9999, 9999]))];"""
    wrong, outside = tool.run(script)
    assert (wrong["status"], wrong["code"]) == (422, "validation_error")
    assert wrong["details"][0]["where"] == "prompts[0].point_labels[0]"
    assert (outside["status"], outside["code"]) == (422, "invalid_prompt")


@pytest.mark.parametrize("body", ["<html>Log in</html>", "", "null", "{}", '{"predictions": []}'])
def test_a_reply_of_something_else_is_an_error(tool: WebTool, body: str) -> None:
    def answer(route: Route) -> None:
        route.fulfill(status=200, body=body, content_type="text/html")

    tool.run("window.picture = await client.embed(file);")
    tool.page.route("**/*", answer)
    script = """const calls = [picture.click([9, 9]), client.embed(file, { onProgress() {} }), client.open("a")];
    return Promise.all(calls.map((call) => caught(call)));"""
    for error in tool.run(script):
        assert (error["name"], error["status"], error["code"]) == ("ApiError", 200, "unexpected_reply")
        assert error["message"].endswith("this is not a reply of a SAM 2 service.")


def test_a_deadline_may_be_far_away(tool: WebTool) -> None:
    assert tool.run("return (await client.model({ deadlineS: 1e9 })).model;") == "fake"


def test_a_server_that_is_gone_is_named(tool: WebTool) -> None:
    def drop(route: Route) -> None:
        route.abort("connectionrefused")

    tool.page.route("**/model", drop)
    tool.page.route("**/embed", drop)
    script = """const once = new Client(location.origin, { retries: 0 });
    return Promise.all([once.model(), once.embed(file), once.embed(file, { onProgress() {} })].map(caught));"""
    for error in tool.run(script):
        assert (error["status"], error["code"]) == (0, "connection_failed")
        assert error["message"] == f"The server at {tool.url} does not respond."


def test_a_server_of_another_origin_that_is_silent_may_not_know_the_page(tool: WebTool) -> None:
    error = tool.run("return caught(new Client('http://127.0.0.1:1/', { retries: 0 }).model());")
    origin = tool.url.rstrip("/")
    assert error["message"] == (
        "The server at http://127.0.0.1:1/ does not respond. "
        f"If it runs, SAM2_CORS_ORIGINS must have the origin of this page, {origin}."
    )


def test_a_key_goes_with_every_request_and_may_change(tool: WebTool) -> None:
    keys: list[Any] = []

    def note(route: Route) -> None:
        keys.append(route.request.headers.get("x-api-key"))
        route.fallback()

    tool.page.route("**/{model,decode,embed*}", note)
    tool.run(
        """let key = "one";
        const mine = new Client(location.origin, { key: () => key });
        const picture = await mine.embed(file);
        await mine.embed(file, { onProgress() {} });
        key = "two";
        await picture.click([9, 9]);
        await new Client(location.origin, { key: "three" }).model();
        await client.model();"""
    )
    assert keys == ["one", "one", "two", "three", None]


@pytest.mark.parametrize(
    "call", ["mine.model()", "mine.embed(file)", "mine.embed(file, { onProgress() {} })"]
)
def test_a_key_that_no_header_can_carry_is_a_wrong_key_not_a_silent_server(tool: WebTool, call: str) -> None:
    key = "sesame\u200b"  # copied along, and not seen
    error = tool.run(
        f"const mine = new Client(location.origin, {{ key: given[0] }}); return caught({call});", key
    )
    assert (error["status"], error["code"]) == (401, "unauthorized")
    assert "cannot be sent" in error["message"]
    assert (
        tool.run("return (await new Client(location.origin, { key: 'sesame\\n' }).model()).model;") == "fake"
    )


@pytest.mark.parametrize("address", ["localhost:8000", "127.0.0.1:8000/sam"])
def test_an_address_without_http_is_said_at_once(tool: WebTool, address: str) -> None:
    """The one failed as an invalid URL at the first call, the other asked the page's own server below a path."""
    error = tool.run("return caught((async () => new Client(given[0]))());", address)
    assert error["name"] == "TypeError"
    assert error["message"] == f"The server's address lacks http:// or https:// at its start: {address}"


def test_where_no_progress_is_reported_an_upload_ends_with_all_of_it(tool: WebTool) -> None:
    """As in Node and in service workers, which have no XMLHttpRequest: it was a ReferenceError."""
    shares = tool.run(
        """delete window.XMLHttpRequest;
        const shares = [];
        await client.embed(file, { onProgress: (share) => shares.push(share) });
        return shares;"""
    )
    assert shares == [1]


@pytest.mark.parametrize("source", ["undefined", "new Uint8Array(5)", "new Image()", "[file]"])
def test_what_is_no_picture_is_said_at_once(tool: WebTool, source: str) -> None:
    """It was turned into an address, such as '[object HTMLImageElement]', which cannot be fetched."""
    error = tool.run(f"return caught(client.embed({source}));")
    assert (error["name"], error["message"]) == ("TypeError", "A picture is a File, a Blob or an address.")
