"""POST /segment: a picture and prompts in one request, for clients that need only one answer. No logic.

A picture that is sent twice is embedded once here too. A second request costs its upload and a click.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response

from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes import schemas
from app.routes.bodies import body_of, parsed
from app.routes.endpoints import new_router
from app.routes.replies import decode_reply, mask_options, prompt_requests
from app.routes.segment_forms import PICTURE_FORM, parse_segment
from app.routes.state import begin_stages, service_of

router = new_router()

_PLAIN = ("mask_format", "mask_input")


def _form() -> dict[str, Any]:
    """The form for openapi.json: a picture, and the fields of schemas.PromptsBody, which are JSON."""
    prompts = schemas.PromptsBody.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    properties = PICTURE_FORM | prompts
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["image"], "properties": properties},
                    "encoding": {
                        name: {"contentType": "application/json"} for name in prompts if name not in _PLAIN
                    },
                    "example": {"point_coords": [[500, 375]], "point_labels": [1]},
                }
            },
        }
    }


@router.post("/segment", response_model=schemas.DecodeReply, openapi_extra=_form())
async def segment(request: Request, _: Annotated[schemas.NoFields, Query()]) -> Response:
    """A picture and prompts in one request; the reply is that of /decode.

    The picture is stored as by /embed, so further clicks can go to /decode with the reply's image_id. The masks
    are of this picture, even if another picture takes its id during the request. A DELETE of the id during the
    request counts as one after the reply: the masks are returned, and nothing is stored. There is no 404.
    """
    service, times = service_of(request), begin_stages(request)
    service.ready()  # admission comes before any work
    content_type = request.headers.get("content-type", "")
    max_bytes = service.settings.max_upload_mib * 2**20
    async with body_of(request) as body:
        parse = partial(parse_segment, content_type=content_type, max_bytes=max_bytes)
        upload, wanted = await parsed(request, body, parse)
        body = b""  # what was parsed is held instead: a file in a form is a copy
        story = service.segment(
            upload.data,
            prompt_requests(wanted.all_prompts()),
            options=mask_options(wanted),
            tenant=tenant_of(request),
            times=times,
            share=share_of(request),
            image_id=upload.image_id,
            replace=upload.replace,
            stretch=upload.stretch,
        )
        embedded, decoded = await while_connected(request.receive, story)
    return await decode_reply(request, decoded, image_id=embedded.image_id, times=times)
