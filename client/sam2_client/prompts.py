"""Prompts as Python values, and their conversion to the service's JSON.

Checks types, shapes and values: nothing is changed on its way without a word. Does not know about pictures: the
service checks a prompt against its picture and explains what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sam2_client import rle
from sam2_client.masks import Mask

Points: TypeAlias = Sequence[Sequence[float]] | npt.NDArray[Any]
Labels: TypeAlias = Sequence[int] | npt.NDArray[Any]
Box: TypeAlias = Sequence[float] | npt.NDArray[Any]
MaskPrompt: TypeAlias = Mask | npt.NDArray[Any] | rle.Rle | str
"""An earlier mask; an array (height, width) of the picture's size, zero or False on the background; a COCO RLE; or
the `logits` of an earlier mask."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One object to segment. Every field is optional, but at least one must be given."""

    points: Points | None = None
    """Clicks (x, y) in pixels of the picture."""
    labels: Labels | None = None
    """One label for each click: 1 on the object, 0 not on it. Default: all 1."""
    box: Box | None = None
    """x0, y0, x1, y1 with x0 < x1 and y0 < y1."""
    mask: MaskPrompt | None = None
    """The mask to refine."""
    multimask: bool | None = None
    """True for three masks, False for one. Default: three for a single click, one otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackPrompt(Prompt):
    """Where an object is on a frame of a track. A mask is a prompt of its own; an empty one says: not here."""

    frame: int = 0
    """The frame's number, from 0."""
    object: int = 1
    """Your own number for the object."""


def to_wire(prompt: Prompt) -> dict[str, Any]:
    """Return the prompt as JSON, but without a mask of type Mask: its logits may have to be requested first.

    Raises TypeError or ValueError for a wrong type, shape or value.
    """
    wire: dict[str, Any] = {}
    if prompt.points is not None:
        points = read_numbers("points", prompt.points)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(
                f"points is {prompt.points!r}, but must be a list of (x, y), such as [(500, 375)]"
            )
        wire["point_coords"] = points.tolist()
        wire["point_labels"] = [1] * len(points)
    if prompt.labels is not None:
        wire["point_labels"] = _labels(prompt.labels)
        if len(wire["point_labels"]) != (count := len(wire.get("point_coords", ()))):
            raise ValueError(
                f"{count} points but {len(wire['point_labels'])} labels: give one for each point"
            )
    if prompt.box is not None:
        box = read_numbers("box", prompt.box)
        if box.shape != (4,):
            raise ValueError(f"box is {prompt.box!r}, but must be x0, y0, x1, y1")
        wire["box"] = box.tolist()
    if isinstance(prompt.mask, np.ndarray):
        if prompt.mask.ndim != 2 or prompt.mask.dtype.kind not in "bui":
            raise ValueError(
                f"mask is an array of {prompt.mask.dtype} and shape {prompt.mask.shape}, but must be an array "
                "(height, width) of bool or integers"
            )
        wire["mask_input"] = rle.encode(prompt.mask)
    elif isinstance(prompt.mask, dict):
        wire["mask_input"] = _rle(prompt.mask)
    elif isinstance(prompt.mask, str):
        wire["mask_input"] = prompt.mask
    elif prompt.mask is not None and not isinstance(prompt.mask, Mask):
        raise TypeError(
            f"mask is a {type(prompt.mask).__name__}, but must be a Mask, an array, a COCO RLE or a logits string"
        )
    if prompt.multimask is not None:
        if not isinstance(prompt.multimask, bool | np.bool_):
            raise TypeError(f"multimask is {prompt.multimask!r}, but must be True, False or None")
        wire["multimask_output"] = bool(prompt.multimask)
    return wire


def read_numbers(name: str, values: Points | Box) -> npt.NDArray[np.float64]:
    """Return finite numbers as an array. Raises ValueError, with the argument's name, for anything else."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufO":  # objects may be numbers, such as fractions
            raise TypeError(f"{array.dtype} is not a type of numbers")
        numbers = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # rows of different lengths, words, 10**400
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} has a value that is not finite: {values!r}")
    return numbers


def _labels(values: Labels) -> list[int]:
    try:
        labels = np.asarray(values)
        wrong = labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all()
    except ValueError:  # rows of different lengths
        wrong = True
    if wrong:
        raise ValueError(f"labels is {values!r}, but each label must be 1 (on the object) or 0 (not on it)")
    return [int(label) for label in labels]


def _rle(mask: rle.Rle) -> rle.Rle:
    try:
        return rle.compress(mask)
    except (KeyError, TypeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"mask is not a COCO RLE with size and counts: {why}") from error
