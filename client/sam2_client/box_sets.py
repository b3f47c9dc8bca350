"""Data sets of boxes: COCO files, and label folders of YOLO, which become COCO's content.

Tells what cannot be used in lines, and leaves it as it was. Does not know about servers and the command line.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sam2_client.messages import at_most, named

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1."""

_ROUNDING_PX = 0.05
"""A box this far over the edge was rounded, and is not worth a line."""


class Box(NamedTuple):
    """The box of one annotation."""

    place: int
    """Of the annotation in the file's list."""
    name: str
    """For messages: its id."""
    bbox: Any
    """As the file has it."""


@dataclass(slots=True)
class BoxedPicture:
    """A picture of the set, and its boxes to segment."""

    place: int
    """Of the picture in the file's list."""
    name: str
    size: tuple[int, int] | None
    """Width and height as the file has them; None if it has none, or zeros, as programs write that do not know."""
    boxes: list[Box] = field(default_factory=list)


@dataclass(slots=True)
class BoxSet:
    """A data set of boxes."""

    document: dict[str, Any]
    """COCO's content."""
    pictures: list[BoxedPicture]
    crowds: int
    """Annotations with iscrowd, which stay untouched."""
    problems: list[str]
    """What cannot be used, in lines."""
    in_shares: bool = False
    """Boxes are centre and size in shares of the picture (YOLO), not its corner and size in pixels (COCO)."""


def read_coco(file: Path) -> BoxSet:
    """Read a COCO file. Raises OSError, and ValueError if it is none."""
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from error
    if isinstance(document, list):
        raise ValueError(
            f"{file} is not a COCO data set but a list, as detectors write their results, which does not name the "
            "pictures. Add the images and categories of the data set, as pycocotools does: "
            "COCO(DATA_SET).loadRes(RESULTS).dataset"
        )
    if not (
        isinstance(document, dict)
        and isinstance(document.get("images"), list)
        and isinstance(document.get("annotations"), list)
    ):
        raise ValueError(f"{file} is not a COCO data set: it must have the lists images and annotations")
    return of_document(document)


def of_document(document: dict[str, Any], *, in_shares: bool = False) -> BoxSet:
    """Return the set of boxes of a COCO file's content."""
    found = BoxSet(document, [], 0, [], in_shares)
    by_id: dict[Any, BoxedPicture] = {}
    shared: set[Any] = set()
    useless: list[str] = []
    for place, entry in enumerate(document["images"]):
        try:
            if not isinstance(entry, dict):
                raise TypeError("it is not an object")
            picture = BoxedPicture(place, _text(entry["file_name"]), _size(entry))
            if (other := by_id.get(entry["id"])) is not None:
                if other.name != picture.name:
                    shared.add(entry["id"])
                raise ValueError(f"its id {entry['id']} is that of another one")
            by_id[entry["id"]] = picture
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            useless.append(f"entry {place + 1} of images cannot be used: {why}")
    found.problems += at_most(useless, "entries of images cannot be used")  # as of LVIS, which names no files
    homeless: list[str] = []
    doubtful: list[str] = []
    for place, entry in enumerate(document["annotations"]):
        if not isinstance(entry, dict):
            found.problems.append(f"entry {place + 1} of annotations is not an object")
            continue
        name = str(entry.get("id", f"number {place + 1}"))
        if entry.get("iscrowd") in (1, True):
            found.crowds += 1
            continue
        try:
            picture = by_id[entry.get("image_id")]
            if entry["image_id"] in shared:  # as of data sets that were put together without new ids
                doubtful.append(name)
            else:
                picture.boxes.append(Box(place, name, entry.get("bbox")))
        except (KeyError, TypeError):
            homeless.append(name)
    if homeless:
        found.problems.append(_kept("annotations", homeless, "their picture is not one of images"))
    if doubtful:
        found.problems.append(_kept("annotations", doubtful, "several pictures have their image_id"))
    found.pictures = [picture for picture in by_id.values() if picture.boxes or in_shares]
    return found


def in_pixels(shares: list[float], size: tuple[int, int]) -> list[float]:
    """Return x, y, width, height in pixels of a box of YOLO, which is centre and size in shares of the picture."""
    width, height = size
    x, y, box_width, box_height = shares
    left, top = (x - box_width / 2) * width, (y - box_height / 2) * height
    return [round(number, 3) for number in (left, top, box_width * width, box_height * height)]


def corners(bbox: Any, size: tuple[int, int]) -> tuple[Corners, bool] | None:
    """Return a box (x, y, width, height) within a picture of `size` (width, height), and whether it was clipped.

    None if it is not four numbers, has no area, or is wholly outside.
    """
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
        return None
    width, height = size
    x, y, box_width, box_height = map(float, bbox)
    x0, y0, x1, y1 = (
        max(x, 0.0),
        max(y, 0.0),
        min(x + box_width, float(width)),
        min(y + box_height, float(height)),
    )
    if not (x0 < x1 and y0 < y1 and box_width > 0 and box_height > 0):
        return None
    over = max(x0 - x, y0 - y, x + box_width - x1, y + box_height - y1)
    return (x0, y0, x1, y1), over > _ROUNDING_PX


def _kept(things: str, names: list[str], why: str) -> str:
    return f"{things} {named(names)} are kept as they were: {why}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"its file_name is {value!r}")
    return value


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if width is None or height is None:
        return None
    size = int(width), int(height)
    return None if size == (0, 0) else size


def _is_number(value: Any) -> bool:
    """Whether it is a number as JSON has them, whose integers have any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
