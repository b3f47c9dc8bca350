"""X-AnyLabeling's "Remote-Server" model: /health and /v1/.

It sends the picture's file with every click, and while the mouse moves if "auto decode" is on. Its key comes in the
header Token.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, Self

from fastapi import HTTPException, Request, Response
from fastapi.datastructures import Headers
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from app.codecs.answers import MaskAnswer, MaskOptions
from app.codecs.prompts import MAX_POINTS, PromptRequest, check_number
from app.codecs.thinning import thin
from app.doors.door import Door, Fault
from app.doors.requests import ToolBody, json_of, masks_on, picture_file, put_together, reading
from app.doors.rings import area, outermost
from app.errors import NotOffered
from app.middleware.access import Scope
from app.middleware.callers import share_of
from app.routes.endpoints import new_router
from app.routes.field_errors import invalid
from app.routes.schemas import MOST_PROMPTS, Coordinate, LongText
from app.routes.state import begin_stages, service_of

router = new_router(include_in_schema=False)

_LABEL = "AUTOLABEL_OBJECT"
"""Marks a shape that gets its label from the user."""
_LEAST_PART = 0.01
"""Each ring becomes an object that the user has to label or to delete, so specks are left out: rings of less than
this fraction of the mask's largest one."""
_FINENESS = 10
"""The tool's own default, of 1 to 100 in steps of _FINENESS_STEP."""
_FINENESS_STEP = 0.0001
_WIDGETS = (
    "button_add_point",
    "button_remove_point",
    "button_add_rect",
    "button_clear",
    "button_finish_object",
    "mask_fineness_slider",
    "mask_fineness_value_label",
)
"""The controls that the tool shows."""


class Mark(ToolBody):
    """A point, or a rectangle as it was dragged: any corner comes first."""

    type: Literal["point", "rectangle"]
    data: Annotated[list[Coordinate], Field(max_length=4)]
    label: Annotated[int, Field(ge=0, le=1)] = 1

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Self:
        wanted = {"point": 2, "rectangle": 4}[self.type]
        if len(self.data) != wanted:
            raise ValueError(f"the data of a {self.type} has {wanted} numbers, not {len(self.data)}")
        if self.type == "rectangle" and not self.label:
            raise ValueError("a rectangle has label 1; to take something away, use points with label 0")
        return self


class Params(ToolBody):
    """What the tool's controls say."""

    marks: Annotated[list[Mark], Field(max_length=MAX_POINTS + MOST_PROMPTS, fail_fast=True)] | None = None
    epsilon_factor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = _FINENESS * _FINENESS_STEP
    """Tolerance of thinning an outline, as a fraction of its length."""
    text_prompt: str | None = None


class PredictBody(ToolBody):
    """A picture, and what was marked on it."""

    model: str
    image: LongText
    params: Params = Field(default_factory=Params)


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether the model is loaded; 503 if not."""
    service_of(request).ready()
    return JSONResponse(
        {
            "status": "healthy",
            "models_loaded": 1,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The model that is loaded, with the controls that it needs."""
    name = service_of(request).ready().name
    return JSONResponse(_success({name: _described(name)}))


@router.get("/v1/models/{model}/info")
async def info(request: Request, model: str) -> Response:
    """The same for one model."""
    name = service_of(request).ready().name
    if model != name:
        raise HTTPException(404, f"the model that is loaded is {name}")
    return JSONResponse(_success(_described(name)))


@router.post("/v1/predict")
async def predict(request: Request) -> Response:
    """A polygon for each part of each object that is marked; none without marks that add something."""
    name = service_of(request).ready().name
    begin_stages(request)
    async with reading(request, PredictBody) as body:
        params = body.params
        if body.model != name:
            raise invalid(
                "model", f"{body.model[:80]!r} is not loaded, {name!r} is; choose Remote-Server again"
            )
        if params.text_prompt:
            raise NotOffered("Text prompts (text_prompt) are not supported. Use points and rectangles.")
        prompts = await _prompts(request, params.marks or [])
        if not prompts:
            return JSONResponse(_found([]))
        data = await picture_file(request, body.image, where="image")
        options = MaskOptions(mask_format="polygons", best_only=True)
        _, decoded = await masks_on(request, data, prompts, options=options)
    best = [mask for masks in decoded.predictions for mask in masks]

    def shapes() -> object:
        return _found([shape for mask in best for shape in _objects(mask, fraction=params.epsilon_factor)])

    return await json_of(request, shapes)


