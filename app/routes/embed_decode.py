"""The endpoints /embed and /decode: parse, call the service, reply."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.routing import APIRoute

from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes import schemas
from app.routes.bodies import body_of, parsed
from app.routes.endpoints import new_router
from app.routes.replies import decode_reply, mask_options, prompt_requests, timed_json
from app.routes.segment_forms import PICTURE_FORM
from app.routes.state import begin_stages, budget_of, remote_pictures_of, service_of
from app.routes.uploads import parse_json, parse_upload
from app.service.segmentation import Embedded

router = new_router()


_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": PICTURE_FORM}
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": schemas.schema_ref(schemas.EmbedBody)},
        },
    },
}
_DECODE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.schema_ref(schemas.DecodeBody)}},
    },
}


class _Direct(APIRoute):
    """A route that calls its endpoint directly, without FastAPI's dependency solving.

    That saves a tenth of the event loop's work for a click. A request with a query string takes FastAPI's way,
    which rejects it. Dependencies of a router are not called, so keys and limits belong into middleware.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As in FastAPI."""
        usual = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                return await usual(request)
            reply: Response = await self.endpoint(request, schemas.NoFields())
            return reply

        return handle


@router.post("/embed", response_model=schemas.EmbedReply, openapi_extra=_UPLOAD_BODY)
async def embed(request: Request, query: Annotated[schemas.EmbedFields, Query()]) -> Response:
    """Embed a picture once, to decode any number of prompts on it.

    The id is `image_id`, the client's own name for the picture, or the SHA-256 of the uploaded bytes.
    """
    service, times, share = service_of(request), begin_stages(request), share_of(request)
    service.ready()  # admission comes before any work
    max_bytes = service.settings.max_upload_mib * 2**20
    async with body_of(request) as body:
        parse = partial(parse_upload, headers=request.headers, query=query, max_bytes=max_bytes)
        upload = await parsed(request, body, parse)
        body = b""  # what was parsed is held instead: a file in a form is a copy

        async def story() -> Embedded:
            with budget_of(request).holding(share) as arrived:
                data, url = upload.data, upload.url
                if url is not None:
                    with times.during("fetch"):
                        data = await remote_pictures_of(request).fetch(url, arrived=arrived)
                return await service.embed(
                    data,
                    tenant=tenant_of(request),
                    image_id=upload.image_id,
                    replace=upload.replace,
                    stretch=upload.stretch,
                    times=times,
                    share=share,
                )

        embedded = await while_connected(request.receive, story())
    reply = schemas.EmbedReply(
        image_id=embedded.image_id,
        width=embedded.width,
        height=embedded.height,
        model=embedded.model,
        cached=embedded.cached,
    )
    return timed_json(reply.model_dump_json().encode(), times)


async def decode(request: Request, _: Annotated[schemas.NoFields, Query()]) -> Response:
    """Masks for one or many prompts on an embedded picture, with their predicted IoU."""
    service, times = service_of(request), begin_stages(request)
    service.ready()  # admission comes before any work
    async with body_of(request) as body:
        wanted = await parsed(request, body, partial(parse_json, schemas.DecodeBody))
        decoded = await while_connected(
            request.receive,
            service.decode(
                wanted.image_id,
                prompt_requests(wanted.all_prompts()),
                options=mask_options(wanted),
                tenant=tenant_of(request),
                times=times,
                share=share_of(request),
            ),
        )
    return await decode_reply(request, decoded, image_id=wanted.image_id, times=times)


router.add_api_route(
    "/decode",
    decode,
    methods=["POST"],
    response_model=schemas.DecodeReply,
    openapi_extra=_DECODE_BODY,
    route_class_override=_Direct,
)
