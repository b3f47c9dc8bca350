"""Photographs to train on as they are, a few views of each, so that what a trunk makes of them can be kept.

Composed scenes teach what an edge is; what a click on a photograph means, and how far a thing goes there, they do
not. Does not know about models.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.training.pack import Pack, Picture
from model.training.sampling import SMALLEST_PX, Drawn, by_source, draw_object, drawable
from model.training.scenes import Scene
from model.training.views import View, view_of_all, view_of_photograph

VIEW_SHARES = (0.35, 0.35, 0.15, 0.15)
"""How often a photograph is seen whole, as clients send it; mirrored; most of it; and one of its objects with
what is around it."""

_WHOLE, _MIRRORED, _MOST = range(3)


class Photographs:
    """Any number of scenes; the pictures come again, with other objects to click at."""

    def __init__(self, pack: Pack, *, side: int, masks_per_scene: int, seed: int) -> None:
        """`side` in pixels. The caller leaves out what is held out: `pack.training()`.

        Raises:
            ValueError: no photograph has an object.
        """
        self._side, self._masks_per_scene, self._seed = side, masks_per_scene, seed
        pictures = [picture for picture in pack.photographs if len(drawable(picture))]
        if not pictures:
            raise ValueError("No photograph of the pack has an object to click at.")
        self._places = {picture: place for place, picture in enumerate(pictures)}
        self._pictures: Drawn[Picture] = by_source(pictures)

    def __getitem__(self, index: int) -> Scene:
        """The scene of a number >= 0. There is no last one."""
        rng = np.random.default_rng((self._seed, index))
        while True:
            picture = self._pictures.one(rng)
            view = self._view(picture, int(rng.choice(len(VIEW_SHARES), p=VIEW_SHARES)))
            if masks := self._masks(picture, view, rng):
                return Scene(view.see(picture.pixels), np.stack(masks))

    def _view(self, picture: Picture, kind: int) -> View:
        if kind in (_WHOLE, _MIRRORED):
            return view_of_all(picture.pixels, self._side, mirrored=kind == _MIRRORED)
        rng = np.random.default_rng((self._places[picture], kind))
        if kind == _MOST:
            return view_of_photograph(picture.pixels, None, self._side, rng)
        left, top, width, height = map(float, picture.boxes[draw_object(picture, drawable(picture), rng)])
        return view_of_photograph(picture.pixels, (left, top, width, height), self._side, rng)

    def _masks(
        self, picture: Picture, view: View, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.bool_]]:
        """Objects that are in view, again where there are too few; none if there is none."""
        among, found = drawable(picture), list[npt.NDArray[np.bool_]]()
        while len(among) and len(found) < self._masks_per_scene:
            drawn = draw_object(picture, among, rng)
            among = among[among != drawn]
            mask = view.see_mask(picture.mask(drawn))
            if np.count_nonzero(mask) >= SMALLEST_PX:
                found.append(mask)
        return [found[place % len(found)] for place in range(self._masks_per_scene)] if found else []
