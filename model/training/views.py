"""How a picture is laid into the square frame of a scene: crop, zoom, stretch, turn and flip as one affine map.

Does not know what the picture shows.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.training.pack import Mask, Pixels, as_pixels

# Workers are processes, one per core. OpenCV's own threads would only compete, and do not survive a fork.
cv2.setNumThreads(1)

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, eq=False)
class View:
    """A map from the frame to the picture."""

    matrix: npt.NDArray[np.float64]
    """(2, 3): pixel centres (x, y, 1) of the frame -> (x, y) of the picture."""
    side: int
    """Of the frame in pixels."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the upright box of the picture that the frame lies in, in pixels."""
        last = self.side - 1
        corners = self.matrix @ np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])
        (left, top), (right, bottom) = corners.min(axis=1), corners.max(axis=1) + 1
        return float(left), float(top), float(right), float(bottom)

    def see(self, pixels: Pixels, *, beyond: int = cv2.BORDER_REFLECT_101) -> Pixels:
        """A picture (h, w) or (h, w, c) as the frame shows it, (side, side) or (side, side, c).

        It is halved before sampling as long as that loses nothing, so that little aliasing remains. `beyond`
        is one of OpenCV's borders.
        """
        matrix = self.matrix.copy()
        while abs(np.linalg.det(matrix[:, :2])) > 1.6**2 and min(pixels.shape[:2]) >= 4:
            h, w = pixels.shape[:2]
            half = (w // 2, h // 2)
            pixels = as_pixels(cv2.resize(pixels, half, interpolation=cv2.INTER_AREA))
            ratio = np.array([half[0] / w, half[1] / h])
            matrix *= ratio[:, None]
            matrix[:, 2] += ratio / 2 - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = (self.side, self.side)
        return as_pixels(cv2.warpAffine(pixels, matrix, frame, flags=flags, borderMode=beyond))

    def see_mask(self, mask: Mask, *, beyond: int = cv2.BORDER_REFLECT_101) -> Mask:
        """A mask (h, w) as the frame shows it, (side, side)."""
        return self.see(mask.view(np.uint8) * np.uint8(255), beyond=beyond) >= 128

    def see_labels(self, labels: Pixels) -> Pixels:
        """Labels (h, w) as the frame shows them: never mixed."""
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        frame = (self.side, self.side)
        beyond = cv2.BORDER_REFLECT_101
        return as_pixels(cv2.warpAffine(labels, self.matrix, frame, flags=flags, borderMode=beyond))


def view_of(
    centre: tuple[float, float],
    size: tuple[float, float],
    side: int,
    *,
    turn: float = 0.0,
    mirrored: bool = False,
    target: tuple[float, float] | None = None,
) -> View:
    """The frame over `size` (width, height) of the picture, with `centre` of the picture at `target` of the frame.

    `turn` is in radians; `target` is the frame's middle unless given. All in pixels.
    """
    across = (-1 if mirrored else 1) * size[0] / side
    down = size[1] / side
    cosine, sine = np.cos(turn), np.sin(turn)
    linear = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([across, down])
    middle = np.array(target if target is not None else ((side - 1) / 2, (side - 1) / 2))
    return View(np.column_stack([linear, np.array(centre) - linear @ middle]), side)


def view_of_all(pixels: Pixels, side: int, *, mirrored: bool = False) -> View:
    """The frame over all of a picture (h, w, c), as a client sends it."""
    h, w = pixels.shape[:2]
    return view_of(((w - 1) / 2, (h - 1) / 2), (w, h), side, mirrored=mirrored)


def view_of_photograph(pixels: Pixels, box: Box | None, side: int, rng: np.random.Generator) -> View:
    """A random crop of a photograph: most of it, or the object in `box` with some of what is around it.

    The object takes 7 to 85 % of the frame's side, usually over 35 %. Crops are 0.6 to 1.6 times as wide as
    high if possible. The frame does not keep that aspect ratio, like the model's input.
    """
    h, w = pixels.shape[:2]
    if box is None:
        size = rng.uniform(0.7, 1.0, 2) * (w, h)
        centre = size / 2 + rng.random(2) * ((w, h) - size)
    else:
        left, top, box_w, box_h = box
        stretch = np.exp(rng.uniform(np.log(0.6), np.log(1.6)) / 2)
        is_large = rng.random() < 0.5
        fill = rng.uniform(0.4, 0.85) if is_large else np.exp(rng.uniform(np.log(0.07), np.log(0.85)))
        longest = max(box_w / stretch, box_h * stretch) / fill
        size = np.minimum((longest * stretch, longest / stretch), (w, h))
        off = rng.normal(0, 0.25, 2) * np.maximum(size - (box_w, box_h), 0.2 * size)
        centre = np.clip(np.array((left + box_w / 2, top + box_h / 2)) + off, size / 2, (w, h) - size / 2)
    turn = rng.normal(0, np.radians(8)) if rng.random() < 0.35 else 0.0
    return view_of(
        (centre[0] - 0.5, centre[1] - 0.5), (size[0], size[1]), side, turn=turn, mirrored=rng.random() < 0.5
    )
