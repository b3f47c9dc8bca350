"""What is clicked at on the photographs held out: a few objects of each, and the kinds that each is of.

Does not know about models. Follows from the pack alone, so that figures of different weights compare.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from model.training.pack import Mask, Pack, Picture

OBJECTS_EACH = 3
"""At most, of a photograph: else windows of facades and nuclei would be most of all objects."""

SMALLEST_SHARE = 0.0005
"""Of the photograph: about 10 x 10 pixels. What is smaller is a guess of the annotator's."""

SIZES = (0.01, 0.1)
"""Of the photograph: where the sizes begin that objects are chosen over. COCO calls 0.3 % small; below 1 %, an
object is under 45 of the model's 448 pixels."""

THIN = 14.0
"""Area over the squared radius of the largest disc inside: pi for a disc, 4 for a square, 14 for a bar three and a
half times as long as wide, or for what consists of several things that are hardly longer than wide."""

NESTED, LARGER = 0.85, 1.5
"""A part has this share of its pixels in something this much larger."""

TOUCHING = 0.5
"""Pixels of a neighbour within 2 of the object, over the root of the smaller one's area. Canvas.add_unions asks for
half of it."""

VALIDATION_SHARE = 0.25
"""Of the photographs held out, while training."""


class Kind(Enum):
    """What makes an object hard, or telling."""

    SMALL = "small"
    THIN = "thin"
    TOUCHING = "touching"
    PART = "part"
    WHOLE = "whole"


@dataclass(frozen=True, eq=False)
class Target:
    """An object to find, and what it is."""

    mask: Mask
    """(h, w)."""
    kinds: frozenset[Kind]


@dataclass(frozen=True, eq=False)
class Case:
    """A photograph held out with what is clicked at."""

    picture: Picture
    targets: tuple[Target, ...]


def cases(pack: Pack, *, share: float = 1.0) -> Iterator[Case]:
    """The photographs held out of a pack that have an object to click at; `share` of them, as their names fall."""
    for picture in pack.held_out().photographs:
        targets = tuple(_target(picture, index) for index in chosen(picture))
        if targets and picture.place < share:
            yield Case(picture, targets)


def chosen(picture: Picture, most: int = OBJECTS_EACH) -> list[int]:
    """Numbers of up to `most` objects: of each size in turn, as their hashes fall."""
    shares = picture.areas / (picture.pixels.shape[0] * picture.pixels.shape[1])
    fit = sorted(np.flatnonzero(shares >= SMALLEST_SHARE), key=lambda index: _hash(picture, int(index)))
    by_size: dict[int, list[int]] = {}
    for index in fit:
        by_size.setdefault(int(np.digitize(shares[index], SIZES)), []).append(int(index))
    # the first of each size before the second of any, and large before small
    turns = [(turn, -size, index) for size, line in by_size.items() for turn, index in enumerate(line)]
    return [index for _, _, index in sorted(turns)[:most]]


def kinds_of(picture: Picture, index: int) -> frozenset[Kind]:
    """What object `index` of a photograph is, beside the others that are annotated."""
    mask, area = picture.mask(index), picture.areas[index]
    tests = {
        Kind.SMALL: bool(area < SIZES[0] * mask.size),
        Kind.THIN: thinness(mask) >= THIN,
        **_relations(picture, index, mask),
    }
    return frozenset(kind for kind, holds in tests.items() if holds)


def thinness(mask: Mask) -> float:
    """Area over the squared radius of the largest disc inside; the picture's edge counts as the object's."""
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    radius = float(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    return float(np.count_nonzero(mask)) / max(radius - 0.5, 0.5) ** 2  # the distance is to a pixel's middle


def _relations(picture: Picture, index: int, mask: Mask) -> dict[Kind, bool]:
    others = [place for place in range(len(picture.runs)) if place != index]
    if not others:
        return {}
    area, areas = picture.areas[index], picture.areas[others]
    common = _common(mask, picture, others)
    wide = cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    near = _common(wide, picture, others) - common
    inside, around = common >= NESTED * area, common >= NESTED * areas
    touches = near >= TOUCHING * np.sqrt(np.minimum(area, areas))
    return {
        Kind.PART: bool((inside & (areas >= LARGER * area)).any()),
        Kind.WHOLE: bool((around & (area >= LARGER * areas)).any()),
        Kind.TOUCHING: bool((touches & ~inside & ~around).any()),
    }


def _common(mask: Mask, picture: Picture, others: list[int]) -> npt.NDArray[np.float64]:
    """(m,): pixels that a mask shares with each of the others."""
    run = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    runs = [picture.runs[place] for place in others]
    shares = coco.iou([run], runs, [1] * len(runs))[0]  # of "crowds": over the first one's area
    return np.asarray(shares * np.count_nonzero(mask), np.float64)


def _target(picture: Picture, index: int) -> Target:
    return Target(picture.mask(index), kinds_of(picture, index))


def _hash(picture: Picture, index: int) -> bytes:
    return hashlib.sha256(f"{picture.name} {index}".encode()).digest()
