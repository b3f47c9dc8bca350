"""The endpoints of tracks: objects that are followed through frames. No logic."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel

from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes import schemas
from app.routes.bodies import body_of, parsed
from app.routes.endpoints import new_router
from app.routes.line_replies import MEDIA_TYPE, begin_lines
from app.routes.replies import mask_options, timed_json
from app.routes.schemas import NoFields, PageQuery
from app.routes.state import begin_stages, refusal_of, service_of
from app.routes.switched_off import refuse_videos_if_off
from app.routes.track_fields import (
    ClearedReply,
    FrameReply,
    ObjectId,
    PropagateBody,
    PropagateOnceBody,
    TrackBody,
    TrackDescription,
    TrackId,
    TrackPromptBody,
    TrackReply,
    TracksReply,
)
from app.routes.track_replies import describe, prompt_of, write_frame
from app.routes.uploads import parse_json
from app.service.segmentation import Segmentation
from app.service.track_values import FrameAnswer
from app.storage.pages import place_as_text

Body = TypeVar("Body", bound=BaseModel)

router = new_router(check=refuse_videos_if_off)

FrameInPath = Annotated[int, Path(ge=0, description="The frame's number, from 0.")]


def _takes(model: type[BaseModel], *, lines: bool = False) -> dict[str, Any]:
    """The body for openapi.json."""
    described: dict[str, Any] = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.schema_ref(model)}},
        }
    }
    if lines:
        described["responses"] = {"200": {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
    return described


@asynccontextmanager
async def _reading(request: Request, model: type[Body]) -> AsyncIterator[Body]:
    """Yield the body of a request, parsed. Its bytes count until the block ends."""
    service_of(request).ready()  # admission comes before any work
    async with body_of(request) as body:
        yield await parsed(request, body, partial(parse_json, model))


@router.post("/tracks", response_model=TrackReply, openapi_extra=_takes(TrackBody))
async def add_track(request: Request, _: Annotated[NoFields, Query()]) -> Response:
    """Begin a track: frames, through which objects will be followed. Costs nothing until the first prompt."""
    service, times = service_of(request), begin_stages(request)
    async with _reading(request, TrackBody) as body:
        info = await service.tracks.add(
            body.all_frames(),
            tenant=tenant_of(request),
            track_id=body.track_id,
            corrections="plain" if body.corrections == "meta" else "kept",
            share=share_of(request),
        )
    reply = TrackReply(
        track_id=info.track_id,
        frames=info.frames,
        width=info.width,
        height=info.height,
        model=service.ready().name,
        tracker=service.tracks.kind,
    )
    return timed_json(reply.model_dump_json().encode(), times)


@router.get("/tracks", response_model=TracksReply)
async def list_tracks(request: Request, query: Annotated[PageQuery, Query()]) -> TracksReply:
    """Tracks, newest first."""
    service = service_of(request)
    infos = await service.tracks.newest(tenant=tenant_of(request), limit=query.limit + 1, after=query.after)
    page = infos[: query.limit]
    model, tracker = service.ready().name, service.tracks.kind
    return TracksReply(
        tracks=[describe(info, model=model, tracker=tracker) for info in page],
        next=place_as_text(page[-1].created, page[-1].track_id) if len(infos) > query.limit else None,
    )


@router.get("/tracks/{track_id}", response_model=TrackDescription)
async def get_track(request: Request, track_id: TrackId) -> TrackDescription:
    """Describes a track: its objects, their prompts by frame, and what is done."""
    service = service_of(request)
    info = await service.tracks.describe(track_id, tenant=tenant_of(request))
    return describe(info, model=service.ready().name, tracker=service.tracks.kind)


@router.delete("/tracks/{track_id}", status_code=204)
async def delete_track(request: Request, track_id: TrackId) -> None:
    """Forget a track; a propagation of it ends. Returns 204 even if there is nothing to forget."""
    await service_of(request).tracks.delete(track_id, tenant=tenant_of(request))


@router.delete("/tracks/{track_id}/objects/{object}", status_code=204)
async def remove_object(
    request: Request,
    track_id: TrackId,
    object: Annotated[ObjectId, Path()],  # noqa: A002  # as on the wire
) -> None:
    """Forget an object and its prompts. Returns 204 even if there is nothing to forget."""
    tracks, tenant, share = service_of(request).tracks, tenant_of(request), share_of(request)
    await tracks.remove_object(track_id, object, tenant=tenant, share=share)


@router.delete("/tracks/{track_id}/objects/{object}/prompts/{frame}", response_model=ClearedReply)
async def clear_prompts(
    request: Request,
    track_id: TrackId,
    object: Annotated[ObjectId, Path()],  # noqa: A002  # as on the wire
    frame: FrameInPath,
) -> ClearedReply:
    """Take an object's prompts on a frame back. An object without any other prompt is dropped."""
    tracks, tenant, share = service_of(request).tracks, tenant_of(request), share_of(request)
    dropped = await tracks.clear_prompts(track_id, object, frame, tenant=tenant, share=share)
    return ClearedReply(dropped=dropped)


