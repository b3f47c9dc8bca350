"""The picture of a scene while it is put together, and what is in it to click at.

Does not know where pictures come from; later pastes hide earlier ones.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import combinations, cycle

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Mask, Pixels

SMALLEST, LARGEST = 0.0015, 0.9
"""Of the frame: what is smaller or larger is nothing to click at. 0.0015 are 15 x 15 of 384 pixels."""

LEAST_VISIBLE = 0.3
"""Of an object: one hidden further is left out."""


class Kind(Enum):
    """What a mask is of. The value is its weight among the kinds that a scene has, when masks are drawn."""

    OBJECT = 0.85
    PART = 0.06
    UNION = 0.05
    REGION = 0.03


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something to click at."""

    mask: Mask
    """(side, side): what is to be seen of it."""
    kind: Kind
    whole: int
    """Its pixels in the frame before anything hid it."""
    is_subject: bool = False
    """Whether the frame was laid around it: then it is drawn first, be it ever so small beside others."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Something to paste."""

    rgb: Pixels
    """(side, side, 3)."""
    alpha: Pixels
    """(side, side), 0..255."""
    parts: tuple[Mask, ...] = ()
    """(side, side) each: what beside the whole of it can be meant by a click."""
    shadow: Pixels | None = None
    """(side, side), 0..255: how far it darkens what is below."""

    @property
    def mask(self) -> Mask:
        """(side, side): where it is more there than not."""
        return self.alpha >= 128


@dataclass(eq=False)
class Canvas:
    """A picture in the making."""

    picture: Pixels
    """(side, side, 3)."""
    candidates: list[Candidate] = field(default_factory=list)

    def add(self, mask: Mask, kind: Kind, *, is_subject: bool = False) -> None:
        """Note something that the picture shows already."""
        self.candidates.append(Candidate(mask, kind, int(np.count_nonzero(mask)), is_subject))

    def paste(self, layer: Layer) -> None:
        """Lay something over the picture; what it hides of others leaves their masks."""
        if layer.shadow is not None:
            light = 1 - layer.shadow.astype(np.float32) / 255
            self.picture = (self.picture * light[..., None]).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(layer.alpha)
        area = (slice(y, y + h), slice(x, x + w))
        alpha = layer.alpha[area][..., None].astype(np.float32) / 255
        below = self.picture[area].astype(np.float32)
        self.picture = self.picture.copy()
        self.picture[area] = below + (layer.rgb[area] - below) * alpha + 0.5
        mask = layer.mask
        self.candidates = [replace(c, mask=c.mask & ~mask) for c in self.candidates]
        self.add(mask, Kind.OBJECT)
        for part in layer.parts:
            self.add(part & mask, Kind.PART)

    def add_unions(self, most: int = 6) -> None:
        """Note neighbours that could be meant together: a rider with the horse."""
        objects = [c for c in self.candidates if c.kind is Kind.OBJECT and self.is_worth_a_click(c)]
        objects = sorted(objects, key=lambda c: -c.whole)[:most]
        widened = [cv2.dilate(c.mask.view(np.uint8), np.ones((5, 5), np.uint8)) for c in objects]
        for (one, wide), (other, _) in combinations(zip(objects, widened, strict=True), 2):
            touching = np.count_nonzero(other.mask & wide.view(np.bool_))
            if touching > 0.25 * np.sqrt(min(one.whole, other.whole)):
                self.add(one.mask | other.mask, Kind.UNION)

    def is_worth_a_click(self, candidate: Candidate) -> bool:
        """Neither too small nor nearly everything, and visible enough."""
        seen = int(np.count_nonzero(candidate.mask))
        within = SMALLEST <= seen / candidate.mask.size <= LARGEST
        return within and seen >= LEAST_VISIBLE * candidate.whole

    def choose(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """`count` masks (count, side, side), subjects and large ones first; some again where there are fewer.

        Each kind keeps its share, however few there are: one object among many regions is used repeatedly, with
        other clicks. Returns none, (0, side, side), if nothing is worth a click.
        """
        pools: dict[Kind, list[Candidate]] = {}
        for candidate in filter(self.is_worth_a_click, self.candidates):
            pools.setdefault(candidate.kind, []).append(candidate)
        if not pools:
            return np.zeros((0, *self.picture.shape[:2]), np.bool_)
        turns = {kind: cycle(_large_first(candidates, rng)) for kind, candidates in pools.items()}
        shares = np.array([kind.value for kind in turns])
        drawn = rng.choice(len(shares), count, p=shares / shares.sum())
        kinds = list(turns)
        return np.stack([next(turns[kinds[place]]) for place in drawn])


def _large_first(candidates: list[Candidate], rng: np.random.Generator) -> list[Mask]:
    """Subjects, then in random order; a mask of twice the pixels is twice as likely to come before another."""
    weights = np.array([np.count_nonzero(c.mask) for c in candidates], np.float64)
    order = rng.choice(len(candidates), len(candidates), replace=False, p=weights / weights.sum())
    drawn = [candidates[place] for place in order]
    return [c.mask for c in sorted(drawn, key=lambda c: not c.is_subject)]
