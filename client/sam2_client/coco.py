"""Reads reply files as instances and combines instances into one COCO data set.

A reply file is the JSON that /decode returns, as written by `sam2 decode` or curl. `sam2 decode` adds
`picture`, the file, and `label`, the category. Does not know about servers and the command line.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam2_client.images import KnownImage
from sam2_client.masks import Mask

DEFAULT_LABEL = "object"


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object of one picture."""

    picture: str
    """COCO's file_name."""
    width: int
    height: int
    label: str
    mask: Mask


def to_reply(image: KnownImage, masks: Sequence[Mask], *, picture: str, label: str) -> dict[str, Any]:
    """Return the content of a reply file with the masks of one prompt, best first."""
    return {
        "picture": picture,
        "label": label,
        "image_id": image.image_id,
        "width": image.width,
        "height": image.height,
        "model": image.model,
        "predictions": [{"masks": [mask.to_dict() for mask in masks]}],
    }


def is_reply(path: Path) -> bool:
    """Return whether a JSON file is a reply. Folders may have other JSON files too."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(value, dict) and "predictions" in value


def read_reply(path: Path) -> Iterator[Instance]:
    """Read the best mask of each prediction of a reply file. Raises OSError, and ValueError for other files."""
    try:
        reply = json.loads(path.read_bytes())
        for prediction in reply["predictions"]:
            yield Instance(
                picture=str(reply.get("picture", reply["image_id"])),
                width=int(reply["width"]),
                height=int(reply["height"]),
                label=str(reply.get("label", DEFAULT_LABEL)),
                mask=Mask.from_dict(prediction["masks"][0], size=(int(reply["height"]), int(reply["width"]))),
            )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a reply of /decode with masks as RLE ({error!r})") from error


def dataset(instances: Iterable[Instance], *, simplify: float | None = None) -> dict[str, Any]:
    """Return COCO's JSON, as pycocotools.coco.COCO loads it. `score` is the predicted IoU.

    Masks are RLE or, if `simplify` is given, polygons whose outlines are moved by at most that many pixels. COCO's
    polygons have no holes, so holes are filled, and `area` and `bbox` are those of the rings. Empty masks are
    omitted, but their pictures stay. Raises ValueError if one picture has two sizes.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for instance in instances:
        size = {"width": instance.width, "height": instance.height}
        image = images.setdefault(
            instance.picture, {"id": len(images) + 1, "file_name": instance.picture, **size}
        )
        if (image["width"], image["height"]) != (instance.width, instance.height):
            raise ValueError(
                f"{instance.picture} is {image['width']} x {image['height']} in one reply and {instance.width} x "
                f"{instance.height} in another: two pictures have the same name"
            )
        if not instance.mask.area:
            continue
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": categories.setdefault(instance.label, len(categories) + 1),
                **(_runs(instance.mask) if simplify is None else _polygons(instance.mask, simplify)),
                "iscrowd": 0,
                "score": instance.mask.iou,
            }
        )
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }


def _runs(mask: Mask) -> dict[str, Any]:
    return {"segmentation": mask.rle, "area": mask.area, "bbox": list(mask.bbox)}


def _polygons(mask: Mask, tolerance: float) -> dict[str, Any]:
    rings = [np.array(ring) for ring in mask.outlines(simplify=tolerance).polygons]
    low = np.min([ring.min(axis=0) for ring in rings], axis=0)
    high = np.max([ring.max(axis=0) for ring in rings], axis=0)
    return {
        "segmentation": [ring.ravel().tolist() for ring in rings],
        "area": float(sum(_area(ring) for ring in rings)),
        "bbox": [*low.tolist(), *(high - low).tolist()],
    }


def _area(ring: npt.NDArray[np.int64]) -> float:
    """Return the area within a ring (n, 2), by Gauss's formula."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
