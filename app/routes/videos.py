"""The endpoints of videos: upload, list, describe, delete, and their frames as pictures. No logic."""

from functools import partial
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from app.errors import VideoTooLarge
from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes.bodies import parsed
from app.routes.body_budget import FORM_OVERHEAD
from app.routes.endpoints import new_router
from app.routes.etags import client_has
from app.routes.replies import timed_json
from app.routes.schemas import NoFields, PageQuery
from app.routes.state import begin_stages, budget_of, service_of
from app.routes.switched_off import refuse_videos_if_off
from app.routes.video_fields import (
    ListedVideo,
    VideoFields,
    VideoId,
    VideoReply,
    VideosReply,
    parse_video,
    picture_type,
)
from app.service.named_videos import NamedVideo
from app.storage.pages import place_as_text

router = new_router(check=refuse_videos_if_off)

_FIELDS = VideoFields.model_json_schema()["properties"]
_FILE = {"type": "string", "format": "binary"}
_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {"video": {**_FILE, "description": "Or called 'file'."}, **_FIELDS},
                }
            },
            "video/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
        },
    },
}


@router.post("/videos", response_model=VideoReply, openapi_extra=_UPLOAD_BODY)
async def add_video(request: Request, query: Annotated[VideoFields, Query()]) -> Response:
    """Store a video as a sequence of frames, each of which is a picture. Frames are decoded when they are needed.

    The id is `video_id`, the client's own name, or the SHA-256 of the uploaded bytes and of the options.
    """
    service, times = service_of(request), begin_stages(request)
    settings, share, videos = service.settings, share_of(request), service.videos
    service.ready()
    max_mib = min(settings.max_video_mib, settings.max_bodies_mib)
    limit = f"{max_mib} MiB (SAM2_MAX_VIDEO_MIB, and SAM2_MAX_BODIES_MIB)"
    max_bytes = max_mib * 2**20
    async with budget_of(request).read(
        request, max_bytes=max_bytes + FORM_OVERHEAD, limit=limit, share=share, of=VideoTooLarge
    ) as body:
        parse = partial(parse_video, headers=request.headers, query=query, max_bytes=max_bytes)
        upload = await parsed(request, body, parse)
        body = b""  # what was parsed is held instead: a file in a form is a copy
        story = videos.add(
            upload.data,
            upload.fields.sampling,
            tenant=tenant_of(request),
            video_id=upload.fields.video_id,
            replace=upload.fields.replace,
            times=times,
            share=share,
        )
        video = await while_connected(request.receive, story)
    return timed_json(_video_reply(video).model_dump_json().encode(), times)


@router.get("/videos", response_model=VideosReply)
async def list_videos(request: Request, query: Annotated[PageQuery, Query()]) -> VideosReply:
    """Stored videos, newest first."""
    rows = await service_of(request).videos.newest(
        tenant=tenant_of(request), limit=query.limit + 1, after=query.after
    )
    page = rows[: query.limit]
    return VideosReply(
        videos=[
            ListedVideo(
                video_id=row.image_id,
                width=row.width,
                height=row.height,
                bytes=row.nbytes,
                created=row.created,
                used=row.used,
            )
            for row in page
        ],
        next=place_as_text(page[-1].created, page[-1].image_id) if len(rows) > query.limit else None,
    )


@router.get("/videos/{video_id}", response_model=VideoReply)
async def get_video(request: Request, video_id: VideoId) -> VideoReply:
    """Describes a stored video, as the reply to its upload did."""
    videos = service_of(request).videos
    return _video_reply(await videos.describe(video_id, tenant=tenant_of(request), share=share_of(request)))


@router.delete("/videos/{video_id}", status_code=204)
async def delete_video(request: Request, video_id: VideoId) -> None:
    """Forget a video, and the embeddings of its frames. Returns 204 even if there is nothing to forget."""
    await service_of(request).videos.delete(video_id, tenant=tenant_of(request), share=share_of(request))


@router.get(
    "/videos/{video_id}/frames/{n}",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {"schema": _FILE}, "image/png": {"schema": _FILE}}},
        304: {"description": "The client has this frame already."},
    },
)
async def get_frame(
    request: Request,
    video_id: VideoId,
    n: Annotated[int, Path(ge=0, description="The frame's number, from 0.")],
    _: Annotated[NoFields, Query()],
) -> Response:
    """A frame as JPEG or, if Accept prefers it, as PNG. The header X-SAM2-Image-ID is its id as an image."""
    videos, times = service_of(request).videos, begin_stages(request)
    tenant, share = tenant_of(request), share_of(request)
    kind = picture_type(request.headers)
    image_id = await videos.frame_id(video_id, n, tenant=tenant, share=share)
    etag = f'"{image_id[:32]}-{kind}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Vary": "Accept",
        "X-SAM2-Image-ID": image_id,
    }
    if client_has(request, etag):
        return Response(status_code=304, headers=headers)
    story = videos.frame(video_id, n, kind, tenant=tenant, times=times, share=share)
    content = await while_connected(request.receive, story)
    return Response(content, media_type=f"image/{kind}", headers=headers)


def _video_reply(video: NamedVideo) -> VideoReply:
    return VideoReply(
        video_id=video.video_id,
        frames=video.frames,
        width=video.width,
        height=video.height,
        fps=video.fps,
        times=list(video.times_s),
    )
