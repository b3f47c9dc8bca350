"""Hover of the JavaScript client over /decode/stream: the newest wins, keys, errors, connections that end."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, WebSocketRoute

from app.settings import Settings
from tests.page.conftest import PageServer
from tests.page.web_tools import WebTool

KEY = "k" * 32
PICTURE = "window.picture ??= await client.embed(file); window.hover ??= client.hover();"


def frames(tool: WebTool) -> list[Any]:
    """Return a list that grows with what the page sends over WebSockets."""
    sent: list[Any] = []
    tool.page.on(
        "websocket", lambda socket: socket.on("framesent", lambda text: sent.append(json.loads(text)))
    )
    return sent


def test_the_running_prompt_is_answered_and_of_the_others_the_newest(
    tool: WebTool, tool_server: PageServer
) -> None:
    sent = frames(tool)
    tool.run(PICTURE)
    tool_server.segmenter.gate.clear()
    tool.run("window.asked = [1, 2, 3, 4].map((x) => hover.click(picture, [x, 5]));")
    assert tool.run("return (await Promise.all(asked.slice(1, 3)));") == [None, None]
    tool_server.segmenter.gate.set()
    counts = tool.run("return (await Promise.all(asked)).map((masks) => masks?.length ?? null);")
    assert counts == [3, None, None, 3]
    assert [message["point_coords"] for message in sent] == [[[1, 5]], [[4, 5]]]
    assert [prompt.points for batch in tool_server.segmenter.decoded for prompt in batch] == [
        ((1, 5),),
        ((4, 5),),
    ]
    assert "return_logits" not in sent[0] or sent[0]["return_logits"] is False


def test_stop_forgets_what_runs_and_what_waits(tool: WebTool, tool_server: PageServer) -> None:
    tool.run(PICTURE)
    tool_server.segmenter.gate.clear()
    script = """const asked = [1, 2].map((x) => hover.click(picture, [x, 5]));
    hover.stop();
    return Promise.all(asked);"""
    assert tool.run(script) == [None, None]
    tool_server.segmenter.gate.set()
    assert tool.run("return (await hover.click(picture, [7, 5])).length;") == 3


@pytest.mark.parametrize("call", ["decode(picture, null)", "click(picture, [1, 5], { signal: {} })"])
def test_a_call_that_cannot_be_made_does_not_block_the_next(tool: WebTool, call: str) -> None:
    tool.run(PICTURE)
    assert tool.run(f"return hover.{call}.then(() => null, ({{ name }}) => name);") == "TypeError"
    assert tool.run("return (await hover.click(picture, [7, 5])).length;") == 3


@pytest.mark.parametrize("which", [0, 1])
def test_an_abort_ends_one_prompt_and_no_other(tool: WebTool, tool_server: PageServer, which: int) -> None:
    tool.run(PICTURE)
    tool_server.segmenter.gate.clear()
    script = """const aborts = [0, 1].map(() => new AbortController());
    window.asked = aborts.map(({ signal }, x) => caught(hover.click(picture, [x, 5], { signal })));
    aborts[given[0]].abort();
    return (await asked[given[0]]).name;"""
    assert tool.run(script, which) == "AbortError"
    tool_server.segmenter.gate.set()
    assert tool.run("return asked[given[0]];", 1 - which) == "nothing"
    assert tool.run("return (await hover.click(picture, [7, 5])).length;") == 3


def test_an_error_of_the_stream_is_an_api_error(tool: WebTool) -> None:
    error = tool.run(f"{PICTURE} return caught(hover.click(picture, [9999, 9999]));")
    assert (error["name"], error["status"], error["code"]) == ("ApiError", 422, "invalid_prompt")
    assert tool.run("return (await hover.click(picture, [7, 5])).length;") == 3


def test_a_connection_that_was_closed_is_opened_again(tool: WebTool) -> None:
    opened: list[Any] = []
    tool.page.on("websocket", lambda socket: opened.append(socket))
    lengths = tool.run(
        f"""{PICTURE}
        const lengths = [], hover = new Client(location.origin, {{ retries: 0 }}).hover();
        for (const x of [1, 2]) {{
          lengths.push((await hover.click(picture, [x, 5])).length);
          hover.close();
        }}
        return lengths;"""
    )
    assert lengths == [3, 3]
    assert len(opened) == 2


def test_a_prompt_that_a_dying_connection_lost_is_sent_again(tool: WebTool) -> None:
    """A server that restarts closes with 1001."""
    sockets: list[WebSocketRoute] = []

    def handle(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) == 1:
            socket.on_message(lambda _: socket.close(code=1001, reason="the server is shutting down"))
        else:
            socket.connect_to_server()

    tool.page.route_web_socket("**/decode/stream", handle)
    script = """const heard = [];
    const onRetry = ({ code, message }) => heard.push([code, message]);
    const masks = await hover.click(picture, [7, 5], { onRetry });
    return [masks.length, heard];"""
    message = "The server closed the connection: the server is shutting down."
    assert tool.run(PICTURE + script) == [3, [["connection_failed", message]]]


def test_after_a_deadline_another_connection_is_opened(tool: WebTool) -> None:
    """The other end of the first is gone, and the network does not say so."""
    sockets: list[WebSocketRoute] = []

    def handle(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) > 1:
            socket.connect_to_server()

    tool.page.route_web_socket("**/decode/stream", handle)
    error = tool.run(f"{PICTURE} return caught(hover.click(picture, [7, 5], {{ deadlineS: 0.5 }}));")
    assert error["code"] == "timed_out"
    assert tool.run("return (await hover.click(picture, [7, 5], { deadlineS: 5 })).length;") == 3


@pytest.mark.parametrize("answer", ["<html>", "null", '{"tag": 1}', '{"tag": 1, "predictions": [{}]}'])
def test_an_answer_of_something_else_is_an_error(tool: WebTool, answer: str) -> None:
    tool.page.route_web_socket(
        "**/decode/stream", lambda socket: socket.on_message(lambda _: socket.send(answer))
    )
    error = tool.run(f"{PICTURE} return caught(hover.click(picture, [7, 5]));")
    assert (error["name"], error["code"]) == ("ApiError", "unexpected_reply")


def test_an_error_without_a_tag_is_of_all_that_wait(tool: WebTool) -> None:
    answer = json.dumps({"tag": None, "error": {"code": "bad_request", "message": "Not JSON."}})
    tool.page.route_web_socket(
        "**/decode/stream", lambda socket: socket.on_message(lambda _: socket.send(answer))
    )
    error = tool.run(f"{PICTURE} return caught(hover.click(picture, [7, 5]));")
    assert (error["status"], error["code"], error["message"]) == (400, "bad_request", "Not JSON.")


def test_behind_a_proxy_without_websockets_previews_are_requests(tool: WebTool) -> None:
    tool.run(
        """window.WebSocket = class {
          constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
        };"""
    )
    requests: list[str] = []
    tool.page.on("request", lambda request: requests.append(request.url))
    script = "return [1, 2].map((x) => hover.click(picture, [x, 5])).at(-1).then(({ length }) => length);"
    assert tool.run(PICTURE + script) == 3
    assert requests.count(f"{tool.url}decode") == 2


@pytest.mark.parametrize("retries", [0, 4])
def test_a_connection_that_was_refused_once_is_tried_again(tool: WebTool, retries: int) -> None:
    """As by a server that restarts: for half a minute previews are requests, without one that is lost."""
    requests: list[str] = []
    sockets: list[str] = []
    tool.page.on("request", lambda request: requests.append(request.url))
    tool.page.on("websocket", lambda socket: sockets.append(socket.url))
    tool.run(
        """const { WebSocket } = window, now = performance.now.bind(performance);
        client = new Client(location.origin, { retries: given[0] });
        let later = 0;
        performance.now = () => now() + later;
        window.wait = (ms) => (later += ms);
        window.restart = () => (window.WebSocket = WebSocket);
        window.WebSocket = class {
          constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
        };""",
        retries,
    )
    click = "return (await hover.click(picture, [7, 5])).length;"
    assert tool.run(PICTURE + click) == 3
    tool.run("restart();")
    assert tool.run(click) == 3
    assert (requests.count(f"{tool.url}decode"), len(sockets)) == (2, 0)
    tool.run("wait(31_000);")
    assert [tool.run(click), tool.run(click)] == [3, 3]
    assert (requests.count(f"{tool.url}decode"), len(sockets)) == (2, 1)


@pytest.fixture
def locked(context: BrowserContext) -> Iterator[WebTool]:
    """A web tool of a server that asks for a key."""
    server = PageServer(Settings(workers=2, api_keys=f"anna:{KEY}"))
    yield WebTool(context, server.url)
    server.stop()


def test_the_key_is_the_first_message(locked: WebTool) -> None:
    sent = frames(locked)
    locked.run("client = new Client(location.origin, { key: given[0] });", KEY)
    assert locked.run(f"{PICTURE} return (await hover.click(picture, [7, 5])).length;") == 3
    assert sent[0] == {"api_key": KEY}
    assert sent[1]["point_coords"] == [[7, 5]]


def test_a_wrong_key_is_said_and_not_tried_again(locked: WebTool) -> None:
    locked.run("client = new Client(location.origin, { key: given[0] });", KEY)
    error, closed = locked.run(
        f"""{PICTURE}
        const other = new Client(location.origin, {{ key: "wrong" }});
        return [await caught(other.model()), await caught(other.hover().click(picture, [7, 5]))];"""
    )
    assert (error["status"], error["code"]) == (401, "unauthorized")
    assert (closed["status"], closed["code"]) == (401, "unauthorized")
    assert closed["message"].startswith("The server closed the connection: a key in a header")


def test_what_a_key_of_the_page_throws_is_thrown_and_not_waited_for(locked: WebTool) -> None:
    error, masks = locked.run(
        f"""window.key = () => given[0];
        client = new Client(location.origin, {{ key: () => window.key() }});
        {PICTURE}
        const {{ key }} = window;
        window.key = () => {{ throw new RangeError("signed out"); }};
        const error = await caught(hover.click(picture, [7, 5], {{ deadlineS: 5 }}));
        window.key = key;
        return [error, (await hover.click(picture, [7, 5])).length];""",
        KEY,
    )
    assert (error["name"], error["message"], masks) == ("RangeError", "signed out", 3)


@pytest.mark.parametrize(
    "without", ["delete window.WebSocket;", "WebSocket = class { constructor() { throw Error(); } };"]
)
def test_where_no_websocket_can_be_made_previews_are_requests(tool: WebTool, without: str) -> None:
    """As in Node 20, and on a page whose policy or https forbids it. Each preview waited for its deadline."""
    requests: list[str] = []
    tool.page.on("request", lambda request: requests.append(request.url))
    click = "(await hover.click(picture, [7, 5], { deadlineS: 5 })).length"
    assert tool.run(f"{without} {PICTURE} return [{click}, {click}];") == [3, 3]
    assert requests.count(f"{tool.url}decode") == 2
