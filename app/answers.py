"""One prediction of the decoder as the masks a client asked for.

Runs in a worker thread. Knows nothing of JSON and of pydantic.
"""

import base64
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.logits import encode_logits
from app.rle import encode_counts
from model.masks import png, polygons, runs, stability
from model.types import Logits, Prediction

MaskFormat: TypeAlias = Literal["rle", "rle_uncompressed", "polygons", "png"]
Ring: TypeAlias = list[list[float]]


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """One mask at the picture's own size, in the one format asked for."""

    iou: float
    stability: float
    area: int
    bbox: tuple[int, int, int, int]
    counts: str | list[int] | None = None
    polygons: list[Ring] | None = None
    holes: list[Ring] | None = None
    png: str | None = None
    logits: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Masks for every prompt of a request, in order."""

    height: int
    width: int
    predictions: list[list[MaskAnswer]]


def answer(
    prediction: Prediction, *, height: int, width: int, mask_format: MaskFormat, logit_bytes: int | None
) -> list[MaskAnswer]:
    """The masks of one prompt, best predicted IoU first; `logit_bytes` per value where logits are wanted."""
    best_first = (-prediction.iou).argsort(kind="stable")
    return [
        _mask(
            prediction.logits[i],
            iou=float(prediction.iou[i]),
            height=height,
            width=width,
            mask_format=mask_format,
            logit_bytes=logit_bytes,
        )
        for i in best_first
    ]


def _mask(
    logits: Logits, *, iou: float, height: int, width: int, mask_format: MaskFormat, logit_bytes: int | None
) -> MaskAnswer:
    mask = runs(logits, height=height, width=width)
    outline = polygons(logits, height=height, width=width) if mask_format == "polygons" else None
    counts: str | list[int] | None = None
    if mask_format == "rle":
        counts = encode_counts(mask.lengths)
    elif mask_format == "rle_uncompressed":
        counts = mask.lengths.tolist()
    return MaskAnswer(
        iou=round(min(max(iou, 0.0), 1.0), 6),
        stability=round(stability(logits), 6),
        area=mask.area,
        bbox=mask.bbox,
        counts=counts,
        polygons=[ring.round(2).tolist() for ring in outline.outer] if outline else None,
        holes=[ring.round(2).tolist() for ring in outline.holes] if outline else None,
        png=base64.b64encode(png(mask)).decode("ascii") if mask_format == "png" else None,
        logits=encode_logits(logits, bytes_per_value=logit_bytes) if logit_bytes else None,
    )
