"""The endpoints of stored images: list, describe, delete, and download their embeddings. No logic."""

from hashlib import sha256
from typing import Annotated

from fastapi import Query, Request, Response

from app.middleware.callers import share_of, tenant_of
from app.routes import schemas
from app.routes.endpoints import new_router
from app.routes.etags import client_has
from app.routes.image_ids import ImageId
from app.routes.state import begin_stages, service_of
from app.service.segmentation import Exported
from app.storage.pages import place_as_text
from app.storage.store import ImageRecord

router = new_router()


@router.get("/images", response_model=schemas.ImagesReply)
async def list_images(request: Request, query: Annotated[schemas.PageQuery, Query()]) -> schemas.ImagesReply:
    """Stored pictures, newest first."""
    service = service_of(request)
    records = await service.describe_all(tenant=tenant_of(request), limit=query.limit + 1, after=query.after)
    page = records[: query.limit]
    return schemas.ImagesReply(
        images=[_image_reply(record) for record in page],
        next=place_as_text(page[-1].created, page[-1].image_id) if len(records) > query.limit else None,
    )


@router.get("/images/{image_id}", response_model=schemas.ImageReply)
async def get_image(request: Request, image_id: ImageId) -> schemas.ImageReply:
    """Describes a stored picture."""
    service = service_of(request)
    return _image_reply(await service.describe(image_id, tenant=tenant_of(request)))


@router.delete("/images/{image_id}", status_code=204)
async def delete_image(request: Request, image_id: ImageId) -> None:
    """Forget a picture. Returns 204 even if there is nothing to forget."""
    await service_of(request).delete(image_id, tenant=tenant_of(request))


@router.get(
    "/images/{image_id}/embedding",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has this embedding already."},
    },
)
async def get_embedding(
    request: Request, image_id: ImageId, query: Annotated[schemas.EmbeddingQuery, Query()]
) -> Response:
    """The three feature maps, for a decoder that runs elsewhere, for example in a browser."""
    service = service_of(request)
    record = await service.describe(image_id, tenant=tenant_of(request))
    headers = _headers(record.content, record, query)
    if client_has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    exported = await service.export(
        image_id,
        dtype=query.dtype,
        form=query.format,
        tenant=tenant_of(request),
        times=begin_stages(request),
        share=share_of(request),
    )
    headers = _headers(record.content, exported, query)  # it may be another device's
    headers["Content-Disposition"] = f'attachment; filename="{image_id.replace(":", "_")}.{query.format}"'
    return Response(exported.content, media_type="application/octet-stream", headers=headers)


def _headers(content: str, made: ImageRecord | Exported, query: schemas.EmbeddingQuery) -> dict[str, str]:
    # All of the content's key: the same file, read with another stretch, has other maps.
    content_hash = sha256(content.encode()).hexdigest()[:32]
    return {
        "ETag": f'"{content_hash}-{made.fingerprint[:16]}-{query.dtype}-{query.format}"',
        "Cache-Control": "private, no-cache",
        "X-SAM2-Model": made.model,
        "X-SAM2-Fingerprint": made.fingerprint,
    }


def _image_reply(record: ImageRecord) -> schemas.ImageReply:
    return schemas.ImageReply(
        image_id=record.image_id,
        width=record.width,
        height=record.height,
        model=record.model,
        bytes=record.nbytes,
        created=record.created,
        used=record.used,
        tiers=list(record.tiers),
    )
