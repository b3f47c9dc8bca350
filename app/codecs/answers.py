"""Turns one prediction of the decoder into masks in the requested format.

Runs outside of the event loop. Does not know about JSON and pydantic.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.codecs.logits import encode_logits
from app.codecs.rle import encode_counts
from model.masks.cleaning import clean
from model.masks.cropping import crop
from model.masks.one_bit_png import png
from model.masks.outlines import Outline, outline
from model.masks.runs import Runs, runs, stability
from model.types import Logits, Prediction

MaskFormat: TypeAlias = Literal["rle", "rle_uncompressed", "polygons", "png"]
Ring: TypeAlias = list[list[float]]


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """The requested format of masks. Zeros leave the model's masks unchanged."""

    mask_format: MaskFormat = "rle"
    return_logits: bool = False
    """Add the model's logits, from before the clean-up."""
    max_hole_area: float = 0.0
    max_sprinkle_area: float = 0.0
    """Both in pixels of the logits; see model/masks/cleaning.py."""
    simplify: float = 0.0
    """Pixels of the picture by which polygons may move."""
    bounds: bool = False
    """Crop masks to their boxes."""
    best_only: bool = False
    """Of several masks, only the one with the best predicted IoU."""

    @property
    def are_quick(self) -> bool:
        """Whether the masks cost no more than their run lengths: two milliseconds for three."""
        extra = self.max_hole_area or self.max_sprinkle_area or self.return_logits
        return self.mask_format in ("rle", "rle_uncompressed") and not extra


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """One mask at the picture's own size, in the requested format."""

    iou: float
    stability: float
    area: int
    bbox: tuple[int, int, int, int]
    size: tuple[int, int]
    """Height and width of the mask that is sent: the picture's, or those of `bounds`."""
    runs: Runs
    """The mask that is sent, for formats of other tools."""
    bounds: tuple[int, int, int, int] | None = None
    """x0, y0, x1, y1 of the part of the picture that is sent; None for the whole picture."""
    mask_format: MaskFormat = "rle"
    compressed: str | None = None
    outline: Outline | None = None
    png: str | None = None
    logits: str | None = None

    # Lists are made of arrays when a mask is written, and go with it: a picture's masks have millions of numbers.
    # So many objects hold everybody up when they are collected, and when they are freed.

    @property
    def counts(self) -> str | list[int] | None:
        """The RLE that is sent, if any."""
        return self.runs.lengths.tolist() if self.mask_format == "rle_uncompressed" else self.compressed

    @property
    def polygons(self) -> list[Ring] | None:
        """The outer rings that are sent, if any."""
        return [ring.tolist() for ring in self.outline.outer] if self.outline else None

    @property
    def holes(self) -> list[Ring] | None:
        """The holes that are sent, if any."""
        return [ring.tolist() for ring in self.outline.holes] if self.outline else None

    @property
    def numbers(self) -> int:
        """How many there are in lists."""
        rings = (*self.outline.outer, *self.outline.holes) if self.outline else ()
        runs = len(self.runs.lengths) if self.mask_format == "rle_uncompressed" else 0
        return runs + sum(ring.size for ring in rings)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Masks for every prompt of a request, in order."""

    height: int
    width: int
    predictions: list[list[MaskAnswer]]
    model: str
    """Which one made them: devices of one server may have two, while one replaces the other."""


def answer(
    prediction: Prediction,
    *,
    height: int,
    width: int,
    options: MaskOptions,
    logit_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> list[MaskAnswer]:
    """Return the masks of one prompt, best predicted IoU first. Returned logits take `logit_bytes` per value.

    `check` is called before each mask, and may raise to end the work.
    """
    masks = []
    order = (-prediction.iou).argsort(kind="stable")
    for i in order[:1] if options.best_only else order:
        check()
        mask = _mask(
            prediction.logits[i],
            iou=float(prediction.iou[i]),
            height=height,
            width=width,
            options=options,
            logit_bytes=logit_bytes,
        )
        masks.append(mask)
    return masks


def _mask(
    logits: Logits, *, iou: float, height: int, width: int, options: MaskOptions, logit_bytes: int
) -> MaskAnswer:
    shown = clean(logits, max_hole_area=options.max_hole_area, max_sprinkle_area=options.max_sprinkle_area)
    mask = runs(shown, height=height, width=width)
    polygons = outline(shown, mask, tolerance=options.simplify) if options.mask_format == "polygons" else None
    return written_mask(
        mask,
        polygons=polygons,
        logits=encode_logits(logits, bytes_per_value=logit_bytes) if options.return_logits else None,
        iou=iou,
        stability=stability(logits),
        options=options,
    )


def written_mask(
    mask: Runs,
    *,
    polygons: Outline | None,
    logits: str | None,
    iou: float,
    stability: float,
    options: MaskOptions,
) -> MaskAnswer:
    """Return a mask in the requested format, which for polygons needs its outline."""
    sent, bounds = crop(mask) if options.bounds else (mask, None)
    return MaskAnswer(
        iou=round(min(max(iou, 0.0), 1.0), 6),
        stability=round(float(stability), 6),
        area=mask.area,
        bbox=mask.bbox,
        size=(sent.height, sent.width),
        runs=sent,
        bounds=bounds,
        mask_format=options.mask_format,
        compressed=encode_counts(sent.lengths) if options.mask_format == "rle" else None,
        outline=polygons,
        png=base64.b64encode(png(sent)).decode("ascii") if options.mask_format == "png" else None,
        logits=logits,
    )
