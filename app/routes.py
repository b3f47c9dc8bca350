"""The endpoints: parse, call the service, shape the reply. No logic."""

import io
from typing import Annotated, Any

import numpy as np
import safetensors.numpy
from fastapi import APIRouter, Query, Request, Response

from app import schemas
from app.answers import MaskAnswer
from app.callers import share_of
from app.connection import while_connected
from app.metrics import CONTENT_TYPE
from app.prompts import PromptRequest, RleMask
from app.remote_pictures import RemotePictures
from app.service import Decoded, Embedded, SegmentationService
from app.stages import StageTimes
from app.store import ImageRecord
from app.uploads import BodyBudget, Upload, max_body_bytes, parse_json, parse_upload
from model.types import Embedding

router = APIRouter()

_PARSED_ON_LOOP_BYTES = 64 * 1024
"""Parsing less than this takes about as long as handing it to a thread."""
_WRITTEN_ON_LOOP_PREDICTIONS = 2
"""The same for writing a reply."""


def _service(request: Request) -> SegmentationService:
    service: SegmentationService = request.app.state.service
    return service


def _budget(request: Request) -> BodyBudget:
    budget: BodyBudget = request.app.state.body_budget
    return budget


def _stage_times(request: Request) -> StageTimes:
    """Where a request notes its stages: access.py finds them in the scope, also where it fails."""
    request.scope["stages"] = times = StageTimes()
    return times


def _remote(request: Request) -> RemotePictures:
    pictures: RemotePictures = request.app.state.remote_pictures
    return pictures


_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "Or called 'file'."},
                        "image_id": {"type": "string", "pattern": schemas.IMAGE_ID_PATTERN},
                        "replace": {"type": "boolean"},
                    },
                }
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


@router.post("/embed", response_model=schemas.EmbedReply, openapi_extra=_UPLOAD_BODY)
async def embed(request: Request, query: Annotated[schemas.EmbedFields, Query()]) -> Response:
    """Embed a picture once, to decode any number of prompts on it.

    The id is `image_id`, the client's own name for the picture, or the SHA-256 of the uploaded bytes.
    """
    service, settings, times = _service(request), _service(request).settings, _stage_times(request)
    model = service.ready().name
    limit = f"{settings.max_upload_mib} MiB (SAM2_MAX_UPLOAD_MIB)"
    max_bytes = max_body_bytes(settings.max_upload_mib)
    share, budget = share_of(request), _budget(request)
    async with budget.read(request, max_bytes=max_bytes, limit=limit, share=share) as body:

        def parse() -> Upload:
            return parse_upload(
                body,
                headers=request.headers,
                query=query,
                max_bytes=settings.max_upload_mib * 2**20,
            )

        upload = parse() if len(body) < _PARSED_ON_LOOP_BYTES else await service.work(parse, share=share)

        async def story() -> Embedded:
            with budget.holding(share) as arrived:
                data, url = upload.data, upload.url
                if url is not None:
                    with times.during("fetch"):
                        data = await _remote(request).fetch(url, arrived=arrived)
                return await service.embed(
                    data, image_id=upload.image_id, replace=upload.replace, times=times, share=share
                )

        embedded = await while_connected(request.receive, story())
    reply = schemas.EmbedReply(
        image_id=embedded.image_id,
        width=embedded.width,
        height=embedded.height,
        model=model,
        cached=embedded.cached,
    )
    return _json(request, reply.model_dump_json().encode(), times)


@router.post("/decode", response_model=schemas.DecodeReply, openapi_extra=_DECODE_BODY)
async def decode(request: Request, _: Annotated[schemas.NoFields, Query()]) -> Response:
    """Masks for one or many prompts on an embedded picture, with their predicted IoU."""
    service, settings, times = _service(request), _service(request).settings, _stage_times(request)
    model = service.ready().name
    limit = f"{settings.max_upload_mib} MiB (SAM2_MAX_UPLOAD_MIB)"
    max_bytes = max_body_bytes(settings.max_upload_mib)
    share = share_of(request)
    async with _budget(request).read(request, max_bytes=max_bytes, limit=limit, share=share) as body:

        def parse() -> schemas.DecodeBody:
            return parse_json(schemas.DecodeBody, body)

        wanted = parse() if len(body) < _PARSED_ON_LOOP_BYTES else await service.work(parse, share=share)
        decoded = await while_connected(
            request.receive,
            service.decode(
                wanted.image_id,
                [_prompt_request(prompt) for prompt in wanted.all_prompts()],
                mask_format=wanted.mask_format,
                return_logits=wanted.return_logits,
                times=times,
                share=share,
            ),
        )

    def write() -> bytes:
        return _decode_reply(decoded, image_id=wanted.image_id, model=model)

    few = len(decoded.predictions) <= _WRITTEN_ON_LOOP_PREDICTIONS
    return _json(request, write() if few else await service.work(write, share=share), times)


@router.get("/images", response_model=schemas.ImagesReply)
async def list_images(request: Request, query: Annotated[schemas.PageQuery, Query()]) -> schemas.ImagesReply:
    """Stored pictures, newest first."""
    service = _service(request)
    model = service.ready().name
    records = await service.store.describe_all(limit=query.limit + 1, after=query.after)
    page = records[: query.limit]
    return schemas.ImagesReply(
        images=[_image_reply(record, model) for record in page],
        next=page[-1].image_id if len(records) > query.limit else None,
    )


