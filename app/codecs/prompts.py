"""Checks a client's prompts against their picture, and converts them to the model's prompts.

Does not know about JSON and pydantic.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from app.codecs import rle
from app.codecs.logits import decode_logits
from app.errors import InvalidPrompt
from model.masks.drawn import drawn_logits
from model.masks.runs import Runs, runs
from model.masks.transposing import by_rows
from model.types import Logits, Prompt

MAX_POINTS = 256
"""Clicks of one prompt, and of one object on a frame of a track. Each is a token, and all look at each other."""


@dataclass(frozen=True, slots=True)
class RleMask:
    """A mask as COCO RLE, not checked yet."""

    height: int
    width: int
    counts: str | list[int]


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One prompt of a client: its types are checked, nothing else."""

    point_coords: Sequence[Sequence[float]] = ()
    point_labels: Sequence[int] = ()
    box: Sequence[float] | None = None
    mask_input: str | RleMask | None = None
    multimask_output: bool | None = None


def resolve_prompts(
    requests: Sequence[PromptRequest],
    *,
    height: int,
    width: int,
    mask_size: tuple[int, int],
    hands_out_logits: bool,
) -> list[Prompt]:
    """Return the model's prompts for a picture of this size.

    Raises InvalidPrompt with the index of the first bad prompt.
    """
    prompts = []
    for i, request in enumerate(requests):
        with _at(i):
            prompt = _resolve(request, height=height, width=width, mask_size=mask_size)
            prompts.append(replace(prompt, hands_out_logits=hands_out_logits))
    return prompts


def resolve_of_track(
    request: PromptRequest, *, height: int, width: int, mask_size: tuple[int, int]
) -> Prompt | npt.NDArray[np.bool_]:
    """Return clicks and a box or, for a mask, the mask itself at the picture's size. Raises InvalidPrompt."""
    try:
        if request.mask_input is None:
            return _resolve(request, height=height, width=width, mask_size=mask_size)
        if request.point_coords or request.box is not None:
            raise ValueError(
                "mask_input is a prompt of its own: send clicks and a box in another one, after it"
            )
        if isinstance(request.mask_input, RleMask):
            return _drawn(request.mask_input, height=height, width=width)
        # The mask that was shown: its outline lies between the values of the logits.
        return by_rows(runs(_logits(request.mask_input, mask_size), height=height, width=width))
    except ValueError as error:
        raise InvalidPrompt(f"{error}.") from error


def check_number(number: int, *, most: int) -> None:
    """Check how many prompts a request has. Raises InvalidPrompt."""
    if number > most:
        raise InvalidPrompt(
            f"{number} prompts in one request; the limit is {most} (SAM2_MAX_PROMPTS). Send them in several "
            "requests."
        )


def check_whole(requests: Sequence[PromptRequest]) -> None:
    """Check what does not depend on the picture. Raises InvalidPrompt with the index of the first bad prompt."""
    for i, request in enumerate(requests):
        with _at(i):
            _check_whole(request)


@contextmanager
def _at(index: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        where = f"prompts[{index}]"
        raise InvalidPrompt(f"{where}: {error}", details=[{"where": where, "what": str(error)}]) from error


def _check_whole(request: PromptRequest) -> None:
    points, labels = request.point_coords, request.point_labels
    if not points and request.box is None and request.mask_input is None:
        raise ValueError("it is empty: give point_coords with point_labels, a box, or a mask_input")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{len(points)} points; the limit is {MAX_POINTS}")
    if len(points) != len(labels):
        raise ValueError(
            f"{len(points)} point_coords but {len(labels)} point_labels: give one label for each point"
        )


def _resolve(request: PromptRequest, *, height: int, width: int, mask_size: tuple[int, int]) -> Prompt:
    points, labels, box = request.point_coords, request.point_labels, request.box
    _check_whole(request)
    for i, (x, y) in enumerate(points):
        _check_position(f"point_coords[{i}]", x, y, height=height, width=width)
    if box is not None:
        x0, y0, x1, y1 = box
        _check_position("box corner", x0, y0, height=height, width=width)
        _check_position("box corner", x1, y1, height=height, width=width)
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"box {list(box)} is empty: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    multimask = request.multimask_output
    if multimask is None:  # Meta's advice: a lone click is ambiguous, more prompts are not
        multimask = len(points) == 1 and box is None and request.mask_input is None
    return Prompt(
        points=tuple((float(x), float(y)) for x, y in points),
        labels=tuple(labels),
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])) if box is not None else None,
        mask_logits=_mask_logits(request.mask_input, height=height, width=width, mask_size=mask_size),
        multimask_output=multimask,
    )


def _check_position(what: str, x: float, y: float, *, height: int, width: int) -> None:
    if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
        raise ValueError(
            f"{what} ({x:g}, {y:g}) lies too far outside the picture of {width} x {height} pixels: "
            "at most by the picture's own size"
        )


def _mask_logits(
    mask_input: str | RleMask | None, *, height: int, width: int, mask_size: tuple[int, int]
) -> Logits | None:
    if mask_input is None:
        return None
    if isinstance(mask_input, str):
        return _logits(mask_input, mask_size)
    return drawn_logits(_drawn(mask_input, height=height, width=width), mask_size)


def _logits(mask_input: str, mask_size: tuple[int, int]) -> Logits:
    try:
        return decode_logits(mask_input, size=mask_size)
    except ValueError as error:
        raise ValueError(f"mask_input cannot be used: {error}") from error


def _drawn(mask_input: RleMask, *, height: int, width: int) -> npt.NDArray[np.bool_]:
    if (mask_input.height, mask_input.width) != (height, width):
        raise ValueError(
            f"mask_input has size [{mask_input.height}, {mask_input.width}]; the picture's is [{height}, {width}]"
        )
    try:
        lengths = rle.decode_counts(mask_input.counts, height=height, width=width)
    except rle.RleError as error:
        raise ValueError(f"mask_input cannot be used: {error}") from error
    return by_rows(Runs(height=height, width=width, lengths=lengths))