@router.post("/tracks/{track_id}/prompts", response_model=FrameReply, openapi_extra=_takes(TrackPromptBody))
async def prompt_track(request: Request, track_id: TrackId, _: Annotated[NoFields, Query()]) -> Response:
    """Say where an object is on a frame: clicks, a box, or a mask. Returns all objects on that frame."""
    service, times, share = service_of(request), begin_stages(request), share_of(request)
    async with _reading(request, TrackPromptBody) as body:
        story = service.tracks.prompt(
            track_id,
            prompt_of(body),
            options=mask_options(body),
            non_overlapping=body.non_overlapping,
            tenant=tenant_of(request),
            times=times,
            share=share,
        )
        answer = await while_connected(request.receive, story)
    content = await service.work(lambda: write_frame(answer), share=share)
    return timed_json(content.encode(), times)


@router.post(
    "/tracks/{track_id}/propagate", response_class=Response, openapi_extra=_takes(PropagateBody, lines=True)
)
async def propagate(request: Request, track_id: TrackId, _: Annotated[NoFields, Query()]) -> Response:
    """Follow the objects from frame to frame: a line of JSON for each, as the reply of prompts, then a last one
    `{"done": true}`. Close the connection to stop: what is done is kept, and the next call goes on there.
    """
    async with AsyncExitStack() as held:
        body = await held.enter_async_context(_reading(request, PropagateBody))
        answers = service_of(request).tracks.propagate(
            track_id,
            body.range(),
            options=mask_options(body),
            non_overlapping=body.non_overlapping,
            tenant=tenant_of(request),
            share=share_of(request),
        )
        return await _streamed(request, answers, held)


@router.post("/propagate", response_class=Response, openapi_extra=_takes(PropagateOnceBody, lines=True))
async def propagate_once(request: Request, _: Annotated[NoFields, Query()]) -> Response:
    """Frames, prompts and a range in one request. Replies as /tracks/{track_id}/propagate; nothing is left."""
    async with AsyncExitStack() as held:
        body = await held.enter_async_context(_reading(request, PropagateOnceBody))
        answers = service_of(request).tracks.propagate_once(
            body.all_frames(),
            [prompt_of(each) for each in body.prompts],
            body.range(),
            corrections="plain" if body.corrections == "meta" else "kept",
            options=mask_options(body),
            non_overlapping=body.non_overlapping,
            tenant=tenant_of(request),
            share=share_of(request),
        )
        return await _streamed(request, answers, held)


async def _streamed(
    request: Request, answers: AsyncGenerator[FrameAnswer, None], held: AsyncExitStack
) -> Response:
    service = service_of(request)
    lines = _lines(request, service, answers)
    patience_s = service.settings.deadline_s
    return await begin_lines(request, lines, held.pop_all(), last=_done, patience_s=patience_s)


async def _done() -> bytes:
    return b'{"done":true}'


async def _lines(
    request: Request, service: Segmentation, answers: AsyncGenerator[FrameAnswer, None]
) -> AsyncGenerator[str, None]:
    share = share_of(request)
    async with aclosing(answers):
        async for answer in answers:
            if answer.error is not None:
                refused = bytes(refusal_of(request, answer.error).body).decode()
                yield f'{{"frame":{answer.frame},{refused[1:]}'
            else:
                yield await service.work(lambda answer=answer: write_frame(answer), share=share)  # type: ignore[misc]
