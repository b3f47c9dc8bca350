"""Scenes to train on: a picture as the encoder sees it, and masks in it that a click can mean.

No thing is background because nobody annotated it: a mask says what one click means, and all else is outside of
that object, whatever it is. Only regions could cut through unannotated things; segments.py finds none in
photographs that may show such. Does not know about clicks or models. A scene follows from the seed and its number
alone, so any worker can make it.

`python -m model.training.scenes DATA OUT.png` draws 24 of them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from model.training.sampling import Drawn, by_source, draw_object, drawable
from model.training.segments import with_segments
from model.training.views import View, view_of_photograph

SMALLEST_PASTED_PX = 1200
"""Area in its photograph of an instance that is pasted elsewhere: smaller ones are blurred when enlarged."""

NEVER_PASTED = {"dsb2018", "facades", "breadboards"}
"""Sources whose instances stay where they are: nuclei, windows, wires between holes."""


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
        self._photographs = by_source(pack.photographs)
        grounds = (*pack.photographs, *pack.backgrounds)
        if not grounds:
            raise ValueError("Scenes need photographs or backgrounds; the pack has neither.")
        self._grounds = by_source(grounds)
        pasteable = [(picture, _pasteable(picture)) for picture in pack.photographs]
        self._pasteable = {picture: numbers for picture, numbers in pasteable if len(numbers)}
        self._pasted = by_source(list(self._pasteable))
        self._cutouts = Drawn(pack.cutouts, [1.0] * len(pack.cutouts))
        table: tuple[tuple[Callable[[np.random.Generator], Canvas], float, bool], ...] = (
            (self._photograph, 0.48, bool(pack.photographs)),
            (self._with_instances, 0.29, bool(self._pasted)),
            (self._with_cutouts, 0.17, bool(pack.cutouts)),
            (self._with_shapes, 0.06, True),
        )
        possible = [(kind, weight) for kind, weight, is_possible in table if is_possible]
        self._kinds = Drawn([kind for kind, _ in possible], [weight for _, weight in possible])

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
            picture = self._pasted.one(rng)
            index = draw_object(picture, self._pasteable[picture], rng)
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
        """A random view of a photograph or of one of its objects, with the `most` largest instances in it."""
        focus, box = None, None
        among = drawable(picture)
        if len(among) and rng.random() < 0.7:
            focus = draw_object(picture, among, rng)
            left, top, w, h = picture.boxes[focus]
            box = (left, top, w, h)
        view = view_of_photograph(picture.pixels, box, self._side, rng)
        canvas = Canvas(view.see(picture.pixels))
        for index in _in_view(picture, view, most=most, focus=focus):
            canvas.add(view.see_mask(picture.mask(index)), Kind.OBJECT, is_subject=index == focus)
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


def _how_many(rng: np.random.Generator) -> int:
    """Things in a composed scene: often a single one."""
    return int(rng.choice((1, 2, 3, 4), p=(0.45, 0.27, 0.18, 0.1)))


def _in_view(picture: Picture, view: View, *, most: int, focus: int | None) -> list[int]:
    """Numbers of the `most` instances with the largest boxes within the view, `focus` first if there is one.

    Of 137 mushrooms, the largest of the photograph may all be elsewhere.
    """
    if not len(picture.areas):
        return []
    left, top, right, bottom = view.bounds
    x, y, w, h = picture.boxes.T
    across = np.clip(np.minimum(x + w, right) - np.maximum(x, left), 0, None)
    down = np.clip(np.minimum(y + h, bottom) - np.maximum(y, top), 0, None)
    seen = picture.areas * (across * down) / (w * h)
    order = [int(index) for index in np.argsort(-seen) if seen[index] > 0 and index != focus]
    return ([] if focus is None else [focus]) + order[: most - (focus is not None)]


def _pasteable(picture: Picture) -> npt.NDArray[np.intp]:
    """Numbers of the instances that make sense elsewhere."""
    if picture.source in NEVER_PASTED:
        return np.zeros(0, np.intp)
    numbers = [int(x) for x in np.flatnonzero(picture.areas >= SMALLEST_PASTED_PX)]
    return np.array([index for index in numbers if _can_be_pasted(picture, index)], np.intp)


def _can_be_pasted(picture: Picture, index: int) -> bool:
    """In one piece, and not cut off on opposite sides."""
    h, w = picture.pixels.shape[:2]
    box_w, box_h = picture.boxes[index, 2:]
    if box_w >= w - 3 or box_h >= h - 3:
        return False
    pieces = cv2.connectedComponentsWithStats(picture.mask(index).view(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return bool(pieces.max() >= 0.85 * pieces.sum())


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
    args = parser.parse_args()
    pack = read_pack(args.data).training()
    if args.cache is not None:
        pack = with_segments(pack, args.cache)
    scenes = Scenes(pack, side=args.side, masks_per_scene=4, seed=args.seed)
    shown = [(scene.picture, scene.masks) for scene in (scenes[index] for index in range(24))]
    Image.fromarray(contact_sheet(shown, columns=4)).save(args.out)


if __name__ == "__main__":
    main()
