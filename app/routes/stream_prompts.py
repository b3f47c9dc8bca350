"""One connection to /decode/stream: reads the key and prompts, sends answers.

Does not decide which prompt is decoded first; streams.py does.
"""

import asyncio
import json
import logging
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.errors import RetryableError, ServiceError, Unauthorized
from app.middleware.callers import identify, key_of, sent_as_key
from app.middleware.websockets import FIRST_MESSAGE_BYTES, welcome_messages
from app.routes.bodies import PARSED_ON_LOOP_BYTES
from app.routes.replies import mask_options, prompt_requests, written
from app.routes.state import budget_of, in_flight_of, keys_of, loop_time_of, refusal_of, service_of
from app.routes.stream_messages import KeyMessage, SkippedReply, StreamErrorReply, StreamPrompt, Tag, Tagged
from app.routes.streams import MAX_MESSAGE_BYTES, Ended
from app.routes.uploads import parse_json
from app.telemetry.stages import StageTimes

ROUTE = "/decode/stream"
UNAUTHORIZED = 4401

_KEY_WAIT_S = 10.0
"""Patience for the message with the key: clients without one should not hold a connection."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingPrompt:
    """A waiting or running prompt, and the memory that it is counted for."""

    body: StreamPrompt
    tenant: str
    share: str
    held: ExitStack
    arrived_at: float


class PromptConnection:
    """One client, as a PromptSource."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._service = service_of(websocket)
        self._caller: tuple[str, str] | None = None
        self._key = ""
        self._received_any = False
        self.answered = 0
        """Number of prompts so far, including failed ones."""

    def identify_by_header(self) -> None:
        """Identify the client by its headers, before the connection opens. If that fails, `receive` takes over."""
        key = key_of(self._websocket.scope)
        if key or not keys_of(self._websocket):
            with suppress(Unauthorized):
                self._caller = self._known(key)

    async def receive(self) -> PendingPrompt | None:
        """See PromptSource. Without a key in the headers, the first message must have it."""
        if self._caller is None:
            self._caller = await self._identify()
        share = self._caller[1]
        loop_time = loop_time_of(self._websocket)
        await loop_time.wait(share)
        text = await self._receive_message()
        tenant, share = self._still_known()
        first, self._received_any = not self._received_any, True
        received_at = perf_counter()
        if first and len(text) <= FIRST_MESSAGE_BYTES and _key_in(text) is not None:
            return None  # sent although a header had the key
        held = ExitStack()
        try:
            arrived = held.enter_context(budget_of(self._websocket).holding(share))
            arrived(len(text))
            if len(text) < PARSED_ON_LOOP_BYTES:
                body = _parse(text)
                loop_time.note(share, perf_counter() - received_at)
            else:
                body = await self._service.work(lambda: _parse(text), share=share)
                loop_time.note(share, 0.0)
        except ServiceError as error:
            held.close()
            await self._refuse(await self._tag_of(text, share), error)
            loop_time.note(share, 0.0)
            return None
        except BaseException:
            held.close()
            raise
        return PendingPrompt(body, tenant, share, held, perf_counter())

    async def answer(self, item: PendingPrompt) -> None:
        """See PromptSource. An error is sent as an answer."""
        body, share, times = item.body, item.share, StageTimes()
        try:
            with item.held, in_flight_of(self._websocket).request(share):
                decoded = await self._service.decode(
                    body.image_id,
                    prompt_requests([body]),
                    options=mask_options(body),
                    tenant=item.tenant,
                    times=times,
                    share=share,
                )
                reply = await written(self._service, decoded, image_id=body.image_id, share=share)
        except ServiceError as error:
            await self._refuse(body.tag, error)
            return
        except Exception:  # it fails this prompt, not the whole connection
            log.exception("Internal error")
            mistake = ServiceError("Internal error; see the server's log for this request id.")
            await self._refuse(body.tag, mistake)
            return
        await self._send(f'{{"tag":{json.dumps(body.tag)},{reply[1:].decode()}')
        self._service.metrics.observe_stages(times.seconds)
        self._service.metrics.request_seconds.labels(ROUTE).observe(perf_counter() - item.arrived_at)
        self._count(200)

    async def skip(self, item: PendingPrompt) -> None:
        """See PromptSource."""
        item.held.close()
        await self._send(SkippedReply(tag=item.body.tag).model_dump_json())

    def drop(self, item: PendingPrompt) -> None:
        """See PromptSource."""
        item.held.close()

    async def _identify(self) -> tuple[str, str]:
        scope, keys = self._websocket.scope, keys_of(self._websocket)
        key = sent_as_key(scope)  # a password that is a key was taken before; others are a proxy's
        try:
            if keys and not key:
                async with asyncio.timeout(_KEY_WAIT_S):
                    key = _key_in(await self._receive_message()) or ""
                self._received_any = True
            return self._known(key)
        except (TimeoutError, Unauthorized):
            self._service.metrics.rejections.labels(Unauthorized.code).inc()
            raise Ended(UNAUTHORIZED, 'a key in a header, or {"api_key": "..."} first') from None

    def _known(self, key: str) -> tuple[str, str]:
        """Tenant and share of a key. Its connection may send large messages from now on. Raises Unauthorized."""
        scope = self._websocket.scope
        caller = identify(scope, keys=keys_of(self._websocket), key=key)
        welcome_messages(
            scope, MAX_MESSAGE_BYTES, holding=partial(budget_of(self._websocket).holding, caller[1])
        )
        self._key = key
        return caller

    def _still_known(self) -> tuple[str, str]:
        """As `_known`, for each message: the file of keys may have been read again since. Raises Ended."""
        try:
            return identify(self._websocket.scope, keys=keys_of(self._websocket), key=self._key)
        except Unauthorized:
            self._service.metrics.rejections.labels(Unauthorized.code).inc()
            raise Ended(UNAUTHORIZED, "the key is not valid any more") from None

    async def _tag_of(self, text: str | bytes, share: str) -> Tag | None:
        """Return the tag of an invalid message. A large message is parsed in a worker, if one is free."""
        tagged: Tagged | None = None
        if len(text) < PARSED_ON_LOOP_BYTES:
            tagged = _tag_in(text)
        else:
            with suppress(ServiceError):
                tagged = await self._service.work(lambda: _tag_in(text), share=share)
        return tagged.tag if tagged else None

    async def _receive_message(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise Ended(None, f"closed by the client with {message.get('code')}")
        text: str | bytes | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _refuse(self, tag: Tag | None, error: ServiceError) -> None:
        body = json.loads(bytes(refusal_of(self._websocket, error).body))
        reply = StreamErrorReply(
            tag=tag,
            error=body["error"],
            retry_after_s=error.retry_after_s if isinstance(error, RetryableError) else None,
        )
        content = reply.model_dump(exclude_none=True)
        await self._send(json.dumps({"tag": tag, **content}))
        self._count(error.status)

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._service.settings.deadline_s):
                await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError, TimeoutError) as error:
            raise Ended(None, "the client does not read what is sent") from error

    def _count(self, status: int) -> None:
        self.answered += 1
        self._service.metrics.requests.labels(ROUTE, "WEBSOCKET", str(status)).inc()


def _parse(text: str | bytes) -> StreamPrompt:
    return parse_json(StreamPrompt, _bytes_of(text))


def _key_in(text: str | bytes) -> str | None:
    """Return the key of a message; None if it is something else."""
    with suppress(ServiceError):
        return parse_json(KeyMessage, _bytes_of(text)).api_key
    return None


def _tag_in(text: str | bytes) -> Tagged | None:
    """Return the tag of a message that may be wrong in everything else; None if it has none."""
    with suppress(ValidationError):
        return Tagged.model_validate_json(text)
    return None


def _bytes_of(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
