"""The endpoints /model, /healthz, /readyz and /metrics: what a server says of itself."""

from fastapi import Request, Response

from app.codecs.prompts import MAX_POINTS
from app.routes import schemas
from app.routes.endpoints import new_router
from app.routes.state import service_of
from app.routes.track_replies import track_limits
from app.telemetry.metrics import CONTENT_TYPE
from model.everything.defaults import default_thresholds

router = new_router()


@router.get("/model", response_model=schemas.ModelReply)
async def get_model(request: Request) -> schemas.ModelReply:
    """The model, and the limits of the server."""
    service = service_of(request)
    settings, segmenter = service.settings, service.ready()
    return schemas.ModelReply(
        model=segmenter.name,
        variant=segmenter.variant,
        fingerprint=segmenter.fingerprint,
        device=segmenter.device_name,
        dtype=segmenter.dtype_name,
        mask_size=segmenter.mask_size,
        everything=schemas.EverythingDefaults.model_validate(
            default_thresholds(segmenter.variant), from_attributes=True
        ),
        limits=schemas.LimitsReply(
            max_upload_mib=settings.max_upload_mib,
            max_image_megapixels=settings.max_image_megapixels,
            max_video_mib=min(settings.max_video_mib, settings.max_bodies_mib),
            max_video_frames=settings.max_video_frames,
            max_prompts=settings.max_prompts,
            max_points=MAX_POINTS,
            deadline_s=settings.deadline_s,
            everything_deadline_s=settings.everything_deadline_s,
            device_cache_mib=service.cache_limits.device_bytes // 2**20,
            host_cache_mib=service.cache_limits.host_bytes // 2**20,
            disk_cache_mib=settings.disk_cache_mib,
            image_ttl_s=settings.image_ttl_s,
        ),
        tracks=track_limits(service) if settings.video != "off" else None,
    )


@router.get("/healthz", response_model=schemas.StatusReply, response_model_exclude_none=True)
async def healthz() -> schemas.StatusReply:
    """The process answers."""
    return schemas.StatusReply(status="ok")


@router.get("/readyz", response_model=schemas.StatusReply, response_model_exclude_none=True)
async def readyz(request: Request) -> schemas.StatusReply:
    """200 if the model is loaded and warm; 503 while it loads, while the server shuts down, and after a failure.

    Also 200 while the database of names cannot be reached: known pictures are served, as by every other server.
    """
    service = service_of(request)
    service.ready()
    return schemas.StatusReply(status="ready", names="unreachable" if service.names_problem else None)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(await service_of(request).figures(), media_type=CONTENT_TYPE)
