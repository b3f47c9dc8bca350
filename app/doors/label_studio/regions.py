"""Masks as the regions of Label Studio: painted with a brush, outlined, boxed, or as a picture with transparency.

Does not know about prompts and tasks.
"""

import base64
import io
import secrets
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np
from PIL import Image

from app.codecs.answers import MaskAnswer, MaskOptions
from app.codecs.rows import row_lengths
from app.doors.label_studio.brush import encode_brush
from app.doors.label_studio.label_config import Control, Kind
from app.doors.rings import Ring, area, outermost

_SIMPLIFIED = 1 / 2000
"""How far an outline may move, as a part of the picture's longer side: people drag its corners, one by one."""
_SMALLEST = 0.01
"""Parts of a mask below this part of the largest one's area get no outline: each would be an object of its own."""


def options_for(kind: Kind, *, width: int, height: int) -> MaskOptions:
    """Return the form of masks from which regions of a kind are made."""
    if kind == "polygonlabels":
        simplify = _SIMPLIFIED * max(width, height)
        return MaskOptions(mask_format="polygons", simplify=simplify, best_only=True)
    return MaskOptions(bounds=kind == "bitmasklabels", best_only=True)


def regions(
    mask: MaskAnswer,
    control: Control,
    *,
    label: str | None,
    picture: str,
    item_index: int | None,
    width: int,
    height: int,
) -> list[dict[str, Any]]:
    """Return the regions of one mask on a picture of width x height pixels: none for an empty mask."""
    if not mask.area:
        return []
    common = {
        "from_name": control.name,
        "to_name": picture,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "type": control.kind,
        "score": mask.iou,
        "readonly": False,
    }
    if item_index is not None:
        common["item_index"] = item_index
    labels = {control.kind: [label] if label is not None else []}
    return [
        {"id": secrets.token_hex(5), **common, "value": value | labels}
        for value in _values(mask, control.kind, width=width, height=height)
    ]


def _values(mask: MaskAnswer, kind: Kind, *, width: int, height: int) -> Iterator[dict[str, Any]]:
    match kind:
        case "brushlabels":
            yield {"format": "rle", "rle": list(encode_brush(row_lengths(mask.runs)))}
        case "bitmasklabels":
            yield {"imageDataURL": _data_url(mask, width=width, height=height)}
        case "polygonlabels":
            for ring in _outlines(mask):
                points = [[100 * x / width, 100 * y / height] for x, y in ring]
                yield {"points": points, "closed": True}
        case "rectanglelabels":
            x, y, across, down = mask.bbox
            yield {
                "x": 100 * x / width,
                "y": 100 * y / height,
                "width": 100 * across / width,
                "height": 100 * down / height,
                "rotation": 0,
            }


def _data_url(mask: MaskAnswer, *, width: int, height: int) -> str:
    """Return a PNG of the picture's size that is transparent outside of the mask: Label Studio reads its alpha."""
    x, y, *_ = mask.bounds or (0, 0)
    whole = Image.new("1", (width, height))
    whole.paste(Image.fromarray(np.ascontiguousarray(mask.runs.to_array())), (x, y))
    file = io.BytesIO()
    whole.save(file, "PNG", transparency=0)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _outlines(mask: MaskAnswer) -> list[Ring]:
    """Return the outer rings, the largest first, without specks and without what lies in another one's hole."""
    # Each area once: with the largest ring's again for each of thousands, noise took ten seconds.
    rings = [(area(ring), ring) for ring in mask.polygons or [] if len(ring) > 2]
    rings.sort(key=itemgetter(0), reverse=True)
    return outermost([ring for size, ring in rings if size >= _SMALLEST * rings[0][0]])
