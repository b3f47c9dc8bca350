"""Reads reply files as instances and combines instances into one COCO data set.

A reply file is the JSON that /decode returns, as written by `sam2 decode` or curl. `sam2 decode` adds
`picture`, the file, and `label`, the category. Does not know about servers and the command line.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sam2_client.images import KnownImage
from sam2_client.masks import Mask
from sam2_client.simplifying import area
from sam2_client.version import __version__
from sam2_client.whole_files import whole

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
    image_id: str | None = None
    """The server's id of the picture, by which pictures of one name are told apart; None if it is not known."""


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
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "predictions" in value


def read_reply(path: Path) -> Iterator[Instance]:
    """Read the best mask of each prediction of a reply file. Raises OSError, and ValueError for other files."""
    try:
        reply = json.loads(path.read_bytes())
        if "error" in reply:
            raise ValueError(f"it is an error: {reply['error']['message']}")
        label = reply.get("label")
        for prediction in reply["predictions"]:
            yield Instance(
                picture=str(reply.get("picture", reply["image_id"])),
                width=int(reply["width"]),
                height=int(reply["height"]),
                label=DEFAULT_LABEL if label is None else str(label),
                mask=Mask.from_dict(prediction["masks"][0], size=(int(reply["height"]), int(reply["width"]))),
                image_id=str(reply["image_id"]),
            )
    except UnicodeDecodeError as error:  # whose words hold the whole file
        raise ValueError(f"{path} is not a reply of /decode: it is no text") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not a reply of /decode with masks as RLE: {why}") from error


def sizes(instances: Iterable[Instance]) -> dict[str, tuple[int, int]]:
    """Return width and height of each picture. Raises ValueError if two pictures have one name."""
    found: dict[str, tuple[int, int]] = {}
    ids: dict[str, str] = {}
    for instance in instances:
        width, height = found.setdefault(instance.picture, (instance.width, instance.height))
        if (width, height) != (instance.width, instance.height):
            raise ValueError(
                f"{instance.picture} is {width} x {height} in one reply and {instance.width} x "
                f"{instance.height} in another: two pictures have the same name"
            )
        if instance.image_id is not None:
            image_id = ids.setdefault(instance.picture, instance.image_id)
            if image_id != instance.image_id:
                raise ValueError(
                    f"{instance.picture} is one picture here and another there (image_id {image_id:.12} and "
                    f"{instance.image_id:.12}): two pictures have the same name, or it has changed. Export them "
                    "apart, or name them by paths that differ"
                )
    return found


def several_names(instances: Iterable[Instance]) -> list[str]:
    """Return the names of each picture that has several. It becomes as many images, none with all its objects."""
    names: dict[str, dict[str, None]] = {}
    for instance in instances:
        if instance.image_id is not None:
            names.setdefault(instance.image_id, {})[instance.picture] = None
    return [" = ".join(each) for each in names.values() if len(each) > 1]


def dataset(instances: Sequence[Instance], *, simplify: float | None = None) -> dict[str, Any]:
    """Return COCO's JSON with all its fields, as pycocotools, Detectron2 and MMDetection read it.

    `score` is the predicted IoU. Masks are RLE or, if `simplify` is given, polygons whose outlines are moved by at
    most that many pixels, with `area` and `bbox` of the polygons. COCO's polygons have no holes, so each ring is
    joined with those of its holes: decoded by pycocotools, holes stay holes. Empty masks are omitted, but their
    pictures stay. Raises ValueError if two pictures have one name.
    """
    found = sizes(instances)
    images = {picture: number for number, picture in enumerate(found, 1)}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": images[instance.picture],
            "category_id": categories.setdefault(instance.label, len(categories) + 1),
            **shape(instance.mask, simplify=simplify),
            "iscrowd": 0,
            "score": instance.mask.iou,
        }
        for number, instance in enumerate((one for one in instances if one.mask.area), 1)
    ]
    return {
        **head(),
        "images": [image(images[picture], picture, *size) for picture, size in found.items()],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in categories.items()
        ],
    }


def head() -> dict[str, Any]:
    """Return info and licences of a data set made now."""
    now = datetime.now(UTC)
    return {
        "info": {
            "description": "Made with SAM 2",
            "url": "",
            "version": __version__,
            "year": now.year,
            "contributor": "",
            "date_created": now.isoformat(timespec="seconds"),
        },
        "licenses": [{"id": 0, "name": "", "url": ""}],
    }


def image(number: int, picture: str, width: int, height: int) -> dict[str, Any]:
    """Return an entry of `images`."""
    unknown = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": ""}
    return {"id": number, "file_name": picture, "width": width, "height": height, **unknown}


def shape(mask: Mask, *, simplify: float | None) -> dict[str, Any]:
    """Return segmentation, area and bbox of a mask that is not empty: as RLE, or polygons as in `dataset`."""
    return _runs(mask) if simplify is None else _polygons(mask, simplify)


def write(file: Path, parts: Mapping[str, Any]) -> None:
    """Write a data set at once or not at all: a cut leaves the file as it was. Iterators are written as lists,
    piece by piece, so that a large one takes little memory. Raises OSError.
    """
    with whole(file) as new, new.open("w", encoding="utf-8") as out:
        out.writelines(_pieces(parts))


def _pieces(parts: Mapping[str, Any]) -> Iterator[str]:
    yield "{"
    for number, (name, part) in enumerate(parts.items()):
        yield f"{', ' if number else ''}{json.dumps(name)}: "
        if isinstance(part, Iterator):
            yield "["
            for place, element in enumerate(part):
                yield f"{', ' if place else ''}{json.dumps(element)}"
            yield "]"
        else:
            yield json.dumps(part)
    yield "}\n"


def _runs(mask: Mask) -> dict[str, Any]:
    return {"segmentation": mask.rle, "area": mask.area, "bbox": list(mask.bbox)}


def _polygons(mask: Mask, tolerance: float) -> dict[str, Any]:
    rings = mask.joined_outlines(simplify=tolerance)
    points = np.concatenate([np.array(ring) for ring in rings])
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "segmentation": [np.array(ring).ravel().tolist() for ring in rings],
        "area": sum(area(ring) for ring in rings),
        "bbox": [*low.tolist(), *(high - low).tolist()],
    }
