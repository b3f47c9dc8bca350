"""Replies of lines: readers that sleep or are gone, and errors of the work, which are none of the connection."""

import asyncio
import json
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from app.middleware.connection import while_connected
from app.routes import line_replies, tracks
from tests.app.routes.track_requests import begin, click, lines, numbers, with_service
from tests.fakes import Served

Message = MutableMapping[str, Any]


class Reader:
    """A client of a propagation who sleeps after `awake` messages, which httpx's transport cannot play."""

    def __init__(self, *, awake: int = 1000, breaks: bool = False) -> None:
        self.awake, self.breaks = awake, breaks
        self.sent: list[Message] = []
        self.asked = False

    async def receive(self) -> Message:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if len(self.sent) == self.awake:
            if self.breaks:
                raise OSError("the connection is closed")
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(each["body"]) for each in self.sent if each["type"] == "http.response.body"]

    async def propagate(self, served: Served, track: str) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/tracks/{track}/propagate",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await served.app(scope, self.receive, self.send)  # type: ignore[arg-type]


@pytest.mark.parametrize("breaks", [False, True])
@with_service
async def test_a_reader_that_sleeps_or_is_gone_ends_a_propagation_which_goes_on_later(
    served: Served, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def impatient(*given: Any, patience_s: float, **named: Any) -> Any:
        assert patience_s == served.service.settings.deadline_s
        return await line_replies.begin_lines(*given, patience_s=0.01, **named)

    monkeypatch.setattr(tracks, "begin_lines", impatient)
    track = await begin(served)
    await click(served, track)
    reader = Reader(awake=3, breaks=breaks)
    await reader.propagate(served, track)
    assert [each["frame"] for each in reader.lines] == [0, 1]
    monkeypatch.undo()
    (stopped,) = (await served.client.get("/tracks")).json()["tracks"]
    assert stopped["next"]["forward"] == 3
    assert numbers(await lines(served, track)) == [3]


@pytest.mark.parametrize("bug", [OSError("no space left"), TimeoutError("of a database"), KeyError("bug")])
@with_service
async def test_what_the_work_raises_is_said_and_logged_whatever_it_is(
    served: Served, bug: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = await begin(served)
    await click(served, track)
    propagate = served.service.tracks.propagate

    async def breaking(*given: Any, **named: Any) -> AsyncGenerator[Any, None]:
        async for each in propagate(*given, **named):
            yield each
            raise bug

    monkeypatch.setattr(served.service.tracks, "propagate", breaking)
    reader = Reader()
    with pytest.raises(type(bug)):  # access.py logs it, and the server cuts the connection
        await reader.propagate(served, track)
    first, last = reader.lines
    assert (first["frame"], last["error"]["code"]) == (0, "internal_error")
    assert reader.sent[-1]["more_body"]


@with_service
async def test_a_long_line_is_sent_in_pieces_so_that_a_slow_reader_is_none_that_sleeps(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a whole it had to be read within a deadline, after which the reply was cut off a byte before its end."""
    monkeypatch.setattr(line_replies, "_PIECE_BYTES", 20)
    track = await begin(served)
    await click(served, track)
    reader = Reader()
    await reader.propagate(served, track)
    bodies = [each["body"] for each in reader.sent if each["type"] == "http.response.body"]
    *frames, last, end = b"".join(bodies).split(b"\n")
    assert [json.loads(each)["frame"] for each in frames] == [0, 1, 2, 3]
    assert (json.loads(last), end) == ({"done": True}, b"")
    assert max(map(len, bodies)) <= 21
    assert not reader.sent[-1]["more_body"]


async def test_a_timeout_of_the_story_is_not_taken_for_a_client_that_is_gone() -> None:
    async def story() -> None:
        raise TimeoutError("of a database")

    with pytest.raises(TimeoutError, match="database"):
        await while_connected(Reader().receive, story())