@router.api_route("/v1/video/{rest:path}", methods=["GET", "POST"])
async def video(rest: str) -> Response:
    """What its server has and this service does not."""
    raise NotOffered(f"/v1/video/{rest} is not supported: only points and rectangles on pictures are.")


def _described(name: str) -> dict[str, Any]:
    return {
        "display_name": f"SAM 2 ({name})",
        "widgets": [
            {"name": widget, "value": _FINENESS if widget == "mask_fineness_slider" else None}
            for widget in _WIDGETS
        ],
        "params": {},
        "capabilities": {},
        "batch_processing_mode": None,  # "run all images" has no marks
    }


async def _prompts(request: Request, marks: list[Mark]) -> list[PromptRequest]:
    """One prompt for each rectangle, or one of the points alone; none where points only take something away.

    Raises InvalidPrompt for too many rectangles.
    """
    most = service_of(request).settings.max_prompts
    check_number(sum(mark.type == "rectangle" for mark in marks), most=most)
    return await put_together(request, partial(_grouped, marks), marks=len(marks), share=share_of(request))


def _grouped(marks: list[Mark]) -> list[PromptRequest]:
    points = [mark for mark in marks if mark.type == "point"]
    boxes = [_corners(mark.data) for mark in marks if mark.type == "rectangle"]
    if not boxes:
        return [_prompt(points, None)] if any(point.label for point in points) else []
    owned: list[list[Mark]] = [[] for _ in boxes]
    for point in points:
        owned[_owner(point, boxes)].append(point)
    return [_prompt(its_points, box) for its_points, box in zip(owned, boxes, strict=True)]


def _prompt(points: list[Mark], box: list[float] | None) -> PromptRequest:
    return PromptRequest(
        point_coords=[point.data for point in points],
        point_labels=[point.label for point in points],
        box=box,
    )


def _corners(data: list[float]) -> list[float]:
    x0, y0, x1, y1 = data
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _owner(point: Mark, boxes: list[list[float]]) -> int:
    """The rectangle whose object a point belongs to: the nearest one, of several around it the smallest."""
    x, y = point.data

    def rank(number: int) -> tuple[float, float]:
        x0, y0, x1, y1 = boxes[number]
        dx, dy = max(x0 - x, 0.0, x - x1), max(y0 - y, 0.0, y - y1)
        return dx * dx + dy * dy, (x1 - x0) * (y1 - y0)  # `**` fails where a product becomes infinite

    return min(range(len(boxes)), key=rank)


def _objects(mask: MaskAnswer, *, fraction: float) -> list[dict[str, Any]]:
    rings = mask.polygons or []
    areas = [area(ring) for ring in rings]
    least = _LEAST_PART * max(areas, default=0.0)
    parts = outermost([ring for ring, its_area in zip(rings, areas, strict=True) if its_area >= least])
    return [
        {"label": _LABEL, "shape_type": "polygon", "points": ring, "score": mask.iou}
        for ring in thin(parts, fraction=fraction)
    ]


def _found(shapes: list[dict[str, Any]]) -> object:
    return _success({"shapes": shapes, "description": "", "replace": False})


def _success(data: object) -> object:
    return {"success": True, "data": data}


def _error(fault: Fault) -> object:
    return {"success": False, "error": {"code": fault.code, "message": fault.message}}


def _token(scope: Scope) -> str:
    return Headers(scope=scope).get("token", "").strip()


X_ANYLABELING = Door(
    name="x-anylabeling",
    router=router,
    paths=("/health", "/v1/models", "/v1/models/", "/v1/predict", "/v1/video/"),
    error=_error,
    free=frozenset({"/health"}),
    key=_token,
)
