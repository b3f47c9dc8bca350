"""Roboflow's inference API for SAM 2 and for SAM 3's prompts: /sam2/ and /sam3/.

The client `inference-sdk` sends the picture's file with every request, and its key in the body. A picture is known
by its bytes alone, so a name that comes back with another picture cannot bring the masks of the old one.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Discriminator, Field, Tag

from app.codecs.answers import Decoded, MaskAnswer, MaskFormat, MaskOptions
from app.codecs.logit_files import npz, npz_bytes
from app.codecs.logits import decode_logits
from app.codecs.prompts import MAX_POINTS, PromptRequest
from app.doors.door import Door
from app.doors.keys_in_bodies import KeyedBody, key_in_query, reading_with_key
from app.doors.requests import ToolBody, embedded, json_of, masks_on, picture_at, picture_file
from app.errors import NotOffered
from app.middleware.callers import share_of
from app.routes.endpoints import new_router
from app.routes.field_errors import invalid
from app.routes.image_ids import ImageId
from app.routes.schemas import MOST_PROMPTS, Coordinate, LongText
from app.routes.state import begin_stages, service_of

router = new_router(include_in_schema=False)

_MOST_BINARY_BYTES = 1 << 30
_MASK_FORMATS: dict[str, MaskFormat] = {"json": "polygons", "rle": "rle", "binary": "rle"}
_OUTLINE_PX = 0.5
"""Points of an outline are whole pixels, so that smaller deviations would not show."""


class Picture(ToolBody):
    """A picture's file, or where it is."""

    type: Literal["base64", "url"]
    value: LongText


class Box(ToolBody):
    """A box by its centre."""

    x: Coordinate
    y: Coordinate
    width: Annotated[Coordinate, Field(gt=0)]
    height: Annotated[Coordinate, Field(gt=0)]


class Point(ToolBody):
    """A click."""

    x: Coordinate
    y: Coordinate
    positive: bool = True


class Prompt(ToolBody):
    """One object."""

    box: Box | None = None
    points: Annotated[list[Point], Field(max_length=MAX_POINTS, fail_fast=True)] | None = None


PromptList = Annotated[list[Prompt], Field(max_length=MOST_PROMPTS, fail_fast=True)]


class PromptSet(ToolBody):
    """The form that the client sends."""

    prompts: PromptList | None = None


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    return "set" if isinstance(value, dict) and "prompts" in value else "prompt"


Prompts = Annotated[
    Annotated[PromptSet, Tag("set")] | Annotated[PromptList, Tag("list")] | Annotated[Prompt, Tag("prompt")],
    Discriminator(_form),
]


class EmbedBody(KeyedBody):
    """A picture, and a name for it."""

    image: Picture
    image_id: ImageId | None = None


class SegmentBody(KeyedBody):
    """A picture and prompts. An image_id is passed over, because the picture is there."""

    image: Picture
    prompts: Prompts | None = None
    format: Literal["json", "rle", "binary"] = "json"
    multimask_output: bool = True
    save_logits_to_cache: bool = False
    load_logits_from_cache: bool = False


@router.post("/sam2/embed_image")
@router.post("/sam3/embed_image")
async def embed_image(request: Request) -> Response:
    """Embed a picture ahead of the first click on it."""
    started = perf_counter()
    begin_stages(request)
    async with reading_with_key(request, EmbedBody) as (admitted, body), _file(admitted, body.image) as data:
        found = await embedded(admitted, data, image_id=body.image_id)
    return JSONResponse({"image_id": found.image_id, "time": perf_counter() - started})


@router.post("/sam2/segment_image")
@router.post("/sam3/visual_segment")
async def segment_image(request: Request) -> Response:
    """The best mask of each prompt, in order."""
    started = perf_counter()
    begin_stages(request)
    async with reading_with_key(request, SegmentBody) as (admitted, body):
        if body.save_logits_to_cache or body.load_logits_from_cache:
            raise NotOffered(
                "Logits are not kept between requests (save_logits_to_cache, load_logits_from_cache). Send all "
                "points of the object, and neither of these."
            )
        async with _file(admitted, body.image) as data:
            options = MaskOptions(
                mask_format=_MASK_FORMATS[body.format],
                simplify=_OUTLINE_PX if body.format == "json" else 0.0,
                return_logits=body.format == "binary",
                best_only=True,
            )
            prompts = _prompts(body) or [await _whole(admitted, data)]
            _, decoded = await masks_on(admitted, data, prompts, options=options)
    masks = [mask for masks in decoded.predictions for mask in masks]
    if body.format == "binary":
        return _binary(request, masks, decoded)

    def reply() -> object:
        return {"predictions": [_prediction(mask) for mask in masks], "time": perf_counter() - started}

    return await json_of(request, reply)


