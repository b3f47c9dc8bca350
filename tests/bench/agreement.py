"""Checks that the sides compared for speed give the same answers. If decoders do not, the run is void.

What grows out of many decodes, as all objects of a picture or a track, differs by more than a decode: how much is a
target of the report.

Does not know about time. The first side is the reference for the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask

from model.network.config import DecoderConfig
from model.network.mask_decoder import stability
from model.types import Prompt
from tests.bench.report import OURS_FOUND, THEIRS_FOUND, Row
from tests.bench.sides import Decoded, Side

Rle = Mapping[str, object]
"""As pycocotools has them."""


class Disagreement(Exception):
    """A side's answers differ from those of the first side by more than the tolerance."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The most by which a side may differ."""

    logits: float
    """Relative error of the logits of the worst prompt: the norm of the difference over the norm."""
    iou: float
    """Absolute error of the IoU of the worst mask."""
    pixels: float
    """Differing pixels of the full-size masks, as a fraction of the picture, mean over all masks."""
    worst_pixels: float
    """The same for the worst mask."""


FLOAT32 = Tolerance(logits=1e-3, iou=1e-3, pixels=1e-3, worst_pixels=1e-3)
BFLOAT16 = Tolerance(logits=0.1, iou=0.05, pixels=5e-3, worst_pixels=2e-2)
"""Issue 3 allows half a percent of the pixels on structured masks."""
CLOSE = 0.005
"""A single mask is chosen by its stability. Seen: 0.9802 in bfloat16, and in float32 0.977, below the threshold."""


def check(
    sides: Sequence[Side],
    prompts: Sequence[Prompt],
    *,
    case: str,
    size: tuple[int, int],
    half: Sequence[str],
    picture: int = 0,
) -> list[Row]:
    """Return rows with the worst differences of each side from the first, on one picture of `size` (height, width).

    Raises Disagreement if they exceed FLOAT32's tolerance, or BFLOAT16's for sides named in `half`. Where the
    choice of a single mask is close, half precision may choose another one: then the three others are compared.
    """
    reference, *others = sides
    rows = []
    for side in others:
        tolerance = BFLOAT16 if side.name in half else FLOAT32
        as_they_are, for_several = prompts, list[Prompt]()
        if side.name in half:
            as_they_are, for_several = _by_choice(side, reference, prompts, picture)
        groups = filter(None, (as_they_are, for_several))
        compared = [_compare(side, reference, group, size, picture) for group in groups]
        logits, iou = (max(each) for each in list(zip(*compared, strict=True))[:2])
        shares = [share for *_, shares in compared for share in shares]
        differences = Tolerance(logits, iou, sum(shares) / len(shares), max(shares))
        if any(
            found > allowed for found, allowed in zip(astuple(differences), astuple(tolerance), strict=True)
        ):
            raise Disagreement(
                f"{side.name} and {reference.name} on {case}: {differences}, allowed {tolerance}"
            )
        values = asdict(differences)
        if for_several:
            values["close choices"] = len(for_several)
        rows.append(Row("agreement", f"{case}, against {reference.name}", side.name, values))
    return rows


def _compare(
    side: Side, reference: Side, prompts: Sequence[Prompt], size: tuple[int, int], picture: int
) -> tuple[float, float, list[float]]:
    """The worst errors of logits and IoU, and the share of the pixels that differ in each mask."""
    found, expected = (each.decode(picture, prompts) for each in (side, reference))
    logits = max(
        float(np.linalg.norm(f.logits - e.logits) / np.linalg.norm(e.logits))
        for f, e in zip(found, expected, strict=True)
    )
    iou = max(float(np.abs(f.iou - e.iou).max()) for f, e in zip(found, expected, strict=True))
    masks, expected_masks = (
        _masks(each, decoded, prompts, size, picture)
        for each, decoded in ((side, found), (reference, expected))
    )
    return logits, iou, [float((m != e).mean()) for m, e in zip(masks, expected_masks, strict=True)]


def _by_choice(
    side: Side, reference: Side, prompts: Sequence[Prompt], picture: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts as they are, and those whose single mask is a close choice for either side, for several masks."""
    config = DecoderConfig()
    answers = zip(prompts, side.decode(picture, prompts), reference.decode(picture, prompts), strict=True)
    as_they_are, for_several = [], []
    for prompt, *both in answers:
        stable = [
            float(stability(torch.from_numpy(each.logits[0].copy()), config.stability_delta)) for each in both
        ]
        is_close = any(abs(each - config.stability_threshold) < CLOSE for each in stable)
        if is_close and not prompt.multimask_output:
            for_several.append(replace(prompt, multimask_output=True))
        else:
            as_they_are.append(prompt)
    return as_they_are, for_several


def best_iou(ours: Sequence[Rle], theirs: Sequence[Rle]) -> dict[str, float]:
    """Return how many masks we found, and how well each side's have a like among the other's, as mean IoU."""
    iou = np.asarray(coco_mask.iou(ours, theirs, [0] * len(theirs))).reshape(len(ours), len(theirs))
    of_theirs, of_ours = (iou.max(axis=axis, initial=0) for axis in (0, 1))
    return {
        "masks": len(ours),
        THEIRS_FOUND: float(of_theirs.sum() / max(1, len(theirs))),
        OURS_FOUND: float(of_ours.sum() / max(1, len(ours))),
    }


def _masks(
    side: Side, found: Sequence[Decoded], prompts: Sequence[Prompt], size: tuple[int, int], picture: int
) -> list[npt.NDArray[np.bool_]]:
    """Return full-size masks of every prompt in token order. Answers sorted by predicted IoU are sorted back."""
    masks = []
    for decoded, rles in zip(found, side.answer(picture, prompts), strict=True):
        order = (-decoded.iou).argsort(kind="stable") if side.sorts_by_iou else range(len(rles))
        of_token = dict(zip(order, rles, strict=True))
        masks += [
            coco_mask.decode({"size": list(size), "counts": of_token[i].encode()}).astype(bool)
            for i in range(len(rles))
        ]
    return masks
