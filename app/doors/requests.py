"""What all doors do with a request: read its JSON, find its client and its picture, and get masks on it.

Within the limits, budgets and deadlines of our own endpoints. Does not know the tools.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, model_validator

from app.codecs.answers import Decoded, MaskOptions
from app.codecs.base64_text import Base64Error, decode_base64_or_data_url
from app.codecs.json_writing import write_json
from app.codecs.long_text import Pieces
from app.codecs.prompts import PromptRequest
from app.middleware.callers import identify, share_of, tenant_of
from app.middleware.connection import while_connected
from app.routes.bodies import body_of, parsed
from app.routes.body_budget import BodyBudget
from app.routes.field_errors import invalid
from app.routes.state import begin_stages, budget_of, in_flight_of, keys_of, remote_pictures_of, service_of
from app.routes.uploads import check_size, parse_json
from app.service.segmentation import Embedded
from app.telemetry.stages import StageTimes

Model = TypeVar("Model", bound=BaseModel)
Parsed = TypeVar("Parsed")
Grouped = TypeVar("Grouped")

_FEW_MARKS = 32
"""Most marks that are put together on the event loop: each is compared with many others."""


class ToolBody(BaseModel):
    """The body of a tool's request. Unknown fields are passed over, because new versions of a tool add some.

    A null stands for a field that is left out: tools write their unset options so.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = cls.model_fields
        return {
            name: field
            for name, field in value.items()
            # A null stays where it is the default: what is left out here is lost when json_bodies.py puts a long
            # string back, which checks all fields again.
            if field is not None
            or name not in known
            or known[name].is_required()
            or known[name].default is None
        }


async def put_together(request: Request, group: Callable[[], Grouped], *, marks: int, share: str) -> Grouped:
    """Return what `group` makes of so many marks: in a worker, where it would hold the event loop."""
    return group() if marks <= _FEW_MARKS else await service_of(request).work(group, share=share)


@asynccontextmanager
async def reading(
    request: Request, model: type[Model], *, budget: BodyBudget | None = None
) -> AsyncIterator[Model]:
    """Yield the body of a request, parsed. Its bytes count for the client until the block ends.

    They count in the budget of all bodies, unless another is given. Raises as BodyBudget.read and parse_json do.
    """
    async with reading_by(request, partial(parse_json, model), budget=budget) as body:
        yield body


@asynccontextmanager
async def reading_by(
    request: Request, parse: Callable[[bytes], Parsed], *, budget: BodyBudget | None = None
) -> AsyncIterator[Parsed]:
    """Yield what `parse` makes of the body of a request: in a worker, if it is more than a few kilobytes.

    The body's bytes count for the client until the block ends. Raises as BodyBudget.read and `parse` do.
    """
    async with body_of(request, budget=budget) as body:
        yield await parsed(request, body, parse)


@contextmanager
def admitted(request: Request, *, key: str) -> Iterator[None]:
    """Admit the client whose key came in the body of a request to a free path. Raises Unauthorized, RateLimited.

    Within the block, the request has the tenant and the share of that key.
    """
    tenant, share = identify(request.scope, keys=keys_of(request), key=key)
    with in_flight_of(request).request(share):
        request.scope["tenant"], request.scope["share"] = tenant, share
        yield


async def picture_file(request: Request, text: str | Pieces, *, where: str) -> bytes:
    """Return the file in a string of base64 or a data URL, decoded in a worker. `where` names the field in errors.

    Raises ValidationFailed, and ImageTooLarge beyond the limit of an upload.
    """
    service = service_of(request)

    def decode() -> bytes:
        try:
            data = decode_base64_or_data_url(text)
        except Base64Error as error:
            raise invalid(where, f"it {error}") from error
        check_size(data, max_bytes=service.settings.max_upload_mib * 2**20)
        return data

    return await service.work(decode, share=share_of(request))


@asynccontextmanager
async def picture_at(request: Request, url: str) -> AsyncIterator[bytes]:
    """Yield the file at a URL. Its bytes count for the client until the block ends.

    Raises what RemotePictures.fetch raises, and ClientGone.
    """
    with budget_of(request).holding(share_of(request)) as arrived:
        fetch = remote_pictures_of(request).fetch(url, arrived=arrived)
        yield await while_connected(request.receive, fetch)


async def embedded(request: Request, data: bytes, *, image_id: str | None = None) -> Embedded:
    """Embed a picture file, unless it is known by its bytes. A name that another picture has moves to this one.

    Raises a ServiceError for a bad picture or name, a full queue or a missed deadline, and ClientGone.
    """
    story = service_of(request).embed(
        data,
        tenant=tenant_of(request),
        image_id=image_id,
        replace=True,
        times=_times_of(request),
        share=share_of(request),
    )
    return await while_connected(request.receive, story)


async def masks_on(
    request: Request, data: bytes, prompts: Sequence[PromptRequest], *, options: MaskOptions
) -> tuple[Embedded, Decoded]:
    """Return masks for prompts on a picture file, which is embedded if it is not known by its bytes.

    Raises a ServiceError for a bad picture or prompt, a full queue or a missed deadline, and ClientGone.
    """
    story = service_of(request).segment(
        data,
        prompts,
        options=options,
        tenant=tenant_of(request),
        times=_times_of(request),
        share=share_of(request),
    )
    return await while_connected(request.receive, story)


def _times_of(request: Request) -> StageTimes:
    times: StageTimes = request.scope.get("stages") or begin_stages(request)
    return times


async def json_of(request: Request, make: Callable[[], object]) -> Response:
    """Return a reply with what `make` returns. Made and written in a worker, because outlines are long."""

    def write() -> bytes:
        return write_json(make())

    body = await service_of(request).work(write, share=share_of(request))
    return Response(body, media_type="application/json")
