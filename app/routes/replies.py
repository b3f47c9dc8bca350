"""Turns request bodies into arguments of the service, and its results into replies.

Does not know how bodies arrive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from app.codecs.answers import Decoded, MaskAnswer, MaskOptions
from app.codecs.prompts import PromptRequest, RleMask
from app.middleware.callers import share_of
from app.routes import schemas
from app.routes.everything_fields import EverythingReply, FoundReply
from app.routes.mask_fields import FormatFields, MaskFields
from app.routes.state import service_of
from app.service.found_masks import Everything
from app.service.segmentation import Segmentation
from app.telemetry.stages import StageTimes

_WRITTEN_ON_LOOP_PREDICTIONS = 2
_WRITTEN_ON_LOOP_VALUES = 20_000
"""Serialising this much takes about as long as handing it to a thread."""
_CHARACTERS_A_VALUE = 8
"""Characters of a string that take as long as one number in a list."""


def prompt_requests(prompts: Sequence[schemas.PromptBody]) -> list[PromptRequest]:
    """Convert prompts for the service."""
    return [_prompt_request(prompt) for prompt in prompts]


def mask_options(wanted: MaskFields) -> MaskOptions:
    """Return the requested format of masks, and how they are cleaned."""
    return replace(
        format_options(wanted),
        max_hole_area=wanted.max_hole_area,
        max_sprinkle_area=wanted.max_sprinkle_area,
    )


def format_options(wanted: FormatFields) -> MaskOptions:
    """Return the requested format of masks."""
    return MaskOptions(
        mask_format=wanted.mask_format,
        return_logits=wanted.return_logits,
        simplify=wanted.simplify,
        bounds=wanted.bounds,
    )


async def decode_reply(request: Request, decoded: Decoded, *, image_id: str, times: StageTimes) -> Response:
    """Return masks as a reply. Raises what `written` does."""
    service = service_of(request)
    share = share_of(request)
    return timed_json(await written(service, decoded, image_id=image_id, share=share), times)


async def written(service: Segmentation, decoded: Decoded, *, image_id: str, share: str) -> bytes:
    """Return masks as JSON. Many or large ones are written in a thread. Raises as Segmentation.work does."""
    write = partial(write_decoded, decoded, image_id=image_id)
    return write() if _is_little(decoded) else await service.work(write, share=share)


def _is_little(decoded: Decoded) -> bool:
    if len(decoded.predictions) > _WRITTEN_ON_LOOP_PREDICTIONS:
        return False
    return sum(_values(mask) for masks in decoded.predictions for mask in masks) <= _WRITTEN_ON_LOOP_VALUES


def _values(mask: MaskAnswer) -> int:
    """Return how many numbers take as long to write as this mask."""
    strings = [text for text in (mask.compressed, mask.png, mask.logits) if text is not None]
    return sum(map(len, strings)) // _CHARACTERS_A_VALUE + mask.numbers


def timed_json(content: bytes, times: StageTimes) -> Response:
    """Return a reply with the duration of each stage in Server-Timing."""
    timing = ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in times.seconds.items())
    return Response(content, media_type="application/json", headers={"Server-Timing": timing})


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


def write_decoded(decoded: Decoded, *, image_id: str) -> bytes:
    """Serialise the reply, one mask at a time, because each holds the interpreter lock.

    In bytes from the beginning: encoding 10 MB at the end would hold the event loop for 20 ms.
    """
    reply = schemas.DecodeReply(
        image_id=image_id,
        width=decoded.width,
        height=decoded.height,
        model=decoded.model,
        predictions=[],
    )
    predictions = (
        b'{"masks":[%b]}' % b",".join(write_mask(mask).encode() for mask in masks)
        for masks in decoded.predictions
    )
    return _filled(reply, predictions)


def write_everything(everything: Everything, *, image_id: str) -> bytes:
    """Serialise the reply of /everything, one mask at a time."""
    reply = EverythingReply(
        image_id=image_id,
        width=everything.width,
        height=everything.height,
        model=everything.model,
        masks=[],
    )
    masks = (
        FoundReply.model_construct(**_mask_fields(found.answer), point=found.point, crop=found.crop)
        for found in everything.masks
    )
    return _filled(reply, (mask.model_dump_json(exclude_none=True).encode() for mask in masks))


def _filled(reply: BaseModel, parts: Iterable[bytes]) -> bytes:
    """Serialise a reply that ends with an empty list, and put these into it."""
    return b"%b%b]}" % (reply.model_dump_json().removesuffix("]}").encode(), b",".join(parts))


def write_mask(mask: MaskAnswer) -> str:
    """Serialise one mask."""
    return _mask_reply(mask).model_dump_json(exclude_none=True)


def _mask_reply(mask: MaskAnswer) -> schemas.MaskReply:
    # Not validated: it is our own, and validating a long outline takes ten times as long as writing it.
    return schemas.MaskReply.model_construct(**_mask_fields(mask))


def _mask_fields(mask: MaskAnswer) -> dict[str, Any]:
    return {
        "rle": schemas.Rle.model_construct(size=list(mask.size), counts=counts)
        if (counts := mask.counts) is not None
        else None,
        "polygons": mask.polygons,
        "holes": mask.holes,
        "png": mask.png,
        "iou": mask.iou,
        "stability": mask.stability,
        "area": mask.area,
        "bbox": mask.bbox,
        "bounds": mask.bounds,
        "logits": mask.logits,
    }
