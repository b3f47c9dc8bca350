"""Checks that the sides compared for speed give the same answers. If decoders do not, the run is void.

What grows out of many decodes, as all objects of a picture or a track, differs by more than a decode: how much is a
target of the report.

Does not know about time. The first side is the reference for the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

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

    Raises Disagreement if they exceed FLOAT32's tolerance, or BFLOAT16's for sides named in `half`.
    """
    reference, *others = sides
    expected = reference.decode(picture, prompts)
    expected_masks = _masks(reference, expected, prompts, size, picture)
    rows = []
    for side in others:
        found = side.decode(picture, prompts)
        logits = max(
            float(np.linalg.norm(f.logits - e.logits) / np.linalg.norm(e.logits))
            for f, e in zip(found, expected, strict=True)
        )
        iou = max(float(np.abs(f.iou - e.iou).max()) for f, e in zip(found, expected, strict=True))
        masks = _masks(side, found, prompts, size, picture)
        shares = [float((m != e).mean()) for m, e in zip(masks, expected_masks, strict=True)]
        tolerance = BFLOAT16 if side.name in half else FLOAT32
        differences = Tolerance(logits, iou, sum(shares) / len(shares), max(shares))
        if any(
            found > allowed for found, allowed in zip(astuple(differences), astuple(tolerance), strict=True)
        ):
            raise Disagreement(
                f"{side.name} and {reference.name} on {case}: {differences}, allowed {tolerance}"
            )
        rows.append(Row("agreement", f"{case}, against {reference.name}", side.name, asdict(differences)))
    return rows


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
