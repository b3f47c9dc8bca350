"""A mask of the service, and its conversions to an array, outlines, an overlay or a cutout.

Does not know about requests.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from sam2_client import rle as coco_rle
from sam2_client.joining import joined, parts
from sam2_client.mask_options import MaskOptions
from sam2_client.outlines import Outlines, Ring, trace
from sam2_client.picture_parts import Part, PartialPicture
from sam2_client.pictures import Picture, PictureSource, open_picture
from sam2_client.rle import Booleans, Rle
from sam2_client.simplifying import simplify as simplified

DODGER_BLUE = (30, 144, 255)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture that the server can decode prompts on."""

    image_id: str
    width: int
    height: int
    model: str
    cached: bool
    """Whether the server had embedded the picture before."""
    picture: Picture | None = field(repr=False)
    """Used to embed it again if the server has evicted it. None if only its id is known."""

    @property
    def part(self) -> Part | None:
        """What the server was shown of the picture, if not all of it; width and height are still the picture's."""
        return self.picture.part if isinstance(self.picture, PartialPicture) else None


@dataclass(slots=True)
class Origin:
    """What a mask was decoded from. Its logits are requested with this when they are needed."""

    embedded: Embedded
    prompt: dict[str, Any]
    """The prompt as it was sent."""
    options: MaskOptions
    logits: str | None


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask at the picture's own size."""

    rle: Rle = field(repr=False)
    """COCO RLE: `size` (height, width) and the compressed `counts`, as pycocotools.mask.decode takes it."""
    iou: float
    """The model's own estimate of the mask's IoU, 0..1."""
    stability: float
    """IoU of the mask at a slightly higher and lower threshold, 0..1."""
    area: int
    """In pixels."""
    bbox: tuple[int, int, int, int]
    """COCO's x, y, width, height; zeros for an empty mask."""
    origin: Origin | None = field(default=None, repr=False)
    """None for a mask that was read from a file."""

    @classmethod
    def from_dict(
        cls, value: dict[str, Any], *, size: tuple[int, int] | None = None, origin: Origin | None = None
    ) -> "Mask":
        """Create a mask from a reply with mask_format rle or rle_uncompressed.

        `size` is the picture's height and width. A cropped mask (with `bounds`) requires it, and is placed back
        into the whole picture. Raises KeyError or TypeError for a malformed mask, and ValueError if it has another
        format, does not fit a picture of that size, or has an area or bbox that is not its own.
        """
        for other in ("polygons", "png"):
            if other in value and "rle" not in value:
                raise ValueError(f"a mask of mask_format {other}: request rle or rle_uncompressed")
        rle = coco_rle.compress(value["rle"])
        if (bounds := value.get("bounds")) is not None:
            if size is None:
                raise ValueError(
                    "this mask is cropped to its box: pass the size (height, width) of its picture"
                )
            x0, y0, x1, y1 = bounds
            rle = coco_rle.place(rle, (x0, y0, x1, y1), size=size)
        elif size is not None and rle["size"] != list(size):
            raise ValueError(
                f"a mask of height and width {rle['size']} does not fit a picture of {list(size)}"
            )
        area, bbox = coco_rle.extent(rle)  # outlines rely on them; a file may have been edited
        if (value["area"], tuple(value["bbox"])) != (area, bbox):
            raise ValueError(f"its area and bbox are not those of its RLE, {area} and {list(bbox)}")
        return cls(
            rle=rle,
            iou=float(value["iou"]),
            stability=float(value["stability"]),
            area=area,
            bbox=bbox,
            origin=origin,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the mask as in the service's reply, ready for JSON."""
        return {
            "rle": self.rle,
            "iou": self.iou,
            "stability": self.stability,
            "area": self.area,
            "bbox": list(self.bbox),
        }

    @property
    def logits(self) -> str | None:
        """The logits that refining this mask needs; None until `decode` requests them."""
        return self.origin.logits if self.origin else None

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the box; x1 and y1 are exclusive: `crop` returns `array[y0:y1, x0:x1]`."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height

    def to_numpy(self) -> Booleans:
        """Return the mask as bool (height, width) of the picture, True on the object. A new array each time."""
        return coco_rle.decode(self.rle)

    def to_pil(self) -> Image.Image:
        """Return the mask as an image of mode L, of the picture's size: 255 on the object, 0 elsewhere."""
        return Image.fromarray(self.to_numpy().astype(np.uint8) * np.uint8(255))

    def crop(self) -> Booleans:
        """Return the part of the mask within `bounds`: bool (height, width) of the box, (0, 0) for an empty mask.

        Allocates no array of the picture's size, which suits many small objects in a large picture.
        """
        x0, y0, x1, y1 = self.bounds
        return np.ascontiguousarray(coco_rle.decode(self.rle, columns=(x0, x1))[y0:y1])

    @property
    def polygons(self) -> list[Ring]:
        """Outer rings of (x, y), clockwise, along the edges of the pixels. `holes` has the rings to subtract."""
        return self._outlines.polygons

    @property
    def holes(self) -> list[Ring]:
        """Rings of (x, y), counter-clockwise, around the background within the object."""
        return self._outlines.holes

    def outlines(self, *, simplify: float = 0.0) -> Outlines:
        """Return `polygons` and `holes` with fewer points: outlines move by at most `simplify` picture pixels.

        They move by less than half of what is narrow, so that no object and no hole is lost. Uses the algorithm of
        Douglas and Peucker. Each ring keeps at least three points. Raises ValueError for a negative or infinite
        tolerance.
        """
        if not 0 <= simplify < np.inf:
            raise ValueError(f"simplify is {simplify}, but must be a finite number of pixels, 0 or more")
        if not simplify:
            return self._outlines
        x, y, *_ = self.bbox
        return simplified(self._outlines, self.crop(), offset=(x, y), tolerance=simplify)

    def joined_outlines(self, *, simplify: float = 0.0) -> list[Ring]:
        """Return a ring for each part of the mask, joined with the rings of its holes, for formats without holes.

        A line there and back, which encloses nothing, leads from a ring to its hole. Filled by the even-odd rule,
        as pycocotools and OpenCV do it, holes stay holes. `simplify` and errors are as for `outlines`.
        """
        outer, holes = self.outlines(simplify=simplify)
        of_each = parts(self._outlines)
        return [joined([ring, *(holes[at] for at in its)]) for ring, its in zip(outer, of_each, strict=True)]

    @cached_property
    def _outlines(self) -> Outlines:
        x, y, *_ = self.bbox
        return trace(self.crop(), offset=(x, y))

    def overlay(
        self,
        picture: PictureSource,
        *,
        color: str | tuple[int, int, int] = DODGER_BLUE,
        opacity: float = 0.55,
    ) -> Image.Image:
        """Return the picture in RGB with the mask in colour over it.

        `color` is (red, green, blue), each 0..255, or a name or #rrggbb as in CSS; `opacity` is 0..1. Raises
        ValueError for other values, and if picture and mask differ in size.
        """
        rgb = np.array(ImageColor.getrgb(color)[:3] if isinstance(color, str) else color, np.float32)
        if rgb.shape != (3,) or not ((rgb >= 0) & (rgb <= 255)).all():  # they would come out as other colours
            raise ValueError(f"color is {color!r}, but must be red, green and blue, each 0..255, or a name")
        if not 0 <= opacity <= 1:
            raise ValueError(f"opacity is {opacity!r}, but must be 0..1")
        pixels = np.array(self._open(picture))
        x0, y0, x1, y1 = self.bounds
        part, mask = pixels[y0:y1, x0:x1], self.crop()
        tinted = (1 - opacity) * part[mask] + opacity * rgb
        part[mask] = np.rint(tinted).astype(np.uint8)
        return Image.fromarray(pixels)

    def cutout(self, picture: PictureSource) -> Image.Image:
        """Return the object alone: the part of the picture within `bounds` in RGBA, transparent outside the mask.

        Raises ValueError if picture and mask differ in size, and for an empty mask.
        """
        whole = self._open(picture)
        if not self.area:
            raise ValueError("the mask is empty: there is nothing to cut out")
        part = whole.crop(self.bounds)
        part.putalpha(Image.fromarray(self.crop().astype(np.uint8) * np.uint8(255)))
        return part

    def _open(self, picture: PictureSource) -> Image.Image:
        opened = open_picture(picture)
        height, width = self.rle["size"]
        if opened.size != (width, height):
            raise ValueError(
                f"the picture has {opened.width} x {opened.height} pixels here, the mask {width} x {height}: it is "
                "another picture, or the service turns this file in another way; pass its pixels instead, to "
                "`embed` too"
            )
        return opened
