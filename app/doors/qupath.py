"""QuPath's SAM extension: the API of samapi, at /sam/.

It sends the pixels of the viewer's region with each prompt, the same bytes for all prompts within one region. It
can send no key.
"""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from app.codecs.answers import MaskAnswer, MaskOptions
from app.codecs.prompts import PromptRequest
from app.doors.door import Door
from app.doors.requests import ToolBody, json_of, masks_on, picture_file, reading
from app.doors.rings import closed, with_holes
from app.errors import NotOffered
from app.routes.endpoints import new_router
from app.routes.schemas import Box, LongText, PointCoords, PointLabels
from app.routes.state import begin_stages, service_of
from app.version import VERSION

router = new_router(prefix="/sam", include_in_schema=False)


class SamBody(ToolBody):
    """A picture and one prompt."""

    b64img: LongText
    type: str = ""
    bbox: Box | None = None
    """Two opposite corners: which come first depends on how the viewer is turned."""
    point_coords: PointCoords | None = None
    point_labels: PointLabels | None = None
    b64mask: str | None = None
    multimask_output: bool = False


@router.post("/")
async def predict(request: Request) -> Response:
    """Masks as a list of GeoJSON features, the best first; those that are empty are left out."""
    service_of(request).ready()  # admission comes before any work
    begin_stages(request)
    async with reading(request, SamBody) as body:
        if body.b64mask:
            raise NotOffered("Masks as prompts (b64mask) are not supported. Use a box and points.")
        if body.bbox is None and body.point_labels and not any(body.point_labels):
            # Those of the object lie outside of the viewer, and QuPath leaves them out.
            return JSONResponse([])
        prompt = PromptRequest(
            point_coords=body.point_coords or (),
            point_labels=body.point_labels or (),
            box=_box(body.bbox) if body.bbox is not None else None,
            multimask_output=body.multimask_output,
        )
        data = await picture_file(request, body.b64img, where="b64img")
        _, decoded = await masks_on(request, data, [prompt], options=MaskOptions(mask_format="polygons"))
    masks = decoded.predictions[0]

    def features() -> list[dict[str, Any]]:
        model = decoded.model
        return [_feature(mask, model) for mask in masks if mask.polygons]  # QuPath would add what nobody sees

    return await json_of(request, features)


@router.get("/version/")
async def version() -> Response:
    """The version, as text."""
    return PlainTextResponse(VERSION)


@router.get("/weights/")
async def weights(request: Request, type: str = "") -> Response:  # noqa: A002  # its name in the API
    """The list from which the user chooses: the model that is loaded, whatever type is asked for."""
    model = service_of(request).ready().name
    return JSONResponse([{"type": type or model, "name": model, "url": model}])


@router.get("/progress/")
async def progress() -> Response:
    """Nothing is downloaded for a client."""
    return JSONResponse({"message": "", "percent": -1})


@router.api_route("/{rest:path}", methods=["GET", "POST"])
async def others(rest: str) -> Response:
    """What samapi has and this service does not."""
    raise NotOffered(f"/sam/{rest} is not supported: only prompts with a box and points are.")


def _box(corners: list[float]) -> list[float]:
    x0, y0, x1, y1 = corners
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _feature(mask: MaskAnswer, model: str) -> dict[str, Any]:
    parts = [[closed(ring) for ring in part] for part in with_holes(mask.polygons or [], mask.holes or [])]
    whole = {"type": "Polygon", "coordinates": parts[0]} if len(parts) == 1 else None
    return {
        "type": "Feature",
        "geometry": whole or {"type": "MultiPolygon", "coordinates": parts},
        "properties": {"object_idx": 0, "label": "object", "quality": mask.iou, "sam_model": model},
    }


QUPATH = Door(
    name="qupath",
    router=router,
    paths=("/sam/",),
    error=lambda fault: {"detail": fault.message},
)
