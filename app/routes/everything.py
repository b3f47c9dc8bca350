"""POST /everything: every object of a picture, stored or in the same request. No logic."""

from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from python_multipart.multipart import parse_options_header

from app.errors import UnsupportedMediaType
from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes import schemas
from app.routes.bodies import body_of, parsed
from app.routes.endpoints import new_router
from app.routes.everything_fields import EverythingBody, EverythingFields, EverythingReply
from app.routes.line_replies import MEDIA_TYPE, begin_lines
from app.routes.progress_lines import Steps, wants_lines
from app.routes.replies import format_options, timed_json, write_everything
from app.routes.segment_forms import PICTURE_FORM, parse_picture_form
from app.routes.state import begin_stages, service_of
from app.routes.uploads import parse_json
from app.service.search import Report
from app.service.segmentation import NewPicture
from model.everything.defaults import default_thresholds

router = new_router()

_PLAIN = ("mask_format", "order")


def _body() -> dict[str, Any]:
    """The bodies for openapi.json."""
    fields = EverythingFields.model_json_schema()["properties"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schemas.schema_ref(EverythingBody)},
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["image"], "properties": PICTURE_FORM | fields},
                    "encoding": {
                        name: {"contentType": "application/json"} for name in fields if name not in _PLAIN
                    },
                },
            },
        },
        "responses": {"200": {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
    }


@router.post("/everything", response_model=EverythingReply, openapi_extra=_body())
async def find_everything(request: Request, _: Annotated[schemas.NoFields, Query()]) -> Response:
    """Every object of a picture, as SAM2AutomaticMaskGenerator finds them.

    With `Accept: application/x-ndjson` the reply is a line `{"progress": 0.25, "found": 12}` for each step, and the
    result, or an error, as the last line. `found` counts near duplicates, which are removed at the end.
    """
    service, settings, times = service_of(request), service_of(request).settings, begin_stages(request)
    model, share, tenant = service.ready(), share_of(request), tenant_of(request)
    content_type = request.headers.get("content-type", "")
    max_bytes = settings.max_upload_mib * 2**20
    async with AsyncExitStack() as held:
        body = await held.enter_async_context(body_of(request))
        parse = partial(_parse, content_type=content_type, max_bytes=max_bytes)
        picture, wanted = await parsed(request, body, parse)
        body = b""  # what was parsed is held instead: a file in a form is a copy
        criteria = wanted.criteria(default_thresholds(model.variant), format_options(wanted))

        async def story(report: Report) -> bytes:
            image_id, found = await service.everything(
                picture, criteria, tenant=tenant, times=times, share=share, report=report
            )
            return await service.work(lambda: write_everything(found, image_id=image_id), share=share)

        if not wants_lines(request):
            content = await while_connected(request.receive, story(lambda _progress, _found: None))
            return timed_json(content, times)
        steps = Steps(story)
        return await begin_lines(
            request, steps.lines(), held.pop_all(), last=steps.result, patience_s=settings.deadline_s
        )


def _parse(body: bytes, *, content_type: str, max_bytes: int) -> tuple[str | NewPicture, EverythingFields]:
    media_type, options = parse_options_header(content_type)
    if media_type == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        upload, fields = parse_picture_form(EverythingFields, body, boundary=boundary, max_bytes=max_bytes)
        return NewPicture(upload.data, upload.image_id, upload.replace, upload.stretch), fields
    if media_type.startswith(b"image/") or media_type == b"application/octet-stream":
        raise UnsupportedMediaType(
            "/everything takes a picture as multipart/form-data (curl -F image=@truck.jpg), or JSON with the "
            "image_id of a picture that was sent to /embed."
        )
    wanted = parse_json(EverythingBody, body)
    return wanted.image_id, wanted