@router.api_route("/sam2/{rest:path}", methods=["GET", "POST"])
@router.api_route("/sam3/{rest:path}", methods=["GET", "POST"])
async def others(request: Request) -> Response:
    """What Roboflow's server has and this service does not."""
    raise NotOffered(
        f"{request.method} {request.url.path} is not supported: only POST of embed_image and segment_image below "
        "/sam2/, and of embed_image and visual_segment below /sam3/."
    )


@asynccontextmanager
async def _file(request: Request, picture: Picture) -> AsyncIterator[bytes]:
    if picture.type == "base64":
        yield await picture_file(request, picture.value, where="image.value")
    else:
        async with picture_at(request, str(picture.value)) as data:
            yield data


def _prompts(body: SegmentBody) -> list[PromptRequest]:
    given = body.prompts.prompts if isinstance(body.prompts, PromptSet) else body.prompts
    prompts = [given] if isinstance(given, Prompt) else given or []
    return [
        PromptRequest(
            point_coords=[[point.x, point.y] for point in prompt.points or ()],
            point_labels=[int(point.positive) for point in prompt.points or ()],
            box=_corners(prompt.box) if prompt.box is not None else None,
            multimask_output=body.multimask_output,
        )
        for prompt in prompts
    ]


async def _whole(request: Request, data: bytes) -> PromptRequest:
    """The whole picture as a box: without prompts, this asks for what fills the picture."""
    found = await embedded(request, data)
    return PromptRequest(box=(0, 0, found.width, found.height), multimask_output=True)


def _corners(box: Box) -> list[float]:
    x, y, dx, dy = box.x, box.y, box.width / 2, box.height / 2
    return [x - dx, y - dy, x + dx, y + dy]


def _prediction(mask: MaskAnswer) -> dict[str, Any]:
    if mask.outline is None:
        height, width = mask.size
        return {
            "masks": {"size": [height, width], "counts": mask.counts},
            "confidence": mask.iou,
            "format": "rle",
        }
    rings = [_in_pixels(ring, *mask.size) for ring in mask.outline.outer]
    return {"masks": [ring for ring in rings if len(ring) > 2], "confidence": mask.iou, "format": "polygon"}


def _in_pixels(ring: npt.ArrayLike, height: int, width: int) -> list[list[int]]:
    """The pixels in which the points of an outline lie, each once."""
    pixels = np.floor(ring).astype(int).clip(0, (width - 1, height - 1))
    pixels = pixels[(pixels != np.roll(pixels, 1, axis=0)).any(axis=1)]
    corners: list[list[int]] = pixels.tolist()
    return corners


def _binary(request: Request, masks: list[MaskAnswer], decoded: Decoded) -> Response:
    """An npz file, made while it is sent: several masks of a large picture are larger than a server's memory."""
    service, share = service_of(request), share_of(request)
    height, width = decoded.height, decoded.width
    if (size := npz_bytes(len(masks), height=height, width=width)) > _MOST_BINARY_BYTES:
        raise invalid(
            "format",
            f"the file of {len(masks)} masks would have {size >> 20} MiB; the most is {_MOST_BINARY_BYTES >> 20}. "
            "Send fewer prompts in one request, or use format 'rle'",
        )

    def begin() -> Iterator[bytes]:
        size = service.ready().mask_size
        return npz(
            [decode_logits(mask.logits or "", size=size) for mask in masks], height=height, width=width
        )

    async def pieces() -> AsyncIterator[bytes]:
        file = await service.work(begin, share=share)
        while (piece := await service.work(partial(next, file, None), share=share)) is not None:
            yield piece

    return StreamingResponse(pieces(), media_type="application/octet-stream")


ROBOFLOW = Door(
    name="roboflow",
    router=router,
    paths=("/sam2/", "/sam3/"),
    error=lambda fault: {"message": fault.message, "code": fault.code},
    free=frozenset(
        {
            "/sam2/embed_image",
            "/sam2/segment_image",
            "/sam3/embed_image",
            "/sam3/visual_segment",
            "/sam3/concept_segment",  # 501 in words: the client has it, and sends its key in the body there, too
        }
    ),
    key=key_in_query,
)
