"""What scenes are made of, and how often: photographs by their source, objects in them by their size.

Never by mask: a facade has thirty windows, a field of mushrooms 137 caps, an everyday scene a handful of objects.
Does not know how scenes are put together.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from model.training.pack import Picture

SOURCE_SHARES = {
    "coco-mini": 0.13,
    "coco128-seg": 0.09,
    "coco-cc": 0.2,
    "coco-cc-person": 0.14,
    "openimages-animals": 0.17,
    "balloon": 0.05,
    "food": 0.03,
    "boards": 0.03,
    "mandarins": 0.03,
    "breadboards": 0.02,
    "fruits-nuts": 0.02,
    "mushrooms": 0.01,
    "facades": 0.05,
    "dsb2018": 0.03,
}
"""Of the photographs drawn. Three quarters are everyday scenes, persons and animals; among these, sources with
several objects annotated in a photograph count more than they have photographs."""

OTHER_SHARE = 0.03
"""Of any other source, backgrounds too."""

SIZES = (0.01, 0.1)
"""Of the photograph's area: where medium and large objects begin."""

SIZE_WEIGHTS = (0.25, 0.35, 0.4)
"""How often an object is small, medium or large, where a photograph has all three."""

SMALLEST_PX = 100
"""Pixels of an object that is drawn: enlarged, a smaller one is nothing but blur."""

Item = TypeVar("Item")


class Drawn(Generic[Item]):
    """Things to draw from, each with its weight."""

    def __init__(self, items: Sequence[Item], weights: Sequence[float]) -> None:
        self._items = items
        self._upto = np.cumsum(weights)

    def __bool__(self) -> bool:
        return bool(self._items)

    def one(self, rng: np.random.Generator) -> Item:
        """The heavier the likelier."""
        return self._items[np.searchsorted(self._upto, rng.random() * self._upto[-1], side="right")]


def by_source(pictures: Sequence[Picture]) -> Drawn[Picture]:
    """Pictures of which each source has its share, however many it has."""
    counts = Counter(picture.source for picture in pictures)
    weights = [SOURCE_SHARES.get(p.source, OTHER_SHARE) / counts[p.source] for p in pictures]
    return Drawn(pictures, weights)


def draw_object(picture: Picture, among: npt.NDArray[np.intp], rng: np.random.Generator) -> int:
    """One of the objects `among`, their numbers, at least one: first a size, then any object of that size."""
    shares = picture.areas[among] / (picture.pixels.shape[0] * picture.pixels.shape[1])
    sizes = np.digitize(shares, SIZES)
    there = np.unique(sizes)
    weights = np.array(SIZE_WEIGHTS)[there]
    size = rng.choice(there, p=weights / weights.sum())
    return int(rng.choice(among[sizes == size]))


def drawable(picture: Picture) -> npt.NDArray[np.intp]:
    """Numbers of the objects that are large enough to be drawn."""
    return np.flatnonzero(picture.areas >= SMALLEST_PX)
