"""Scenes to train on: a picture as the encoder sees it, and masks in it that a click can mean.

Does not know about clicks or models. A scene follows from the seed and its number alone, so any worker can make it.

`python -m model.training.scenes DATA OUT.png` draws 24 of them.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from model.training import layers, textures
from model.training.canvas import Canvas, Kind
from model.training.contact_sheet import contact_sheet
from model.training.pack import Pack, Picture, Pixels, as_pixels, read_pack
from model.training.photometry import photographed
from model.training.regions import add_regions
from model.training.segments import with_segments
from model.training.views import view_of_photograph

SOURCE_WEIGHTS = {"coco-mini": 1.3, "coco128-seg": 1.0, "balloon": 0.4, "dsb2018": 0.1}
"""How often a photograph of a source is taken; 1 for any other. About 5 % are then nuclei."""

SMALLEST_PASTED_PX = 1200
"""Area in its photograph of an instance that is pasted elsewhere: smaller ones are blurred when enlarged."""


NEVER_PASTED = {"dsb2018"}
"""Sources whose instances stay where they are: nuclei."""

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture with things to click at."""

    picture: Pixels
    """(side, side, 3), RGB, 0..255."""
    masks: npt.NDArray[np.bool_]
    """(m, side, side), 1 <= m; they may overlap, and repeat where there is little to click at."""


class Scenes:
    """Any number of scenes out of one pack.

    A pack without photographs makes scenes of the rest, and so on; an empty pack is rejected.
    """

    def __init__(self, pack: Pack, *, side: int, masks_per_scene: int, seed: int) -> None:
        """`side` in pixels. The caller leaves out what is held out: `pack.training()`.

        Raises:
            ValueError: the pack has neither photographs nor backgrounds.
        """
        self._side = side
        self._masks_per_scene = masks_per_scene
        self._seed = seed
        self._photographs = _Drawn(pack.photographs, [_weight(p) for p in pack.photographs])
        grounds = (*pack.photographs, *pack.backgrounds)
        if not grounds:
            raise ValueError("Scenes need photographs or backgrounds; the pack has neither.")
        self._grounds = _Drawn(grounds, [_weight(p) for p in grounds])
        pasteable = [
            (picture, index)
            for picture in pack.photographs
            for index in range(len(picture.runs))
            if _can_be_pasted(picture, index)
        ]
        self._pasteable = _Drawn(pasteable, [_weight(p) * np.sqrt(p.areas[index]) for p, index in pasteable])
        self._cutouts = _Drawn(pack.cutouts, [1.0] * len(pack.cutouts))
        table: tuple[tuple[Callable[[np.random.Generator], Canvas], float, bool], ...] = (
            (self._photograph, 0.48, bool(pack.photographs)),
            (self._with_instances, 0.29, bool(pasteable)),
            (self._with_cutouts, 0.17, bool(pack.cutouts)),
            (self._with_shapes, 0.06, True),
        )
        possible = [(kind, weight) for kind, weight, is_possible in table if is_possible]
        self._kinds = _Drawn([kind for kind, _ in possible], [weight for _, weight in possible])

    def __getitem__(self, index: int) -> Scene:
        """The scene of a number >= 0. There is no last one."""
        rng = np.random.default_rng((self._seed, index))
        while True:
            canvas = self._kinds.one(rng)(rng)
            masks = canvas.choose(self._masks_per_scene, rng)
            if len(masks):
                return Scene(photographed(canvas.picture, rng), masks)

    def _photograph(self, rng: np.random.Generator) -> Canvas:
        """A photograph with its instances, neighbours together, and regions."""
        picture = self._photographs.one(rng)
        canvas = self._seen(picture, rng, most=12)
        if len(canvas.candidates) > 1 and rng.random() < 0.5:
            canvas.add_unions()
        return canvas

    def _with_instances(self, rng: np.random.Generator) -> Canvas:
        """One to four instances of other photographs."""
        canvas = self._ground(rng)
        for _ in range(_how_many(rng)):
            picture, index = self._pasteable.one(rng)
            canvas.paste(layers.instance(picture, index, canvas.picture, rng))
        if rng.random() < 0.3:
            canvas.add_unions()
        return canvas

    def _with_cutouts(self, rng: np.random.Generator) -> Canvas:
        """One to four cut-outs."""
        canvas = self._ground(rng)
        for _ in range(_how_many(rng)):
            picture = self._cutouts.one(rng)
            canvas.paste(layers.cutout(picture, canvas.picture, self._surface(rng), rng))
        return canvas

    def _with_shapes(self, rng: np.random.Generator) -> Canvas:
        """One to four shapes on a surface."""
        canvas = Canvas(self._surface(rng))
        for _ in range(_how_many(rng)):
            canvas.paste(layers.shape(canvas.picture, (self._surface(rng), self._surface(rng)), rng))
        return canvas

    def _ground(self, rng: np.random.Generator) -> Canvas:
        """A photograph or background to paste on, out of focus at times; what it shows stays to be clicked at."""
        canvas = self._seen(self._grounds.one(rng), rng, most=4)
        if rng.random() < 0.25:
            sigma = rng.uniform(0.8, 3.0) * self._side / 256
            canvas.picture = as_pixels(cv2.GaussianBlur(canvas.picture, (0, 0), sigma))
        return canvas

    def _seen(self, picture: Picture, rng: np.random.Generator, *, most: int) -> Canvas:
        """A random view of a photograph, with the `most` largest instances in it."""
        box = None
        if len(picture.areas) and rng.random() < 0.7:
            weights = np.sqrt(picture.areas)
            left, top, w, h = picture.boxes[rng.choice(len(weights), p=weights / weights.sum())]
            box = (left, top, w, h)
        view = view_of_photograph(picture.pixels, box, self._side, rng)
        canvas = Canvas(view.see(picture.pixels))
        for index in np.argsort(-picture.areas)[:most]:
            canvas.add(view.see_mask(picture.mask(index)), Kind.OBJECT)
        if picture.segments:
            add_regions(canvas, view.see_labels(picture.segments[rng.integers(len(picture.segments))]), rng)
        return canvas

    def _surface(self, rng: np.random.Generator) -> Pixels:
        """(side, side, 3): a patch of a photograph, in other colours at times, or a gradient."""
        if rng.random() < 0.15:
            return textures.gradient(self._side, rng)
        picture = self._grounds.one(rng)
        surface = textures.patch(picture.pixels, self._side, rng)
        return textures.recoloured(surface, rng) if rng.random() < 0.4 else surface


