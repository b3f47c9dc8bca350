"""The WebSocket /decode/stream: many prompts of one client over one connection. No logic.

For hover: the newest prompt is decoded, not all of them.
"""

import logging
import uuid
from contextlib import suppress
from time import perf_counter

from fastapi import HTTPException, WebSocket, WebSocketDisconnect

from app.errors import NoWebSocket, OriginRefused, ServiceError
from app.middleware.access import request_id
from app.middleware.browsers import may_connect
from app.middleware.callers import address_of
from app.routes.endpoints import new_router
from app.routes.state import refusal_of, service_of
from app.routes.stream_prompts import ROUTE, PromptConnection
from app.routes.streams import Stream, Streams

router = new_router()

log = logging.getLogger(__name__)


@router.get(ROUTE, include_in_schema=False)
async def not_upgraded() -> None:
    """What a WebSocket becomes behind a proxy that passes no upgrade on."""
    raise HTTPException(
        426,
        "It is a WebSocket, and this request is none. A proxy in between has to pass on the headers Upgrade and "
        "Connection",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


@router.websocket(ROUTE)
async def decode_stream(websocket: WebSocket) -> None:
    """Decode the prompts of one client.

    Each message is a prompt, {"tag": 1, "image_id": "...", ...}. Each gets an answer, {"tag": 1, "predictions":
    [...]}. A waiting prompt is skipped when a newer one arrives. The key is sent in a header, or as the first
    message, {"api_key": "..."}.
    """
    started = perf_counter()
    token = request_id.set(uuid.uuid4().hex)
    service = service_of(websocket)
    source = PromptConnection(websocket)
    stream = Stream(source, idle_s=service.settings.stream_idle_s)
    streams: Streams = websocket.app.state.streams
    try:
        if not may_connect(websocket.headers, service.settings.cors_origin_list):
            raise OriginRefused("This site may not connect. SAM2_CORS_ORIGINS lists the sites that may.")
        service.ready()
        source.identify_by_header()
        with streams.place(address_of(websocket.scope), stop=stream.stop):
            await websocket.accept(headers=[(b"x-request-id", request_id.get().encode())])
            ended = await stream.run()
            if ended.code is not None:
                with suppress(WebSocketDisconnect):
                    await websocket.close(ended.code, ended.reason)
            seconds = perf_counter() - started
            why = f"{ended.code}, {ended.reason}" if ended.code else ended.reason
            log.info("WEBSOCKET %s %d prompts in %.1f s; %s", ROUTE, source.answered, seconds, why)
    except ServiceError as error:  # before the connection is open
        await websocket.send_denial_response(refusal_of(websocket, error))
    finally:
        request_id.reset(token)


@router.websocket("/{path:path}")
async def nowhere(websocket: WebSocket) -> None:
    """What Starlette would answer with 403 and no word."""
    error = NoWebSocket(f"There is no WebSocket at {websocket.url.path}. The one of this server is {ROUTE}.")
    await websocket.send_denial_response(refusal_of(websocket, error))
