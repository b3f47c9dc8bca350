"""A closer look at a part of a picture: prompts are moved into the part, and masks back to the whole picture.

Does not know about requests.
"""

import math
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sam2_client import rle
from sam2_client.found_masks import FoundMask
from sam2_client.masks import Embedded, Mask
from sam2_client.picture_parts import Part, PartialPicture, square_around
from sam2_client.prompts import Box, read_numbers

MaskT = TypeVar("MaskT", bound=Mask)

MARGIN = 1.6
"""Of the side of a closer look, over the longer side of what it shows."""

MOST_SHARE = 0.6
"""Of the picture's area: a larger part shows little more than the whole picture."""


def picture_around(what: Mask | Box, embedded: Embedded, *, margin: float) -> PartialPicture | None:
    """Return the part of a picture around a mask or a box x0, y0, x1, y1; None where `embedded` shows as much.

    Raises ValueError where there is nothing to look at, for a margin below 1, and if the picture is not known.
    """
    if not 1 <= margin < math.inf:
        raise ValueError(f"margin is {margin}, but must be a finite number, 1 or more")
    if embedded.picture is None:
        raise ValueError(
            f"the picture {embedded.image_id!r} is known here by its id alone, so no part of it can be cut out: "
            "embed the file again"
        )
    if embedded.picture.stretch != "range":
        raise ValueError(
            f"the picture was embedded with stretch={embedded.picture.stretch!r}, which only the service can do: "
            "embed its pixels in 8 bits instead"
        )
    part = square_around(_box(what, embedded), margin, (embedded.width, embedded.height))
    if part.share > MOST_SHARE and embedded.part is None:  # a part does not show all
        return None
    picture = embedded.picture
    return PartialPicture(picture.whole if isinstance(picture, PartialPicture) else picture, part)


def whole_size(part: Part, *, shown: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of the whole picture. Raises ValueError if the server was shown something else."""
    if shown != (part.width, part.height):
        raise ValueError(
            f"a picture of {shown[0]} x {shown[1]} pixels, which has {part.width} x {part.height}"
        )
    return part.whole


def into_part(wire: dict[str, Any], part: Part) -> dict[str, Any]:
    """Return a prompt as it is sent, moved from the whole picture into a part. Logits are taken for the part's.

    Raises ValueError for clicks and boxes that are not within the part, and for a mask of another size.
    """
    moved = dict(wire)
    if (points := wire.get("point_coords")) is not None:
        moved["point_coords"] = _moved(np.array(points).reshape(-1, 2), part, "a click").tolist()
    if (box := wire.get("box")) is not None:
        moved["box"] = _moved(np.array(box).reshape(2, 2), part, "a corner of the box").ravel().tolist()
    mask: rle.Rle | str | None = wire.get("mask_input")
    if isinstance(mask, dict):
        moved["mask_input"] = _cut(mask, part)
    return moved


def search_into_part(wire: dict[str, Any], part: Part) -> dict[str, Any]:
    """Return what `everything` sends, with `region` and `points` moved from the whole picture into a part.

    Raises ValueError for what is not within the part.
    """
    moved = dict(wire)
    if (region := wire.get("region")) is not None:
        moved["region"] = into_part({"box": region}, part)["box"]
    if (points := wire.get("points")) is not None:
        pixels = np.round(np.array(points) * part.whole, 6)  # 0.3 of 10 is 3, but for its last bit
        moved["points"] = (_moved(pixels, part, "a click") / (part.width, part.height)).tolist()
    return moved


def out_of_part(mask: MaskT, part: Part) -> MaskT:
    """Return a mask of a part as one of the whole picture."""
    x0, y0, *_ = part.bounds
    width, height = part.whole
    x, y, box_width, box_height = mask.bbox
    changes: dict[str, Any] = {
        "rle": rle.place(mask.rle, part.bounds, size=(height, width)),
        "bbox": (x + x0, y + y0, box_width, box_height) if mask.area else mask.bbox,
    }
    if isinstance(mask, FoundMask):
        left, top, right, bottom = mask.crop_box
        changes["point"] = (mask.point[0] + x0, mask.point[1] + y0)
        changes["crop_box"] = (left + x0, top + y0, right + x0, bottom + y0)
    return replace(mask, **changes)


def _box(what: Mask | Box, embedded: Embedded) -> tuple[float, float, float, float]:
    if isinstance(what, Mask):
        if what.rle["size"] != [embedded.height, embedded.width]:
            raise ValueError(
                f"a mask of height and width {what.rle['size']} is not of this picture: "
                f"{[embedded.height, embedded.width]}"
            )
        if not what.area:
            raise ValueError("the mask is empty: there is nothing to look at")
        return what.bounds
    box = read_numbers("box", what)
    if box.shape != (4,) or not (box[:2] < box[2:]).all():
        raise ValueError(f"box is {what!r}, but must be x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    x0, y0, x1, y1 = map(float, box)
    if x1 <= 0 or y1 <= 0 or x0 >= embedded.width or y0 >= embedded.height:
        raise ValueError(f"box is {what!r}, outside a picture of {embedded.width} x {embedded.height} pixels")
    return max(x0, 0.0), max(y0, 0.0), min(x1, embedded.width), min(y1, embedded.height)


def _moved(points: npt.NDArray[Any], part: Part, what: str) -> npt.NDArray[np.float64]:
    x0, y0, x1, y1 = part.bounds
    moved = points.astype(np.float64) - (x0, y0)
    inside = (moved >= 0).all(axis=1) & (moved <= (x1 - x0, y1 - y0)).all(axis=1)
    if not inside.all():
        x, y = points[~inside][0].tolist()
        raise ValueError(
            f"{what} at ({x:g}, {y:g}) is outside the part that this image shows, {part}: decode it on the image "
            "of the whole picture, or look closer at more of it"
        )
    return moved


def _cut(mask: rle.Rle, part: Part) -> rle.Rle:
    x0, y0, x1, y1 = part.bounds
    width, height = part.whole
    if list(mask["size"]) != [height, width]:
        raise ValueError(
            f"a mask of height and width {list(mask['size'])} is not of this picture: {[height, width]}"
        )
    return rle.encode(rle.decode(mask, columns=(x0, x1))[y0:y1])