@router.get("/images/{image_id}", response_model=schemas.ImageReply)
async def get_image(request: Request, image_id: str) -> schemas.ImageReply:
    """What is known of a stored picture."""
    service = _service(request)
    return _image_reply(await service.store.describe(image_id), service.ready().name)


@router.delete("/images/{image_id}", status_code=204)
async def delete_image(request: Request, image_id: str) -> None:
    """Forget a picture; also answers 204 where there is nothing to forget."""
    await _service(request).store.delete(image_id)


@router.get(
    "/images/{image_id}/embedding",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has this embedding already."},
    },
)
async def get_embedding(
    request: Request, image_id: str, query: Annotated[schemas.EmbeddingQuery, Query()]
) -> Response:
    """The three feature maps, for a decoder that runs elsewhere: in a browser, say."""
    service = _service(request)
    segmenter = service.ready()
    record = await service.store.describe(image_id)
    etag = f'"{record.content[:32]}-{segmenter.fingerprint[:16]}-{query.dtype}-{query.format}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "X-SAM2-Model": segmenter.name}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    embedding = await service.store.get(image_id)
    content = await service.work(lambda: _pack(embedding, query), share=share_of(request))
    headers["Content-Disposition"] = f'attachment; filename="{image_id.replace(":", "_")}.{query.format}"'
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.get("/model", response_model=schemas.ModelReply)
async def get_model(request: Request) -> schemas.ModelReply:
    """The model that answers, and what the server accepts."""
    service = _service(request)
    settings, segmenter = service.settings, service.ready()
    return schemas.ModelReply(
        model=segmenter.name,
        variant=settings.model,
        fingerprint=segmenter.fingerprint,
        device=segmenter.device_name,
        dtype=segmenter.dtype_name,
        mask_size=segmenter.mask_size,
        limits=schemas.LimitsReply(
            max_upload_mib=settings.max_upload_mib,
            max_image_megapixels=settings.max_image_megapixels,
            max_prompts=settings.max_prompts,
            max_points=schemas.MAX_POINTS,
            deadline_s=settings.deadline_s,
            cache_mib=settings.cache_mib,
        ),
    )


@router.get("/healthz", response_model=schemas.StatusReply)
async def healthz() -> schemas.StatusReply:
    """The process answers."""
    return schemas.StatusReply(status="ok")


@router.get("/readyz", response_model=schemas.StatusReply)
async def readyz(request: Request) -> schemas.StatusReply:
    """The model is loaded and warm; 503 while it is not, while the server stops, and where it is broken."""
    _service(request).ready()
    return schemas.StatusReply(status="ready")


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(_service(request).metrics.render(), media_type=CONTENT_TYPE)


def _prompt_request(prompt: schemas.PromptBody) -> PromptRequest:
    mask_input: str | RleMask | None
    if isinstance(prompt.mask_input, schemas.Rle):
        height, width = prompt.mask_input.size
        mask_input = RleMask(height=height, width=width, counts=prompt.mask_input.counts)
    else:
        mask_input = prompt.mask_input
    return PromptRequest(
        point_coords=prompt.point_coords or (),
        point_labels=prompt.point_labels or (),
        box=prompt.box,
        mask_input=mask_input,
        multimask_output=prompt.multimask_output,
    )


def _decode_reply(decoded: Decoded, *, image_id: str, model: str) -> bytes:
    """The reply as JSON, one prediction at a time: each holds the interpreter while it is written."""
    size = [decoded.height, decoded.width]
    reply = schemas.DecodeReply(
        image_id=image_id, width=decoded.width, height=decoded.height, model=model, predictions=[]
    )
    predictions = ",".join(
        schemas.PredictionReply(masks=[_mask_reply(mask, size) for mask in masks]).model_dump_json(
            exclude_none=True
        )
        for masks in decoded.predictions
    )
    return f"{reply.model_dump_json().removesuffix(']}')}{predictions}]}}".encode()


def _mask_reply(mask: MaskAnswer, size: list[int]) -> schemas.MaskReply:
    return schemas.MaskReply(
        rle=schemas.Rle.model_construct(size=size, counts=mask.counts) if mask.counts is not None else None,
        polygons=mask.polygons,
        holes=mask.holes,
        png=mask.png,
        iou=mask.iou,
        stability=mask.stability,
        area=mask.area,
        bbox=mask.bbox,
        logits=mask.logits,
    )


def _image_reply(record: ImageRecord, model: str) -> schemas.ImageReply:
    return schemas.ImageReply(
        image_id=record.image_id,
        width=record.width,
        height=record.height,
        model=model,
        bytes=record.nbytes,
        created=record.created,
        used=record.used,
        tiers=list(record.tiers),
    )


def _pack(embedding: Embedding, query: schemas.EmbeddingQuery) -> bytes:
    arrays = embedding.to_arrays(query.dtype)
    if query.format == "safetensors":
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _json(request: Request, content: bytes, times: StageTimes) -> Response:
    stages = times.seconds
    _service(request).metrics.observe_stages(stages)
    timing = ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in stages.items())
    return Response(content, media_type="application/json", headers={"Server-Timing": timing})
