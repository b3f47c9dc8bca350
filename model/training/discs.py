"""Discs in noise: what a network without any training is shown first.

With its first weights the network cannot tell where a click is. On photographs the cheapest prediction is then
nothing at all, and it stays there for thousands of steps. Discs teach it to look near the click within a
hundred steps.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.training.scenes import Scene, Scenes

RADII = (0.08, 0.25)
"""Least and greatest radius of a disc, in sides of the picture."""


@dataclass(frozen=True, slots=True)
class DiscsFirst:
    """Discs up to scene `until`, then the scenes themselves."""

    scenes: Scenes
    until: int
    side: int
    masks_per_scene: int
    seed: int

    def __getitem__(self, index: int) -> Scene:
        """Scene `index`, any number from 0."""
        return self.scenes[index] if index >= self.until else self._discs(index)

    def _discs(self, index: int) -> Scene:
        generator = np.random.default_rng([self.seed, index])
        picture = generator.integers(0, 100, (self.side, self.side, 3), dtype=np.uint8)
        masks: list[npt.NDArray[np.bool_]] = []
        for _ in range(self.masks_per_scene):
            mask = np.zeros((self.side, self.side), np.uint8)
            x, y = generator.integers(0, self.side, 2).tolist()
            cv2.circle(mask, (x, y), int(generator.uniform(*RADII) * self.side), 1, -1)
            masks.append(mask.astype(bool))
            picture[masks[-1]] += generator.integers(0, 50, 3, dtype=np.uint8)
        return Scene(picture, np.stack(masks))
