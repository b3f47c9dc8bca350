"""A mask as the service answers it, and what people make of it: an array, a picture, outlines, an overlay.

Knows nothing of requests.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from sam2_client.outlines import Ring, trace
from sam2_client.pictures import Picture, PictureSource, open_picture
from sam2_client.rle import Booleans, Rle, decode

DODGER_BLUE = (30, 144, 255)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture that the server can decode prompts on."""

    image_id: str
    width: int
    height: int
    model: str
    cached: bool
    """Whether the server knew it already."""
    picture: Picture | None = field(repr=False)
    """To embed it again where the server has forgotten it; None where only its id is known."""


@dataclass(slots=True)
class Origin:
    """Where a mask comes from, so that its logits can be had when they are needed, and then are kept."""

    embedded: Embedded
    prompt: dict[str, Any]
    """As it was sent."""
    logits: str | None


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask at the picture's own size."""

    rle: Rle = field(repr=False)
    """COCO RLE: `size` (height, width) and the compressed `counts`; pycocotools.mask.decode takes it."""
    iou: float
    """The model's own estimate of the mask's IoU, 0..1."""
    stability: float
    """How little the mask depends on its threshold, 0..1."""
    area: int
    """In pixels."""
    bbox: tuple[int, int, int, int]
    """COCO's x, y, width, height; zeros for an empty mask."""
    origin: Origin | None = field(default=None, repr=False)
    """None for a mask that was read from a file."""

    @classmethod
    def from_dict(cls, value: dict[str, Any], *, origin: Origin | None = None) -> "Mask":
        """A mask of a reply with mask_format rle or rle_uncompressed. Raises KeyError, TypeError, ValueError."""
        height, width = value["rle"]["size"]
        x, y, box_width, box_height = value["bbox"]
        return cls(
            rle={"size": [height, width], "counts": value["rle"]["counts"]},
            iou=float(value["iou"]),
            stability=float(value["stability"]),
            area=int(value["area"]),
            bbox=(x, y, box_width, box_height),
            origin=origin,
        )

    def to_dict(self) -> dict[str, Any]:
        """As in the service's reply, ready for JSON."""
        return {
            "rle": self.rle,
            "iou": self.iou,
            "stability": self.stability,
            "area": self.area,
            "bbox": list(self.bbox),
        }

    @property
    def logits(self) -> str | None:
        """What the service takes back to refine this mask; None until `decode` was asked for it or needed it."""
        return self.origin.logits if self.origin else None

    def to_numpy(self) -> Booleans:
        """The mask as bool (height, width), True on the object; a new array each time."""
        return decode(self.rle)

    def to_pil(self) -> Image.Image:
        """The mask as a picture of mode L: 255 on the object, 0 elsewhere."""
        return Image.fromarray(self.to_numpy().astype(np.uint8) * np.uint8(255))

    @property
    def polygons(self) -> list[Ring]:
        """Outer rings of (x, y), clockwise, along the edges of the pixels; `holes` has what is cut out."""
        return self._rings[0]

    @property
    def holes(self) -> list[Ring]:
        """Rings of (x, y), counter-clockwise, around the background within the object."""
        return self._rings[1]

    @cached_property
    def _rings(self) -> tuple[list[Ring], list[Ring]]:
        return trace(self.to_numpy())

    def overlay(
        self,
        picture: PictureSource,
        *,
        color: str | tuple[int, int, int] = DODGER_BLUE,
        opacity: float = 0.55,
    ) -> Image.Image:
        """The picture in RGB with the mask in colour over it.

        `color` is (red, green, blue), each 0..255, or a name or #rrggbb as CSS has them; `opacity` is 0..1. Raises
        ValueError where the picture is of another size than the mask.
        """
        pixels = np.array(open_picture(picture))
        mask = self.to_numpy()
        if pixels.shape[:2] != mask.shape:
            raise ValueError(
                f"the picture has {pixels.shape[1]} x {pixels.shape[0]} pixels, the mask "
                f"{mask.shape[1]} x {mask.shape[0]}"
            )
        rgb = np.array(ImageColor.getrgb(color)[:3] if isinstance(color, str) else color, np.float32)
        tinted = (1 - opacity) * pixels[mask] + opacity * rgb
        pixels[mask] = np.rint(tinted).astype(np.uint8)
        return Image.fromarray(pixels)
