"""The model that the project ships: masks that mean something, and the same in half precision as in float32."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from model.checkpoints.download import BUILTIN_PATH
from model.everything.candidates import best_of_crop, sift
from model.everything.crops import Pattern, plan
from model.everything.defaults import default_thresholds
from model.masks.runs import runs
from model.network.config import BUILTIN
from model.runner import Sam2Runner, load_runner
from model.training.clicks import central_click
from model.types import Embedding, Prompt

SCENES = Path(__file__).parents[1] / "data" / "scenes"
RECORDS: list[dict[str, Any]] = json.loads((SCENES / "scenes.json").read_text())
HATS = [(53, 50, 200, 204), (205, 115, 310, 236), (298, 152, 381, 255)]
"""x0, y0, x1, y1 of three on docs/hats.jpg."""
SAME = 0.995
"""Least mean IoU of masks that ought to be the same."""


def builtin(dtype: str) -> Sam2Runner:
    return load_runner(BUILTIN, checkpoint=BUILTIN_PATH, device="cpu", dtype=dtype)


def embeddings(runner: Sam2Runner) -> list[Embedding]:
    pictures = [np.array(Image.open(SCENES / record["file"]).convert("RGB")) for record in RECORDS]
    return [runner.encode([picture])[0] for picture in pictures]


def clicks() -> list[Prompt]:
    return [Prompt(points=(tuple(record["click"]),), labels=(1,)) for record in RECORDS]


def all_masks(runner: Sam2Runner, stored: list[Embedding], prompts: list[Prompt]) -> list[np.ndarray]:
    """Every mask of each prompt at its picture's size."""
    predictions = runner.decode(list(zip(stored, prompts, strict=True)))
    return [
        runs(logits, height=e.height, width=e.width).to_array()
        for e, p in zip(stored, predictions, strict=True)
        for logits in p.logits
    ]


def masks(runner: Sam2Runner, stored: list[Embedding], prompts: list[Prompt]) -> list[np.ndarray]:
    """The best mask of each prompt at its picture's size."""
    predictions = runner.decode(list(zip(stored, prompts, strict=True)))
    return [
        runs(p.logits[p.iou.argmax()], height=e.height, width=e.width).to_array()
        for e, p in zip(stored, predictions, strict=True)
    ]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def mean_iou(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.mean([iou(one, other) for one, other in zip(some, others, strict=True)]))


@pytest.fixture(scope="module")
def exact() -> Sam2Runner:
    return builtin("float32")


@pytest.fixture(scope="module")
def embedded(exact: Sam2Runner) -> list[Embedding]:
    return embeddings(exact)


def test_a_click_finds_the_object(exact: Sam2Runner, embedded: list[Embedding]) -> None:
    truths = [coco_mask.decode(record["mask"]).astype(bool) for record in RECORDS]
    found = mean_iou(masks(exact, embedded, clicks()), truths)
    assert found > 0.4  # empty masks, whole pictures and noise stay below 0.25


def test_half_precision_draws_the_same_masks(exact: Sam2Runner, embedded: list[Embedding]) -> None:
    half = builtin("bfloat16")
    same = mean_iou(all_masks(half, embeddings(half), clicks()), all_masks(exact, embedded, clicks()))
    assert same >= SAME


def test_on_a_cpu_bfloat16_is_for_the_decoder() -> None:
    half = builtin("bfloat16")
    assert {x.dtype for x in half.model.image_encoder.parameters()} == {torch.float32}
    assert {x.dtype for x in half.model.sam_mask_decoder.parameters()} == {torch.bfloat16}
    assert half.dtype_name == "bfloat16"
    assert embeddings(half)[0].image_rows.dtype == torch.bfloat16


def test_the_shorter_way_draws_the_same_masks(exact: Sam2Runner, embedded: list[Embedding]) -> None:
    """Links of a refinement keep Meta's order of operations, and others do not: see model/cpu/decoder.py."""
    in_order = [replace(click, hands_out_logits=True) for click in clicks()]
    assert mean_iou(all_masks(exact, embedded, clicks()), all_masks(exact, embedded, in_order)) >= 0.9999


def test_a_correction_improves_what_is_wrong(exact: Sam2Runner, embedded: list[Embedding]) -> None:
    """On average: the second click falls on the largest error, with the logits of the first."""
    truths = [coco_mask.decode(record["mask"]).astype(bool) for record in RECORDS]
    first = exact.decode(list(zip(embedded, clicks(), strict=True)))
    before = masks(exact, embedded, clicks())
    corrections = []
    for click, prediction, truth, mask in zip(clicks(), first, truths, before, strict=True):
        error = central_click(truth, mask, excluded=np.zeros_like(truth))
        assert error is not None  # no mask is that good
        corrections.append(
            Prompt(
                points=(*click.points, (error.x + 0.5, error.y + 0.5)),
                labels=(1, int(error.is_object)),
                mask_logits=prediction.logits[prediction.iou.argmax()].clip(-32, 32),
                multimask_output=False,
            )
        )
    assert mean_iou(masks(exact, embedded, corrections), truths) > mean_iou(before, truths)


def test_everything_finds_each_hat_with_the_models_own_thresholds() -> None:
    runner, thresholds = builtin("float32"), default_thresholds(BUILTIN)
    photograph = np.array(Image.open(Path(__file__).parents[2] / "docs" / "hats.jpg").convert("RGB"))
    height, width, _ = photograph.shape
    (embedding,) = runner.encode([photograph])
    (crop,) = plan(Pattern(points_per_side=16), height=height, width=width)
    points = [(float(x), float(y)) for x, y in crop.points]
    prompts = [Prompt(points=(p,), labels=(1,), iou_floor=thresholds.iou_floor) for p in points]
    size = {"height": height, "width": width}
    found = [
        candidate
        for point, prediction in zip(
            points, runner.decode([(embedding, prompt) for prompt in prompts]), strict=True
        )
        for candidate in sift(prediction, crop=crop.box, point=point, thresholds=thresholds, **size)
    ]
    drawn = [candidate.mask(**size).to_array() for candidate in best_of_crop(found, thresholds=thresholds)]
    assert 5 <= len(drawn) <= 60
    for hat in HATS:
        box = np.zeros((height, width), np.bool_)
        box[hat[1] : hat[3], hat[0] : hat[2]] = True
        assert max(iou(mask, box) for mask in drawn) > 0.55  # a hat fills two thirds of its box
