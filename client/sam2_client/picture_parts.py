"""A part of a picture as a picture of its own. Does not know about servers and prompts."""

import math
from dataclasses import dataclass

from PIL import Image

from sam2_client.pictures import Picture, encoded

LEAST_SIDE_PX = 64
"""Of a square around something: below, there is nothing more to see."""


@dataclass(frozen=True, slots=True)
class Part:
    """A box of whole pixels within a picture."""

    bounds: tuple[int, int, int, int]
    """x0, y0, x1, y1; x1 and y1 are exclusive."""
    whole: tuple[int, int]
    """Width and height of the picture."""

    @property
    def width(self) -> int:
        """In pixels."""
        return self.bounds[2] - self.bounds[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bounds[3] - self.bounds[1]

    @property
    def share(self) -> float:
        """Of the picture's area, 0..1."""
        return self.width * self.height / (self.whole[0] * self.whole[1])

    def __str__(self) -> str:
        x0, y0, x1, y1 = self.bounds
        return f"x {x0}..{x1}, y {y0}..{y1}"


def square_around(box: tuple[float, float, float, float], margin: float, whole: tuple[int, int]) -> Part:
    """Return a square around x0, y0, x1, y1 with `margin` times its longer side, cut where the picture is shorter.

    It has all pixels that the box touches. Near the picture's edge it is moved inside, not cut. `whole` is the
    picture's width and height.
    """
    x0, y0, x1, y1 = *map(math.floor, box[:2]), *map(math.ceil, box[2:])
    side = max(margin * max(x1 - x0, y1 - y0), LEAST_SIDE_PX)
    left, right = _interval(x0, x1, side, whole[0])
    top, bottom = _interval(y0, y1, side, whole[1])
    return Part((left, top, right, bottom), whole)


def _interval(first: int, last: int, side: float, most: int) -> tuple[int, int]:
    length = round(min(side, most))
    start = round((first + last - length) / 2)
    start = min(max(start, 0), most - length)
    return start, start + length


class PartialPicture(Picture):
    """A part of a picture, encoded without loss. Cut out each time it is read: masks that are kept keep it."""

    def __init__(self, picture: Picture, part: Part) -> None:
        """`picture` is the whole one. Does not read it."""
        super().__init__(b"")
        self.whole, self.part = picture, part

    def read(self) -> bytes:
        """Return the part as PNG. Raises as Picture.read, and ValueError if the picture has another size here."""
        opened = self.whole.open()
        if opened.size != self.part.whole:
            width, height = self.part.whole
            raise ValueError(
                f"the picture has {opened.width} x {opened.height} pixels here, and {width} x {height} for "
                "the service, which turns this file in another way: embed its pixels instead"
            )
        return encoded(opened.crop(self.part.bounds))

    def open(self) -> Image.Image:
        """Return the part in RGB. Raises as `read`."""
        return self.whole.open().crop(self.part.bounds)
