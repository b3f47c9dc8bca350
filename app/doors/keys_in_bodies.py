"""Admits clients whose key may be in the body of a request, for paths that are free of keys in the head.

A body whose key is wrong or missing costs little: a key at its beginning, where clients put it, is checked before
the rest is read, and bodies without one there share a small budget of their own. Does not know the tools.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from fastapi.datastructures import QueryParams

from app.doors.requests import ToolBody, admitted, reading
from app.errors import BadRequest, BodyTooSlow
from app.middleware.access import Scope
from app.middleware.callers import password_of, sent_as_key, share_of
from app.routes.field_errors import invalid
from app.routes.state import budget_of, keys_of, service_of, strangers_budget_of

_FIELD = "api_key"
_BEGINNING_BYTES = 4096
_KEY = re.compile(rb'"api_key"\s*:\s*(?:null|"([ -!#-\[\]-~]*)")')
"""Null, or a string of ASCII without escapes, in group 1. Other strings are left to the parser."""


class KeyedBody(ToolBody):
    """A body that may hold the client's key."""

    api_key: str | None = None


Model = TypeVar("Model", bound=KeyedBody)


@asynccontextmanager
async def reading_with_key(request: Request, model: type[Model]) -> AsyncIterator[tuple[Request, Model]]:
    """Yield a request that has its tenant, and its body. The key is in the head, in the query or in the body.

    A password of Basic that is no key is passed over if there is one in the body.
    That request takes the place of the given one. Raises Unauthorized, RateLimited, and what `reading` raises.
    """
    keys, password = keys_of(request), password_of(request.scope)
    key = sent_as_key(request.scope) or key_in_query(request.scope)
    if not key and keys.owner(password) is not None:
        key = password
    if key or not keys:
        with admitted(request, key=key):
            async with reading(request, model) as body:
                yield request, body
        return
    begun = _Begun(request)
    beginning = await begun.read()
    request = Request(request.scope, begun.receive)
    if (found := _KEY.search(beginning)) is not None:
        key = (found[1] or b"").decode("ascii")
        with admitted(request, key=key or password):
            async with reading(request, model) as body:
                if (body.api_key or "") != key:
                    raise invalid(_FIELD, "the body has it in two places, with different values")
                yield request, body
        return
    async with reading(request, model, budget=strangers_budget_of(request)) as body:
        pass  # from here on it counts for the client whose key it holds
    with (
        admitted(request, key=body.api_key or password),
        budget_of(request).holding(share_of(request)) as arrived,
    ):
        arrived(begun.size)
        yield request, body


def key_in_query(scope: Scope) -> str:
    """Return the key in the query of a request, or ""."""
    return QueryParams(scope["query_string"]).get(_FIELD, "")


class _Begun:
    """A body whose beginning is read twice: to look for the key, and with the rest."""

    def __init__(self, request: Request) -> None:
        self.size = 0
        """Bytes received."""
        self._request = request
        self._again: deque[Any] = deque()

    async def read(self) -> bytes:
        """Return the first bytes. Raises BadRequest if the client disconnects, and BodyTooSlow."""
        beginning = b""
        more = True
        try:
            async with asyncio.timeout(service_of(self._request).settings.deadline_s):
                while more and len(beginning) < _BEGINNING_BYTES:
                    message = await self._request.receive()
                    if message["type"] == "http.disconnect":
                        raise BadRequest("The connection closed before the whole body had arrived.")
                    self._again.append(message)
                    beginning += message.get("body", b"")[:_BEGINNING_BYTES]
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise BodyTooSlow("The body's beginning did not arrive in time (SAM2_DEADLINE_S).") from error
        return beginning

    async def receive(self) -> Any:
        """ASGI's receive, from the first byte on."""
        message = self._again.popleft() if self._again else await self._request.receive()
        self.size += len(message.get("body", b""))
        return message
