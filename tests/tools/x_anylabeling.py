"""X-AnyLabeling's own class RemoteServer, off-screen, against a server of this checkout."""

import logging
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import numpy as np
import yaml
from anylabeling import config as tool_config
from anylabeling.services.auto_labeling.remote_server import RemoteServer
from anylabeling.views.labeling.logger import logger
from PIL import Image
from PyQt6.QtGui import QImage
from PyQt6.QtWidgets import QApplication

from tests.tools.checking import (
    SCENE,
    Checks,
    Reference,
    agreement,
    filled,
    large_jpeg,
    print_times,
    serving,
)

KEY = "anna-0123456789abcdef"


def connect(folder: Path, url: str, key: str, said: list[str]) -> RemoteServer:
    """Return the tool's model, configured as its dialog does it."""
    file = folder / ".xanylabelingrc"
    file.write_text(yaml.safe_dump({"remote_server_settings": {"server_url": url, "api_key": key}}))
    tool_config.current_config_file = str(file)
    return RemoteServer({"type": "remote_server", "display_name": "Remote-Server"}, said.append)


def point(x: int, y: int, label: int = 1) -> dict[str, Any]:
    return {"type": "point", "data": [x, y], "label": label}


def rectangle(*data: int) -> dict[str, Any]:
    return {"type": "rectangle", "data": list(data), "label": 1}


def click(tool: RemoteServer, path: Path, *marks: dict[str, Any]) -> list[Any]:
    """Return the shapes that the tool got for its marks on a picture file."""
    tool.set_auto_labeling_marks(list(marks))
    shapes: list[Any] = tool.predict_shapes(QImage(1, 1, QImage.Format.Format_RGB32), str(path)).shapes
    return shapes


def mask_of(shapes: list[Any], like: np.ndarray) -> np.ndarray:
    rings = [[[corner.x(), corner.y()] for corner in shape.points] for shape in shapes]
    return filled(rings, *like.shape)


def main() -> None:
    """Run all checks."""
    application = QApplication([])
    logger.setLevel(logging.CRITICAL)
    checks, said = Checks(), list[str]()
    print(f"x-anylabeling-cvhub {version('x-anylabeling-cvhub')}")
    with tempfile.TemporaryDirectory() as name, serving(api_keys=f"anna:{KEY}") as (url, log):
        folder = Path(name)
        tool = connect(folder, url, KEY, said)
        reference = Reference(url, KEY)
        check_models(checks, tool)
        check_masks(checks, tool, reference)
        check_errors(checks, lambda key: connect(folder, url, key, said), tool, said, log)
    with tempfile.TemporaryDirectory() as name, serving(log_level="warning") as (url, _):
        tool = connect(Path(name), url, "", said)
        tool.set_model_id(next(iter(tool.get_available_models())))
        data, file = large_jpeg(), Path(name) / "large.jpg"

        def through_the_door(picture: bytes) -> None:
            file.write_bytes(picture)
            assert click(tool, file, point(2000, 1500))

        print_times(
            data,
            Reference(url),
            door=through_the_door,
            point=(2000, 1500),
            base64_bytes=len(data) * 4 // 3,
        )
    application.quit()
    checks.end()


def check_models(checks: Checks, tool: RemoteServer) -> None:
    models = tool.get_available_models()
    checks.check("it lists one model", len(models) == 1, list(models))
    tool.set_model_id(next(iter(models)))
    checks.check("'run all images' is off", tool.get_batch_processing_mode() is None)


def check_masks(checks: Checks, tool: RemoteServer, reference: Reference) -> None:
    image_id = reference.embed(SCENE.read_bytes())
    with Image.open(SCENE) as picture:
        width, height = picture.size
    x, y = width // 2, height // 2
    tool.set_mask_fineness(0.0001)

    def compare(what: str, marks: list[dict[str, Any]], **prompt: Any) -> None:
        shapes = click(tool, SCENE, *marks)
        own = reference.mask(image_id, **prompt)
        equal = agreement(mask_of(shapes, own), own)
        checks.check(f"{what}: the mask is that of /decode", bool(shapes) and equal > 0.9, f"IoU {equal:.3f}")

    compare("a point", [point(x, y)], point_coords=[[x, y]], point_labels=[1])
    compare(
        "points of both signs",
        [point(x, y), point(x // 2, y // 2, 0)],
        point_coords=[[x, y], [x // 2, y // 2]],
        point_labels=[1, 0],
    )
    box = [x // 2, y // 2, x + x // 2, y + y // 2]
    for corners in (box, [box[2], box[3], box[0], box[1]], [box[2], box[1], box[0], box[3]]):
        compare(f"a rectangle from corner {corners[:2]}", [rectangle(*corners)], box=box)
    compare(
        "a rectangle and a point",
        [rectangle(*box), point(x, y)],
        box=box,
        point_coords=[[x, y]],
        point_labels=[1],
    )
    halves = [[1, 1, x, height - 1], [x, 1, width - 1, height - 1]]
    shapes = click(tool, SCENE, *(rectangle(*half) for half in halves))
    both = reference.mask(image_id, box=halves[0]) | reference.mask(image_id, box=halves[1])
    equal = agreement(mask_of(shapes, both), both)
    checks.check("two rectangles: an object each", len(shapes) >= 2 and equal > 0.9, f"IoU {equal:.3f}")
    checks.check("no marks: no shapes", click(tool, SCENE) == [])
    shape = click(tool, SCENE, point(x, y))[0]
    checks.check(
        "a shape waits for the user's label",
        shape.label == "AUTOLABEL_OBJECT" and shape.shape_type == "polygon" and 0 <= shape.score <= 1,
    )
    sizes = []
    for fineness in (0.0001, 0.001, 0.01):
        tool.set_mask_fineness(fineness)
        sizes.append(len(click(tool, SCENE, point(x, y))[0].points))
    checks.check("the slider thins the outline", sizes[0] > sizes[1] > sizes[2] >= 3, sizes)


def check_errors(
    checks: Checks, connected: Callable[[str], RemoteServer], tool: RemoteServer, said: list[str], log: Path
) -> None:
    said.clear()
    shapes = click(tool, SCENE, point(10**6, 1))
    checks.check("a bad prompt shows 422", shapes == [] and "422" in said[-1], said[-1])
    checks.check("its reason is in our log", "too far outside the picture" in log.read_text())
    stranger = connected("wrong-0123456789abcdef")
    checks.check("a wrong key gets no models", stranger.get_available_models() == {})
    stranger.set_model_id(tool.current_model_id)
    checks.check(
        "a wrong key shows 401", click(stranger, SCENE, point(1, 1)) == [] and "401" in said[-1], said[-1]
    )
    tool.set_model_id("another")
    checks.check(
        "a model that is not loaded shows 422",
        click(tool, SCENE, point(1, 1)) == [] and "422" in said[-1],
        said[-1],
    )


if __name__ == "__main__":
    main()
