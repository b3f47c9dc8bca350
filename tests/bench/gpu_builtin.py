"""The model that the project ships, with its own weights, in every precision of the GPU: masks of objects.

Does not know about time.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from model.checkpoints.download import BUILTIN_PATH
from model.masks.runs import runs
from model.network.config import BUILTIN
from model.runner import Sam2Runner, load_runner
from model.types import Pixels, Prompt
from tests.bench.gpu_checks import compare_masks
from tests.bench.gpu_session import Session

_ROOT = Path(__file__).parents[2]
SCENES = _ROOT / "tests/data/scenes"
HATS, HATS_CLICK = _ROOT / "docs/hats.jpg", (240.0, 144.0)

LEAST_MEAN_IOU = {"float32": 0.998, "bfloat16": 0.95, "float16": 0.97}
"""Of all three masks of each click, with those of float32 on the CPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and a click on an object."""

    pixels: Pixels
    click: Prompt
    truth: np.ndarray | None
    """The object's mask, (height, width), where it is known."""


def check_builtin(session: Session) -> None:
    """All masks against float32 on the CPU, and the best of them against the objects."""
    scenes = read_scenes()
    reference = load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype="float32")
    expected = _masks(reference, scenes)
    _against_truth(session, "float32 on the CPU", scenes, expected)
    for dtype in ("float32", "bfloat16", "float16"):
        with session.part(dtype):
            runner = session.runner(BUILTIN, checkpoint=BUILTIN_PATH, dtype=dtype)
            found = _masks(runner, scenes)
            name = f"{dtype} on {runner.device_name}"
            compare_masks(
                session,
                f"built-in model, {name} against float32 on the CPU",
                [mask for masks in found for mask in masks],
                [mask for masks in expected for mask in masks],
                least=LEAST_MEAN_IOU[dtype],
            )
            _against_truth(session, name, scenes, found)


def read_scenes() -> list[Scene]:
    """docs/hats.jpg and tests/data/scenes, at their own sizes."""
    scenes = [Scene(_pixels(HATS), Prompt(points=(HATS_CLICK,), labels=(1,)), None)]
    for record in json.loads((SCENES / "scenes.json").read_text()):
        x, y = record["click"]
        rle = {"size": record["mask"]["size"], "counts": record["mask"]["counts"].encode()}
        click = Prompt(points=((float(x), float(y)),), labels=(1,))
        scenes.append(Scene(_pixels(SCENES / record["file"]), click, coco_mask.decode(rle).astype(bool)))
    return scenes


def _pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def _masks(runner: Sam2Runner, scenes: list[Scene]) -> list[list[np.ndarray]]:
    """Three masks at full size for each scene, in the order of tokens."""
    masks = []
    for scene in scenes:
        height, width = scene.pixels.shape[:2]
        (embedding,) = runner.encode([scene.pixels])
        (prediction,) = runner.decode([(embedding, scene.click)])
        masks.append([runs(each, height=height, width=width).to_array() for each in prediction.logits])
    return masks


def _against_truth(session: Session, name: str, scenes: list[Scene], masks: list[list[np.ndarray]]) -> None:
    """The best of three masks, whichever it is, against the object."""
    best = [
        max(float((mask & scene.truth).sum() / (mask | scene.truth).sum()) for mask in of_scene)
        for scene, of_scene in zip(scenes, masks, strict=True)
        if scene.truth is not None
    ]
    case = f"built-in model, {name}, best of three masks against the object"
    session.add("correct", case, mIoU=float(np.mean(best)), worst_IoU=min(best))
