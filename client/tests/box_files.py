"""COCO files of boxes about the pictures of `photos`, and the command that gives them masks."""

import json
from pathlib import Path
from typing import Any

COMMAND = ["masks-from-boxes", "boxes.json", "photos", "-o", "out.json"]


def box_set(*annotations: dict[str, Any]) -> dict[str, Any]:
    """Return a COCO file's content about the fixture's photos, with fields that no standard knows."""
    return {
        "info": {"description": "mine", "secret": [1, {"a": None}]},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "a.png", "width": 60, "height": 40, "camera": "left"},
            {"id": "b", "file_name": "b.PNG", "width": 61, "height": 40},
            {"id": 30, "file_name": "more/c.png", "width": 62, "height": 40},
        ],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "wheel", "keypoints": ["x"]}, {"id": 0, "name": "toy"}],
        "my_field": 1e-7,
    }


def boxed(number: Any, image: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 90, "bbox": bbox, **more}


def write(content: Any, file: str = "boxes.json") -> None:
    Path(file).write_text(json.dumps(content))


def read(file: str = "out.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def by_id(content: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    return {annotation["id"]: annotation for annotation in content["annotations"]}
