"""A click as each tool sends it: path, headers and body, with the picture in it where the tool sends it along.

The tools' own clients send the same (tests/tools); tests/app/doors has their answers. Does not know about time.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from tests.bench.load import Stream

ADDRESS = "/data/upload/1/picture.jpg"
"""Where Label Studio's tasks say that their picture is."""


@dataclass(frozen=True, slots=True)
class Click:
    """A click on a picture."""

    picture: bytes
    """The file."""
    width: int
    height: int
    x: float
    y: float
    model: str
    address: str = ADDRESS


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, and how it sends a click."""

    name: str
    stream: Callable[[Click], Stream]
    sends_picture: bool = True


def _stream(path: str, body: object, headers: Sequence[tuple[str, str]] = ()) -> Stream:
    return Stream("door", path, "application/json", (json.dumps(body).encode(),), headers=tuple(headers))


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def data_url(data: bytes) -> str:
    """Return a file as a data URL; nobody looks at the type."""
    return f"data:image/jpeg;base64,{_base64(data)}"


def _cvat(click: Click) -> Stream:
    body = {
        "image": _base64(click.picture),
        "pos_points": [[click.x, click.y]],
        "neg_points": [],
        "obj_bbox": None,
    }
    headers = [("x-nuclio-function-name", "sam2"), ("x-nuclio-path", "/")]
    return _stream("/api/function_invocations", body, headers)


def _roboflow(click: Click) -> Stream:
    body = {
        "source": "external",
        "source_info": {},
        "api_key": None,
        "sam2_version_id": "hiera_tiny",
        "multimask_output": True,
        "format": "json",
        "prompts": {"prompts": [{"points": [{"x": click.x, "y": click.y, "positive": True}]}]},
        "image": {"type": "base64", "value": _base64(click.picture)},
    }
    return _stream("/sam2/segment_image", body)


def _x_anylabeling(click: Click) -> Stream:
    marks = [{"type": "point", "data": [click.x, click.y], "label": 1}]
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, "filter_classes": []}
    body = {"model": click.model, "image": data_url(click.picture), "params": params | {"marks": marks}}
    return _stream("/v1/predict", body)


def _qupath(click: Click) -> Stream:
    body = {
        "type": "sam2_l",
        "bbox": None,
        "point_coords": [[click.x, click.y]],
        "point_labels": [1],
        "b64img": _base64(click.picture),
        "b64mask": None,
        "multimask_output": False,
        "checkpoint_url": None,
    }
    return _stream("/sam/", body)


def label_studio(click: Click, *, brush: Sequence[int] = (), address: str = "") -> Stream:
    """Return a click of Label Studio on a task with an annotation, whose brush mask is a list of numbers."""
    value = {"x": 100 * click.x / click.width, "y": 100 * click.y / click.height, "width": 0.3}
    point = {
        "id": "7tJ3kd9x2_",
        "type": "keypointlabels",
        "from_name": "kp",
        "to_name": "img",
        "original_width": click.width,
        "original_height": click.height,
        "image_rotation": 0,
        "is_positive": True,
        "value": value | {"keypointlabels": ["Eagle"], "labels": ["Eagle"]},
    }
    labels = '<Label value="Eagle"/>'
    config = (
        f'<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img">{labels}</BrushLabels>'
        f'<KeyPointLabels name="kp" toName="img" smart="true">{labels}</KeyPointLabels></View>'
    )
    annotation = {"id": 1, "result": [{"value": {"format": "rle", "rle": list(brush)}}]}
    task = {"id": 7, "data": {"image": address or click.address}, "annotations": [annotation]}
    body = {
        "tasks": [task | {"predictions": [], "drafts": [], "project": 1}],
        "project": "1.1795860000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": [point]}},
    }
    return _stream("/label-studio/predict", body)


def embed(picture: bytes) -> Stream:
    """Return an upload to /embed as JSON."""
    return _stream("/embed", {"image": _base64(picture)})


def decode(image_id: str, click: Click) -> Stream:
    """Return our own form of the click."""
    return _stream(
        "/decode", {"image_id": image_id, "point_coords": [[click.x, click.y]], "point_labels": [1]}
    )


TOOLS = (
    Tool("CVAT", _cvat),
    Tool("Roboflow", _roboflow),
    Tool("X-AnyLabeling", _x_anylabeling),
    Tool("QuPath", _qupath),
    Tool("Label Studio", label_studio, sends_picture=False),
)


def large_bodies(model: str, *, megabytes: float) -> dict[str, Stream]:
    """Return requests of this size, by their names in the report."""
    picture, side = large_picture(round(megabytes * 1e6) * 3 // 4)
    click = Click(picture, side, side, side / 2, side / 2, model)
    bodies = {tool.name: tool.stream(click) for tool in TOOLS if tool.sends_picture}
    brush = [0, 255, 37, 128] * round(megabytes * 1e6 / 18)  # 18 characters as Python writes them
    bodies["Label Studio, brushes"] = label_studio(click, brush=brush, address=data_url(_shrunk(picture)))
    bodies["Label Studio, picture in the task"] = label_studio(click, address=data_url(picture))
    bodies["/embed, JSON"] = embed(picture)
    return bodies


def large_picture(size: int) -> tuple[bytes, int]:
    """Return a PNG of about `size` bytes that does not compress, and its side in pixels."""
    side = round((size / 3) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue(), side


def _shrunk(picture: bytes) -> bytes:
    with Image.open(BytesIO(picture)) as large:
        file = BytesIO()
        large.resize((300, 200)).save(file, "JPEG")
        return file.getvalue()
