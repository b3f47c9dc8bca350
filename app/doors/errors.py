"""Gives errors the form that the tool of their door reads, and logs their reason, which most tools hide.

Does not know how errors come about: it sees replies.
"""

import json
import logging
from collections.abc import Callable
from http import HTTPStatus

from app.doors.door import Door, Fault
from app.middleware.access import App, Message, Receive, Scope, Send, request_id

log = logging.getLogger(__name__)


class DoorErrorsMiddleware:
    """Replaces the body of error replies of doors. Lies around AccessMiddleware, which gives requests their ids."""

    def __init__(self, app: App, *, door_of: Callable[[str, str], Door | None]) -> None:
        self.app = app
        self.door_of = door_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        door = self.door_of(scope["path"], scope["method"]) if scope["type"] == "http" else None
        if door is None:
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_in_form(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                start = message
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _send(start, _in_form(door, scope, start, body), send)

        await self.app(scope, receive, send_in_form)


def _in_form(door: Door, scope: Scope, start: Message, body: bytes) -> bytes:
    try:
        error = json.loads(body)["error"]
        fault = Fault(start["status"], str(error["code"]), str(error["message"]))
    except (ValueError, TypeError, KeyError):
        return body
    number = dict(start["headers"]).get(b"x-request-id", b"-").decode("latin-1")
    token = request_id.set(number)
    log.info("%s %s for %s: %s", scope["method"], scope["path"], door.name, fault.message)
    request_id.reset(token)
    return json.dumps(door.error(fault)).encode()


async def _send(start: Message, body: bytes, send: Send) -> None:
    headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
