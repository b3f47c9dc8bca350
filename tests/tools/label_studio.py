"""Label Studio's own server against a server of this checkout: what a user does, through its API.

It is connected as its settings page does it, asked for masks as its editor does it, and its SDK decodes them.
"""

import base64
import io
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image

from tests.server import ROOT
from tests.tools.checking import (
    SCENE,
    Checks,
    Reference,
    agreement,
    another,
    filled,
    large_jpeg,
    median_ms,
    serving,
)
from tests.tools.label_studio_user import KEY, LEGACY, Tool, config, key_point, label_studio, rectangle

POINT = (0.45, 0.55)
"""The click, as parts of the picture's width and height."""


def painted(region: dict[str, Any]) -> np.ndarray:
    """Return the mask of a region that is painted with a brush, decoded by the SDK."""
    height, width = region["original_height"], region["original_width"]
    return decode_rle(region["value"]["rle"]).reshape(height, width, 4)[:, :, 3] > 0


def outlined(region: dict[str, Any]) -> np.ndarray:
    """Return the mask of a region that is a polygon."""
    height, width = region["original_height"], region["original_width"]
    ring = [[x * width / 100, y * height / 100] for x, y in region["value"]["points"]]
    return filled([ring], height, width)


def shown(region: dict[str, Any]) -> np.ndarray:
    """Return the mask of a bitmask: where its picture is not transparent, as the editor reads it."""
    data = base64.b64decode(region["value"]["imageDataURL"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[:, :, 3] > 0


def turned(data: bytes) -> bytes:
    """Return a JPEG whose EXIF orientation turns it by 90 degrees."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def check_masks(checks: Checks, tool: Tool, url: str, data: bytes, turned_data: bytes) -> None:
    """Compare every form of answer with /decode."""
    reference = Reference(url, KEY)
    task, turned_task = tool.import_picture("scene.jpg", data), tool.import_picture("turned.jpg", turned_data)
    for what, number, file in (
        ("a picture", task, data),
        ("a picture turned by EXIF", turned_task, turned_data),
    ):
        image_id = reference.embed(file)
        (region,) = tool.masks(number, key_point(*POINT))
        width, height = region["original_width"], region["original_height"]
        x, y = POINT[0] * width, POINT[1] * height
        own = reference.mask(image_id, point_coords=[[x, y]], point_labels=[1])
        same = own.shape == (height, width) and bool((painted(region) == own).all())
        checks.check(f"a click on {what}: brush equals /decode", same, f"{own.sum()} of {own.size} pixels")
    checks.check("the label and the tag", region["value"]["brushlabels"] == ["Eagle"], region["from_name"])
    image_id = reference.embed(data)
    (region,) = tool.masks(task, key_point(*POINT))
    width, height = region["original_width"], region["original_height"]

    def own_mask(points: list[tuple[float, float]], labels: list[int], box: Any = None) -> np.ndarray:
        corners = [box[0] * width, box[1] * height, box[2] * width, box[3] * height] if box else None
        return (
            reference.mask(
                image_id,
                point_coords=[[x * width, y * height] for x, y in points] or None,
                point_labels=labels or None,
                box=corners,
            )
            if points
            else reference.mask(image_id, box=corners)
        )

    box, other = (0.2, 0.2, 0.7, 0.8), (0.6, 0.1, 0.95, 0.5)
    gestures: dict[str, tuple[list[dict[str, Any]], np.ndarray]] = {
        "both signs": (
            [key_point(*POINT), key_point(0.1, 0.1, positive=False)],
            own_mask([POINT, (0.1, 0.1)], [1, 0]),
        ),
        "a rectangle": ([rectangle(*box)], own_mask([], [], box)),
        "a rectangle and points": (
            [rectangle(*box), key_point(*POINT), key_point(0.25, 0.25, positive=False)],
            own_mask([POINT, (0.25, 0.25)], [1, 0], box),
        ),
    }
    for what, (drawn, own) in gestures.items():
        (region,) = tool.masks(task, *drawn)
        iou = agreement(painted(region), own)
        checks.check(f"{what}: brush equals /decode", iou == 1.0, f"IoU {iou:.4f}")
    first, second = tool.masks(task, rectangle(*box), rectangle(*other, label="House"))
    ious = (
        agreement(painted(first), own_mask([], [], box)),
        agreement(painted(second), own_mask([], [], other)),
    )
    labels = first["value"]["brushlabels"] + second["value"]["brushlabels"]
    checks.check(
        "two rectangles with two labels", ious == (1.0, 1.0) and labels == ["Eagle", "House"], labels
    )
    own = own_mask([POINT], [1])
    tool.answer_with("PolygonLabels")
    regions = tool.masks(task, key_point(*POINT))
    iou = agreement(np.logical_or.reduce([outlined(region) for region in regions]), own)
    corners = sum(len(region["value"]["points"]) for region in regions)
    checks.check("PolygonLabels alone: outlines", iou > 0.95, f"IoU {iou:.3f}, {corners} corners")
    tool.answer_with("BitmaskLabels")
    (region,) = tool.masks(task, key_point(*POINT))
    checks.check("BitmaskLabels: equal to /decode", bool((shown(region) == own).all()))
    tool.answer_with()
    (region,) = tool.masks(task, key_point(*POINT))
    x, y, across, down = (region["value"][name] for name in ("x", "y", "width", "height"))
    ys, xs = np.nonzero(own)
    expected = [xs.min() / width, ys.min() / height, np.ptp(xs) / width, np.ptp(ys) / height]
    far = np.abs(np.array([x, y, across, down]) / 100 - expected).max()
    checks.check("neither: a rectangle around the mask", bool(far < 2 / min(width, height)), region["type"])
    tool.answer_with("BrushLabels")


def check_errors(checks: Checks, tool: Tool, url: str, log: Path) -> None:
    """What users see when something is wrong."""
    try:
        tool.connect(url, password="not-the-key-0123456789")  # noqa: S106
    except RuntimeError as error:
        checks.check("a wrong password is told when the model is added", "are incorrect" in str(error))
    else:
        checks.check("a wrong password is told when the model is added", False)
    tool.connect(url)
    task = tool.import_picture("broken.jpg", SCENE.read_bytes()[:2000])
    errors = tool.click(task, key_point(*POINT)).get("errors", [""])
    checks.check("a broken picture: the status line reaches the user", "422" in errors[0], errors[0][:90])
    checks.check("and the reason is in our log", "/label-studio/predict for label-studio" in log.read_text())


def check_ahead(checks: Checks, tool: Tool, url: str, log: Path, *, expected: int) -> None:
    """Retrieve predictions for the whole project."""

    def counted(outcome: str) -> float:
        text = httpx.get(f"{url}/metrics", headers={"X-API-Key": KEY}, trust_env=False).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith(f'sam2_embedded_ahead_total{{outcome="{outcome}"')
        ]
        return float(lines[0].split()[-1])

    started = time.monotonic()
    tool.retrieve_predictions()
    checks.check("Retrieve predictions returns at once", time.monotonic() - started < 10)
    tasks = tool.tasks()
    stored = sum(bool(task["total_predictions"]) for task in tasks.values())
    checks.check("each task has its empty prediction", stored == len(tasks), f"{stored} of {len(tasks)}")
    end = time.monotonic() + 120
    while time.monotonic() < end and counted("embedded") + counted("known") + counted("failed") < len(tasks):
        time.sleep(0.2)
    done = counted("embedded"), counted("known"), counted("failed")
    checks.check("its pictures are embedded ahead", done[0] >= expected and sum(done) == len(tasks), done)
    checks.check("and the log says so", "pictures embedded ahead" in log.read_text())


def print_times(tool: Tool, url: str) -> None:
    """Print medians of the first and of later clicks on a 12-megapixel JPEG, against /embed and /decode."""
    data = large_jpeg()
    reference = Reference(url, KEY)
    prompt = {"point_coords": [[POINT[0] * 4000, POINT[1] * 3000]], "point_labels": [1]}
    direct = httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60, trust_env=False)
    tasks = [tool.import_picture(f"{number}.jpg", another(data, 1000 + number)) for number in range(22)]
    addresses = {number: task["data"] for number, task in tool.tasks().items()}

    def predict(task: int) -> None:
        body = {
            "tasks": [{"id": task, "data": addresses[task]}],
            "project": f"{tool.project}.1",
            "label_config": config("BrushLabels"),
            "params": {"login": None, "password": None, "context": {"result": [key_point(*POINT)]}},
        }
        direct.post("/label-studio/predict", json=body).raise_for_status()

    predict(tasks[20])
    first_own = median_ms(lambda number: reference.decode(reference.embed(another(data, number)), **prompt))
    first = median_ms(lambda number: predict(tasks[number]))
    image_id = reference.embed(data)
    own = median_ms(lambda _: reference.decode(image_id, **prompt))
    later = median_ms(lambda _: predict(tasks[0]))
    through = median_ms(lambda _: tool.click(tasks[0], key_point(*POINT)))
    print(f"first click: {first:.0f} ms; /embed and /decode: {first_own:.0f} ms (medians of 20)")
    print(
        f"later clicks: {later:.1f} ms; /decode: {own:.1f} ms; through Label Studio itself: {through:.0f} ms"
    )


def main() -> None:
    """Run all checks."""
    print(f"label-studio {version('label-studio')}, label-studio-sdk {version('label-studio-sdk')}")
    checks = Checks()
    data, turned_data = SCENE.read_bytes(), turned(SCENE.read_bytes())
    with tempfile.TemporaryDirectory() as folder, label_studio(Path(folder)) as studio:
        tool = Tool(studio, ("BrushLabels",))
        settings = {"api_keys": f"anna:{KEY}", "label_studio_url": studio}
        with serving(**settings, label_studio_api_key=tool.personal_token()) as (url, log):
            tool.connect(url)
            checks.check("connected with Basic auth; pictures by a personal access token", tool.model > 0)
            versions = tool.call("GET", f"/api/ml/{tool.model}/versions")
            checks.check("versions", len(versions["versions"]) == 1, versions)
            check_masks(checks, tool, url, data, turned_data)
            for number in range(6):
                tool.import_picture(f"{number}.jpg", another(data, number))
            check_ahead(checks, tool, url, log, expected=6)
            check_errors(checks, tool, url, log)
            print_times(tool, url)
        for what, key in (("a legacy token", LEGACY), ("the token that /setup brings", "")):
            with serving(**settings, label_studio_api_key=key) as (url, _):
                tool.connect(url)
                task = min(tool.tasks())
                checks.check(f"pictures by {what}", bool(tool.click(task, key_point(*POINT)).get("data")))
        with serving(**settings, label_studio_api_key="f" * 40) as (url, log):
            tool.connect(url)
            errors = tool.click(min(tool.tasks()), key_point(*POINT)).get("errors", [""])
            reason = "refuses the access token" in log.read_text()
            checks.check(
                "a wrong token: 422 for the user, the reason in our log", "422" in errors[0] and reason
            )
    checks.end()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
