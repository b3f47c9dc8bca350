"""Label Studio's ML backend: what it asks and what it is answered.

For a click Label Studio sends the task with its picture's address and what the user has just drawn; for "Retrieve
predictions" all tasks at once, which is answered without predictions while their pictures are embedded.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.codecs.answers import MaskAnswer
from app.doors.door import Door
from app.doors.label_studio.ahead import Ahead
from app.doors.label_studio.bodies import Asked, Context, Region, parse_predict, parse_setup
from app.doors.label_studio.gestures import Wanted, by_picture, objects
from app.doors.label_studio.label_config import ConfigError, Control, control_for
from app.doors.label_studio.pictures import Caller, Source, TaskPictures
from app.doors.label_studio.regions import options_for, regions
from app.doors.label_studio.server import LabelStudioServer
from app.doors.requests import json_of, put_together, reading_by
from app.errors import ImageNotFound
from app.middleware.callers import share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes.endpoints import new_router
from app.routes.field_errors import invalid
from app.routes.remote_pictures import RemotePictures
from app.routes.state import begin_stages, service_of
from app.scheduling.deadlines import within
from app.service.segmentation import Segmentation
from app.telemetry.stages import StageTimes

PREFIX = "/label-studio"


@asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[None]:
    """Hold what outlives a request: connections to Label Studio, and the work in the background."""
    service: Segmentation = app.state.service
    remote: RemotePictures = app.state.remote_pictures
    settings = service.settings
    server = None
    if settings.label_studio_url:
        server = LabelStudioServer(
            settings.label_studio_url,
            settings.label_studio_api_key.get_secret_value(),
            max_bytes=settings.max_upload_mib * 2**20,
            deadline_s=settings.deadline_s,
            remote=remote,
        )
    pictures = TaskPictures(service, app.state.body_budget, server=server, remote=remote)

    async def embed(source: Source, caller: Caller) -> tuple[bool, int]:
        async with within(settings.deadline_s):
            embedded = await pictures.embed(source, caller, StageTimes())
        return embedded.cached, service.keeps(embedded.nbytes) // 2

    app.state.label_studio_pictures = pictures
    app.state.label_studio_ahead = ahead = Ahead(
        embed, service.metrics, pictures_per_minute=settings.rate_pictures_per_minute
    )
    try:
        yield
    finally:
        await ahead.close()
        if server is not None:
            await server.close()


router = new_router(prefix=PREFIX, include_in_schema=False, lifespan=_serving)


@router.get("")
@router.get("/")
@router.get("/health")
async def health() -> Response:
    """The door is open, and the key is right. The model is not asked: it may be busy or loading."""
    return JSONResponse({"status": "UP", "model_class": "SAM2"})


@router.post("/setup")
async def setup(request: Request) -> Response:
    """Label Studio says what it is called; it is told the version of the model."""
    version = _model_version(service_of(request))
    async with reading_by(request, parse_setup) as body:
        _pictures_of(request).set_up(_caller(request, body.project), body)
    return JSONResponse({"model_version": version})


@router.get("/versions")
async def versions(request: Request) -> Response:
    """There is one version: the model that is loaded."""
    return JSONResponse({"versions": [_model_version(service_of(request))]})


@router.post("/webhook")
async def webhook() -> Response:
    """Every change of an annotation, sent without a key. The model does not learn from them."""
    return JSONResponse({"status": "ok"}, status_code=201)


@router.post("/predict")
async def predict(request: Request) -> Response:
    """Masks for a click, or an empty answer for each task while their pictures are embedded."""
    service = service_of(request)
    version = _model_version(service)
    begin_stages(request)
    async with reading_by(request, parse_predict) as asked:
        if asked.context is None:
            caller = _caller(request, asked.project)
            there = await service.work(partial(_sources, asked), share=caller.share)
            await _ahead_of(request).add(there, caller)
            empty = json.dumps({"result": [], "score": 0, "model_version": version})
            answers = ",".join([empty] * len(asked.tasks))
            return Response(f'{{"results": [{answers}]}}', media_type="application/json")
        with _ahead_of(request).click():
            return await while_connected(request.receive, _click(request, asked, asked.context, version))


async def _click(request: Request, asked: Asked, context: Context, version: str) -> Response:
    service, times = service_of(request), request.scope["stages"]
    caller = _caller(request, asked.project)
    if len(asked.tasks) != 1:
        raise invalid("tasks", f"a context belongs to one task, not to {len(asked.tasks)}")
    found: list[dict[str, Any]] = []
    async with within(service.settings.deadline_s):
        for (picture, index), drawn in by_picture(context.result).items():
            source = _source(asked, picture, index)
            embed = partial(_pictures_of(request).embed, source, caller, times)
            embedded = await embed()
            width, height = embedded.width, embedded.height
            most = service.settings.max_prompts
            group = partial(_by_control, asked, picture, drawn, width=width, height=height, most=most)
            grouped = await put_together(request, group, marks=len(drawn), share=caller.share)
            for control, wanted in grouped:
                decode = partial(
                    service.decode,
                    embedded.image_id,
                    [each.prompt for each in wanted],
                    options=options_for(control.kind, width=width, height=height),
                    tenant=caller.tenant,
                    times=times,
                    share=caller.share,
                )
                try:
                    decoded = await decode()
                except ImageNotFound:  # other pictures needed its place since
                    await embed()
                    decoded = await decode()
                best = [masks[0] for masks in decoded.predictions]
                shape = partial(_regions, best, wanted, control, picture, index, width=width, height=height)
                found += await service.work(shape, share=caller.share)
        scores = [region["score"] for region in found]
        answer = {
            "result": found,
            "score": round(sum(scores) / len(scores), 6) if scores else 0,
            "model_version": version,
        }
        return await json_of(request, lambda: {"results": [answer]})


def _sources(asked: Asked) -> list[Source]:
    sources = (
        Source(task.id, address)
        for task in asked.tasks
        for addresses in task.pictures.values()
        for address in addresses
    )
    return [source for source in sources if not source.is_inline]  # the others are too large to wait


def _source(asked: Asked, picture: str, index: int | None) -> Source:
    (task,) = asked.tasks
    addresses = task.pictures.get(picture)
    if addresses is None:
        raise invalid("tasks[0]", f"its data has no picture for the Image tag {picture[:80]!r}")
    if (index or 0) >= len(addresses):
        raise invalid("item_index", f"{index} is beyond the {len(addresses)} pictures of the task")
    return Source(task.id, addresses[index or 0])


def _by_control(
    asked: Asked, picture: str, drawn: list[Region], *, width: int, height: int, most: int
) -> list[tuple[Control, list[Wanted]]]:
    found = objects(drawn, width=width, height=height, most=most)
    try:
        controls = asked.config.controls_on(picture) if found else []
    except ConfigError as error:
        raise invalid("label_config", str(error)) from error
    grouped: dict[Control, list[Wanted]] = {}
    for wanted in found:
        grouped.setdefault(control_for(wanted.label, controls), []).append(wanted)
    return list(grouped.items())


def _regions(
    masks: list[MaskAnswer],
    wanted: list[Wanted],
    control: Control,
    picture: str,
    index: int | None,
    *,
    width: int,
    height: int,
) -> list[dict[str, Any]]:
    return [
        region
        for mask, each in zip(masks, wanted, strict=True)
        for region in regions(
            mask,
            control,
            label=each.label,
            picture=picture,
            item_index=index,
            width=width,
            height=height,
        )
    ]


def _model_version(service: Segmentation) -> str:
    """Name the model so that Label Studio asks again when its weights have changed."""
    segmenter = service.ready()
    return f"{segmenter.name}-{segmenter.fingerprint[:8]}"


def _caller(request: Request, project: str) -> Caller:
    return Caller(tenant_of(request), share_of(request), project)


def _pictures_of(request: Request) -> TaskPictures:
    pictures: TaskPictures = request.app.state.label_studio_pictures
    return pictures


def _ahead_of(request: Request) -> Ahead:
    ahead: Ahead = request.app.state.label_studio_ahead
    return ahead


LABEL_STUDIO = Door(
    name="label-studio",
    router=router,
    paths=(PREFIX, f"{PREFIX}/"),
    error=lambda fault: {"detail": fault.message},
    free=frozenset({f"{PREFIX}/webhook"}),
)