class _Drawn(Generic[Item]):
    """Things to draw from, each with its weight."""

    def __init__(self, items: Sequence[Item], weights: Sequence[float]) -> None:
        self._items = items
        self._upto = np.cumsum(weights)

    def one(self, rng: np.random.Generator) -> Item:
        """The heavier the likelier."""
        return self._items[np.searchsorted(self._upto, rng.random() * self._upto[-1], side="right")]


def _weight(picture: Picture) -> float:
    return SOURCE_WEIGHTS.get(picture.source, 1.0)


def _how_many(rng: np.random.Generator) -> int:
    """Things in a composed scene: often a single one."""
    return int(rng.choice((1, 2, 3, 4), p=(0.45, 0.27, 0.18, 0.1)))


def _can_be_pasted(picture: Picture, index: int) -> bool:
    """Large, in one piece, not cut off on opposite sides, and of a source that makes sense elsewhere."""
    h, w = picture.pixels.shape[:2]
    box_w, box_h = picture.boxes[index, 2:]
    if picture.areas[index] < SMALLEST_PASTED_PX or box_w >= w - 3 or box_h >= h - 3:
        return False
    pieces = cv2.connectedComponentsWithStats(picture.mask(index).view(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return bool(pieces.max() >= 0.85 * pieces.sum()) and picture.source not in NEVER_PASTED


def main() -> None:
    """Draw a contact sheet."""
    parser = argparse.ArgumentParser(
        description="Draw 24 scenes, each beside itself with its masks outlined."
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the training pack")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--cache", type=Path, help="folder where regions of photographs are kept")
    parser.add_argument("--side", type=int, default=256, help="of a scene in pixels")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    pack = read_pack(said.data).training()
    if said.cache is not None:
        pack = with_segments(pack, said.cache)
    scenes = Scenes(pack, side=said.side, masks_per_scene=4, seed=said.seed)
    shown = [(scene.picture, scene.masks) for scene in (scenes[index] for index in range(24))]
    Image.fromarray(contact_sheet(shown, columns=4)).save(said.out)


if __name__ == "__main__":
    main()
