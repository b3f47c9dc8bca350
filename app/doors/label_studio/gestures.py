"""What the user has just drawn, as prompts: one for each object that is wanted.

Does not know about masks, tags and answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.codecs.prompts import PromptRequest, check_number
from app.doors.label_studio.bodies import Region, RegionValue
from app.errors import NotOffered
from app.routes.field_errors import invalid

Box = tuple[float, float, float, float]
Point = tuple[float, float]

_POINTS = ("keypointlabels", "keypoint")
_BOXES = ("rectanglelabels", "rectangle")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object: its label, and its prompt in pixels."""

    label: str | None
    prompt: PromptRequest


def by_picture(regions: Sequence[Region]) -> dict[tuple[str, int | None], list[Region]]:
    """Return regions by their Image tag, and by their place in a list of pictures.

    Raises NotOffered and ValidationFailed.
    """
    found: dict[tuple[str, int | None], list[Region]] = {}
    for region in regions:
        if region.type not in _POINTS + _BOXES:
            raise NotOffered(
                f"Regions of type {region.type[:40]!r} are no prompts. Use key points and rectangles."
            )
        if not {"x", "y"} <= region.value.model_fields_set:
            raise invalid("value", f"a region of type {region.type!r} has x and y")
        if region.image_rotation % 360:
            raise NotOffered("The picture is rotated in Label Studio. Rotate it back to use the model.")
        found.setdefault((region.to_name, region.item_index), []).append(region)
    return found


def objects(regions: Sequence[Region], *, width: int, height: int, most: int) -> list[Wanted]:
    """Return the objects that regions on one picture of width x height pixels ask for.

    Regions with one label are one object: all its key points and its box. Several rectangles are an object each,
    with the positive points inside; those outside of all are one more. Negative points count for each of them.
    Negative points alone ask for nothing. Raises InvalidPrompt for more than `most` objects.
    """
    # Each takes a look at all points.
    check_number(sum(region.type in _BOXES for region in regions), most=most)
    by_label: dict[str | None, list[Region]] = {}
    for region in regions:
        by_label.setdefault(_label(region), []).append(region)
    found = [
        Wanted(label, prompt)
        for label, group in by_label.items()
        for prompt in _prompts(group, width=width, height=height)
    ]
    check_number(len(found), most=most)
    return found


def _label(region: Region) -> str | None:
    value = region.value
    own = value.keypointlabels if region.type in _POINTS else value.rectanglelabels
    return next(iter(own or value.labels), None)


def _prompts(regions: Sequence[Region], *, width: int, height: int) -> list[PromptRequest]:
    positive: list[Point] = []
    negative: list[Point] = []
    boxes: list[Box] = []
    for region in regions:
        if region.type in _BOXES:
            boxes.append(_box(region.value, width=width, height=height))
            continue
        point = region.value.x * width / 100, region.value.y * height / 100
        (positive if _is_positive(region) else negative).append(point)
    if len(boxes) == 1:
        return [_prompt(positive, negative, boxes[0])]
    outside = [point for point in positive if not any(_is_inside(point, box) for box in boxes)]
    prompts = [
        _prompt([point for point in positive if _is_inside(point, box)], negative, box) for box in boxes
    ]
    return [*prompts, _prompt(outside, negative, None)] if outside else prompts


def _is_positive(region: Region) -> bool:
    if region.is_positive is not None:
        return bool(region.is_positive)
    return region.value.positive is None or bool(region.value.positive)


def _prompt(positive: Sequence[Point], negative: Sequence[Point], box: Box | None) -> PromptRequest:
    return PromptRequest(
        point_coords=[*positive, *negative],
        point_labels=[1] * len(positive) + [0] * len(negative),
        box=box,
    )


def _box(value: RegionValue, *, width: int, height: int) -> Box:
    """Return the box around a rectangle, which may be turned around its upper left corner, clockwise in degrees."""
    x, y = value.x * width / 100, value.y * height / 100
    across, down = value.width * width / 100, value.height * height / 100
    sine, cosine = math.sin(math.radians(value.rotation)), math.cos(math.radians(value.rotation))
    corners = [(0.0, 0.0), (across, 0.0), (0.0, down), (across, down)]
    xs = [x + a * cosine - b * sine for a, b in corners]
    ys = [y + a * sine + b * cosine for a, b in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _is_inside(point: Point, box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
