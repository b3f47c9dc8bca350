"""CVAT's interactor: the part of nuclio's dashboard that CVAT calls, and the function itself at POST /.

CVAT sends the whole frame with each click, the same bytes for all clicks on it. Its key comes in Basic auth; direct
calls of the function carry none. GET / is the page: what / is depends on the method.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app.codecs.answers import MaskAnswer, MaskOptions
from app.codecs.prompts import PromptRequest
from app.codecs.rows import rows, write_row_lengths
from app.doors.door import Door
from app.doors.requests import ToolBody, masks_on, picture_file, reading
from app.doors.rings import area
from app.errors import NotOffered
from app.middleware.callers import share_of
from app.routes.endpoints import new_router
from app.routes.field_errors import invalid
from app.routes.schemas import LongText, Point, PointCoords
from app.routes.state import begin_stages, service_of

router = new_router(include_in_schema=False)

NAME = "sam2"
"""The function's name. For one that begins with pth-facebookresearch-sam, CVAT's page runs a decoder itself."""


class InvocationBody(ToolBody):
    """A frame and one prompt."""

    image: LongText
    pos_points: PointCoords | None = None
    neg_points: PointCoords | None = None
    obj_bbox: Annotated[list[Point], Field(max_length=2)] | None = None
    """Two opposite corners; an empty list if there is no box."""
    text_prompts: Any = None

    def prompt(self) -> PromptRequest:
        """Return the prompt. Raises ValidationFailed and NotOffered."""
        if self.text_prompts:
            raise NotOffered("Text prompts (text_prompts) are not supported. Use points and a box.")
        inside, outside = self.pos_points or [], self.neg_points or []
        box = None
        if self.obj_bbox:
            if len(self.obj_bbox) != 2:
                raise invalid("obj_bbox", "one corner is no box: give [[x0, y0], [x1, y1]]")
            (x0, x1), (y0, y1) = map(sorted, zip(*self.obj_bbox, strict=True))
            box = [x0, y0, x1, y1]
        return PromptRequest(
            point_coords=[*inside, *outside],
            point_labels=[1] * len(inside) + [0] * len(outside),
            box=box,
        )


@router.get("/api/functions")
async def functions(request: Request) -> Response:
    """All functions by name: there is one."""
    return JSONResponse({NAME: _descriptor(request)})


@router.get("/api/functions/{name}")
async def function(request: Request, name: str) -> Response:
    """The descriptor of the function, which CVAT wants before each invocation."""
    _check_name(name)
    return JSONResponse(_descriptor(request))


@router.post("/api/function_invocations")
async def invoke(request: Request) -> Response:
    """The best mask for a prompt, by way of the dashboard."""
    _check_name(request.headers.get("x-nuclio-function-name", NAME))
    return await _interact(request)


@router.post("/")
async def invoke_directly(request: Request) -> Response:
    """The same, without the dashboard."""
    return await _interact(request)


async def _interact(request: Request) -> Response:
    service = service_of(request)
    service.ready()  # admission comes before any work
    begin_stages(request)
    options, write = _FORMS[service.settings.cvat_answer]
    async with reading(request, InvocationBody) as body:
        prompt = body.prompt()
        data = await picture_file(request, body.image, where="image")
        _, decoded = await masks_on(request, data, [prompt], options=options)
    best = decoded.predictions[0][0]
    content = await service.work(partial(write, best), share=share_of(request))
    return Response(content, media_type="application/json")


def _write_shapes(mask: MaskAnswer) -> bytes:
    corners = ",".join(map(str, _corners(mask)))
    confidence = f'{{"spec_id":0,"value":"{mask.iou:.4f}"}}'
    return (
        f'{{"shapes":[{{"type":"mask","points":[{write_row_lengths(mask.runs)},{corners}],'
        f'"attributes":[{confidence}]}}]}}'
    ).encode()


def _write_crop(mask: MaskAnswer) -> bytes:
    corners = ",".join(map(str, _corners(mask)))
    largest = max(mask.polygons or (), key=area, default=[])
    outline = ",".join(f"[{x},{y}]" for x, y in largest)
    rest = f',"bounds":[{corners}],"points":[{outline}]}}'
    return b"".join((b'{"mask":', *rows(mask.runs), rest.encode()))


def _corners(mask: MaskAnswer) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom, all of them inclusive; an empty mask has the first pixel."""
    left, top, width, height = mask.bbox
    return left, top, left + max(width, 1) - 1, top + max(height, 1) - 1


_FORMS: dict[str, tuple[MaskOptions, Callable[[MaskAnswer], bytes]]] = {
    "shapes": (MaskOptions(mask_format="rle_uncompressed", bounds=True, best_only=True), _write_shapes),
    "crop": (MaskOptions(mask_format="polygons", bounds=True, best_only=True), _write_crop),
}
"""By SAM2_CVAT_ANSWER: what is asked of the service, and how it is written."""


def _check_name(name: str) -> None:
    if name != NAME:
        raise HTTPException(404, f"there is no function {name!r}; the only one is {NAME!r}")


def _descriptor(request: Request) -> dict[str, Any]:
    service = service_of(request)
    _, port = request.scope.get("server") or ("", None)
    return {
        "metadata": {
            "name": NAME,
            "namespace": "nuclio",
            "annotations": {
                "name": "SAM 2",
                "type": "interactor",
                "spec": "[]",
                "version": "2",  # with an older one, the button stays grey
                "min_pos_points": "1",
                "min_neg_points": "0",
                # CVAT takes any text for true, also "false".
                "startswith_box": "",
                "startswith_box_optional": "true",
                "animated_gif": "",
                "help_message": "Click on the object; a right click takes away. You may draw a box first.",
            },
        },
        "spec": {"description": "Segments the object at the clicks, or in the box, with SAM 2."},
        "status": {
            "state": "ready" if service.is_loaded else "building",
            "httpPort": port or service.settings.port,
        },
    }


CVAT = Door(
    name="cvat",
    router=router,
    paths=("/api/functions", "/api/functions/", "/api/function_invocations"),
    posts=frozenset({"/"}),
    error=lambda fault: {"error": fault.message},
)
