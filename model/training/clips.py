"""Clips to follow an object through: cut-outs that move over a photograph that is panned and zoomed.

Each is a function of its pack and its number. Does not know about models. What is followed is an instance cut out
of a photograph, or one of the pack's cut-outs; a soft edge hides that it was cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from model.training.moving import ClipKind, Path, bystander_path, camera, hiding_path, subject_path
from model.training.pack import Mask, Pack, PackError, Picture, Pixels

FRAMES = 12
SIDE = 320
"""Pixels of a clip that is measured on."""

LEAST_PX = 40
"""The longer side of an instance that is cut out; what is smaller is a blur when it is enlarged."""

LARGEST_SHARE = 0.6
"""Of its photograph: what is larger shows no outline of its own."""

LEAST_SEEN = 0.006
"""Of the first frame: where less of the object is seen, the clip is made anew."""

INSTANCES_FIRST = 0.8
"""How often a thing is an instance of a photograph, where there are cut-outs too."""

_MIRRORED = 0.5


@dataclass(frozen=True, eq=False)
class Clip:
    """Some frames, and one object on each."""

    frames: npt.NDArray[np.uint8]
    """(n, side, side, 3) RGB."""
    masks: npt.NDArray[np.bool_]
    """(n, side, side): what is to be seen of the object; empty where it is not."""
    kind: ClipKind


@dataclass(frozen=True, eq=False)
class _Thing:
    """Something to paste, and its path."""

    rgba: Pixels
    path: Path

    def seen(self, at: int, side: int) -> tuple[Pixels, Pixels]:
        """RGB (side, side, 3) and alpha (side, side) on a frame."""
        view = self.path.view(at, self.rgba, side)
        rgb = view.see(np.ascontiguousarray(self.rgba[..., :3]))
        alpha = view.see(np.ascontiguousarray(self.rgba[..., 3]), beyond=cv2.BORDER_CONSTANT)
        return rgb, alpha if self.path.present[at] else np.zeros_like(alpha)


class Clips:
    """Any number of clips of a pack, their kinds in turn."""

    def __init__(self, pack: Pack, *, side: int = SIDE, frames: int = FRAMES, seed: int = 0) -> None:
        """Raises PackError where no photograph has an instance that is large enough."""
        self._pack, self._side, self._frames, self._seed = pack, side, frames, seed
        if not self._sources:
            raise PackError("No photograph has an instance that is large enough to be cut out.")

    def __getitem__(self, index: int) -> Clip:
        """Clip `index`, any number from 0."""
        kind = list(ClipKind)[index % len(ClipKind)]
        for attempt in range(100):
            clip = self._made(kind, np.random.default_rng([self._seed, index, attempt]))
            if clip.masks[0].mean() >= LEAST_SEEN:
                return clip
        raise PackError(f"Clip {index}: in 100 attempts nothing that is large enough was on the first frame.")

    def first(self, count: int) -> Iterator[Clip]:
        """Clips 0 to `count` - 1."""
        return (self[index] for index in range(count))

    @cached_property
    def _sources(self) -> list[tuple[Picture, list[int]]]:
        """Photographs with the numbers of the instances that can be cut out."""
        found = [(picture, _large_enough(picture)) for picture in self._pack.photographs]
        return [(picture, numbers) for picture, numbers in found if numbers]

    def _made(self, kind: ClipKind, rng: np.random.Generator) -> Clip:
        grounds = (*self._pack.photographs, *self._pack.backgrounds)
        ground = grounds[int(rng.integers(len(grounds)))].pixels
        views = camera(ground, self._side, self._frames, rng)
        path = subject_path(kind, self._frames, rng)
        subject = _Thing(self._thing(rng), path)
        behind = [_Thing(self._thing(rng), bystander_path(self._frames, rng)) for _ in range(rng.integers(3))]
        before: list[_Thing] = []
        if kind is ClipKind.HIDE:
            before = [_Thing(self._thing(rng), hiding_path(path, self._frames, rng))]
        frames, masks = [], []
        for at, view in enumerate(views):
            picture, mask = view.see(ground), np.zeros((self._side, self._side), np.bool_)
            for thing in (*behind, subject, *before):
                rgb, alpha = thing.seen(at, self._side)
                picture = _over(picture, rgb, alpha)
                mask = alpha >= 128 if thing is subject else mask & (alpha < 128)
            frames.append(picture)
            masks.append(mask)
        return Clip(np.stack(frames), np.stack(masks), kind)

    def _thing(self, rng: np.random.Generator) -> Pixels:
        """(h, w, 4) of something, as it is or mirrored."""
        cutouts = self._pack.cutouts
        if cutouts and rng.random() >= INSTANCES_FIRST:
            rgba = cutouts[int(rng.integers(len(cutouts)))].pixels
        else:
            picture, numbers = self._sources[int(rng.integers(len(self._sources)))]
            rgba = cut_out(picture.pixels, picture.mask(numbers[int(rng.integers(len(numbers)))]))
        return np.ascontiguousarray(rgba[:, ::-1]) if rng.random() < _MIRRORED else rgba


def cut_out(pixels: Pixels, mask: Mask) -> Pixels:
    """An instance of a photograph (h, w, 3) as RGBA, cropped to it; its edge falls off over a pixel or two."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    area = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    padded = np.pad(mask[area].astype(np.uint8) * np.uint8(255), 2)
    alpha = cv2.GaussianBlur(padded, (0, 0), 0.8)
    rgb = np.pad(pixels[area], ((2, 2), (2, 2), (0, 0)), mode="edge")
    return np.dstack([rgb, alpha]).astype(np.uint8)


def _large_enough(picture: Picture) -> list[int]:
    shares = picture.areas / (picture.pixels.shape[0] * picture.pixels.shape[1])
    longer = picture.boxes[:, 2:].max(axis=1)
    return [int(number) for number in np.flatnonzero((longer >= LEAST_PX) & (shares <= LARGEST_SHARE))]


def _over(below: Pixels, rgb: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None].astype(np.float32) / 255
    return (below + (rgb.astype(np.float32) - below) * share + 0.5).astype(np.uint8)
