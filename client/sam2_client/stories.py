"""The requests of each call about a picture, in order, and what their replies mean.

Each function is a story (see asking.py). Does not know about sockets, threads and event loops.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import httpx

from sam2_client import holdings
from sam2_client.asking import Call, Story, ask
from sam2_client.closer import into_part, search_into_part
from sam2_client.errors import ImageNotFound, InvalidPrompt, ValidationFailed
from sam2_client.everything_options import EverythingOptions
from sam2_client.found_masks import FoundMask
from sam2_client.holdings import check_id, image_path
from sam2_client.images import Floats
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask
from sam2_client.picture_parts import Part
from sam2_client.pictures import Picture
from sam2_client.prompt_errors import count_prompts_from
from sam2_client.prompts import Prompt, to_wire
from sam2_client.replies import read_embedded, read_everything, read_maps, read_masks
from sam2_client.retries import Retries
from sam2_client.step_lines import OnStep

PROMPTS_PER_REQUEST = 64
"""More are sent in several requests, so no reply blocks others for long. Servers that accept fewer get fewer."""


def embed(picture: Picture, *, image_id: str | None, replace: bool, retries: Retries) -> Story[Embedded]:
    """Upload a picture."""
    query: dict[str, str] = {}
    if image_id is not None:
        check_id(image_id)
        query["image_id"] = image_id
    if replace:
        query["replace"] = "true"
    if picture.stretch != "range":
        query["stretch"] = picture.stretch
    response = yield from ask(Call("POST", "embed", query=query, picture=picture), retries)
    return read_embedded(response, picture)


def segment(picture: Picture, prompt: Prompt, *, options: MaskOptions, retries: Retries) -> Story[list[Mask]]:
    """Upload a picture together with a prompt. Return the masks, best first."""
    wire = yield from _wire(prompt, None, retries)
    response = yield from ask(
        Call("POST", "segment", json={"prompts": [wire], **options.to_wire()}, picture=picture), retries
    )
    (masks,) = read_masks(response, [wire], options, picture)
    return masks


def decode(
    embedded: Embedded, prompts: Sequence[Prompt], *, options: MaskOptions, retries: Retries
) -> Story[list[list[Mask]]]:
    """Return the masks of every prompt, in order, best first. Requests missing logits of masks to refine."""
    wires: list[dict[str, Any]] = []
    for prompt in prompts:
        wire = yield from _wire(prompt, embedded.part, retries)
        wires.append(wire)
    answers: list[list[Mask]] = []
    most = PROMPTS_PER_REQUEST
    while len(answers) < len(wires):
        chunk = wires[len(answers) : len(answers) + most]
        try:
            answers += yield from _decode(embedded, chunk, options=options, retries=retries)
        except (InvalidPrompt, ValidationFailed) as error:
            count_prompts_from(error, len(answers))
            if not isinstance(error, InvalidPrompt):
                raise
            model = yield from holdings.model(retries=retries)
            limit = model.limits.get("max_prompts", most)
            if not 1 <= limit < len(chunk):
                raise
            most = int(limit)
    return answers


def everything(
    embedded: Embedded, *, options: EverythingOptions, on_step: OnStep, retries: Retries
) -> Story[list[FoundMask]]:
    """Return every object of a picture.

    The reply always comes as lines, so that the client's timeout limits a silence and not the whole work. Crops are
    cut from the picture itself, which few servers keep, so it is sent again with them.
    """
    picture, wire = embedded.picture, options.to_wire()
    if embedded.part is not None:
        wire = search_into_part(wire, embedded.part)
    if options.crop_n_layers and picture is not None:
        form = {"image_id": embedded.image_id}
        if picture.stretch != "range":
            form["stretch"] = picture.stretch
        call = Call("POST", "everything", json=wire, picture=picture, form=form, on_step=on_step)
        response = yield from ask(call, retries)
    else:
        body = {"image_id": embedded.image_id, **wire}
        call = Call("POST", "everything", json=body, on_step=on_step)
        response = yield from _ask_about(embedded, call, retries)
    return read_everything(response, options, embedded)


def feature_maps(
    embedded: Embedded, *, dtype: Literal["float16", "float32"], retries: Retries
) -> Story[dict[str, Floats]]:
    """Return the encoder's output for a picture."""
    path = f"{image_path(embedded.image_id)}/embedding"
    call = Call("GET", path, query={"format": "npz", "dtype": dtype})
    response = yield from _ask_about(embedded, call, retries)
    return read_maps(response)


def _wire(prompt: Prompt, part: Part | None, retries: Retries) -> Story[dict[str, Any]]:
    """Return a prompt as it is sent, with the logits of the mask that it refines; or its RLE, see _mask_input."""
    wire = to_wire(prompt)
    if isinstance(prompt.mask, Mask):
        wire["mask_input"] = yield from _mask_input(prompt.mask, part, retries)
    return wire if part is None else into_part(wire, part)


def _mask_input(mask: Mask, part: Part | None, retries: Retries) -> Story[Any]:
    """Return the logits of an earlier mask; its RLE if its origin is not known, or is another part than `part`."""
    origin = mask.origin
    if origin is None or origin.embedded.part != part:
        return mask.rle
    if origin.logits is None:
        options = replace(origin.options, logits=True)
        (candidates,) = yield from _decode(origin.embedded, [origin.prompt], options=options, retries=retries)
        # If two candidates are nearly tied, their order may differ from the first reply.
        pixels = mask.to_numpy()
        same = max(candidates, key=lambda candidate: (candidate.to_numpy() == pixels).sum())
        origin.logits = same.logits
    return origin.logits


def _decode(
    embedded: Embedded, wires: list[dict[str, Any]], *, options: MaskOptions, retries: Retries
) -> Story[list[list[Mask]]]:
    body = {"image_id": embedded.image_id, "prompts": wires, **options.to_wire()}
    response = yield from _ask_about(embedded, Call("POST", "decode", json=body), retries)
    return read_masks(response, wires, options, embedded.picture)


def _ask_about(embedded: Embedded, call: Call, retries: Retries) -> Story[httpx.Response]:
    """Send a call. If the server has evicted the picture, embed it again and repeat the call."""
    try:
        return (yield from ask(call, retries))
    except ImageNotFound:
        if embedded.picture is None:
            raise
        yield from embed(embedded.picture, image_id=embedded.image_id, replace=False, retries=retries)
        return (yield from ask(call, retries))
