"""The function that agents of CVAT run: SAM 2 as an interactor of CVAT Online and Enterprise.

    cvat-cli function create-native "SAM 2" --function-module=sam2_client.cvat
    cvat-cli function run-agent ID --function-module=sam2_client.cvat -p server=str:http://127.0.0.1:8000

Only cvat-cli imports this file, because it needs its cvat-sdk[masks]. Does not know about requests.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from cvat_sdk.masks import encode_mask
from PIL import Image as Pillow

from sam2_client.client import Client
from sam2_client.connection import DEFAULT_URL
from sam2_client.errors import Sam2Error
from sam2_client.pictures import LargePictureWarning
from sam2_client.sync_image import Image

log = logging.getLogger(__name__)


def create(server: str = DEFAULT_URL, api_key: str = "") -> "Interactor":
    """Return the function for an agent: its parameters are those of `cvat-cli ... -p NAME=str:VALUE`."""
    return Interactor(Client(server, api_key or None))


class Interactor:
    """Segments the object at the clicks, in the box, or both. The agent keeps what `preprocess_image` returns."""

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, client: Client) -> None:
        self._client = client

    def preprocess_image(
        self,
        context: cvataa.InteractionFunctionContext,  # noqa: ARG002  # CVAT passes it
        image: Pillow.Image,
    ) -> Image:
        """Embed a frame, or a region of one, from its pixels. Raises BadFunctionError."""
        with _explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore", LargePictureWarning)  # agents get pixels, never files
            return self._client.embed(image)

    def detect(
        self,
        context: cvataa.InteractionFunctionContext,  # noqa: ARG002
        image: Image,
        prompts: cvataa.InteractionPrompts,
    ) -> list[Any]:
        """Return the best mask. If the server has evicted the picture, it is embedded again.

        Raises BadFunctionError.
        """
        inside, outside = list(prompts.pos_points), list(prompts.neg_points)
        with _explained():
            best = image.decode(
                [*inside, *outside] or None,
                [1] * len(inside) + [0] * len(outside) or None,
                box=_box(prompts.bounding_box),
            )[0]
        x, y, width, height = best.bbox
        confidence = models.AttributeValRequest(
            spec_id=int(cvataa.InteractionResultAttributes.CONFIDENCE), value=f"{best.iou:.4f}"
        )
        return [
            cvataa.InteractionResultShape(
                type="mask",
                points=encode_mask(best.to_numpy(), (x, y, x + max(width, 1), y + max(height, 1))),
                attributes=[confidence],
            )
        ]


def _box(corners: tuple[tuple[float, float], tuple[float, float]] | None) -> list[float] | None:
    if corners is None:
        return None
    (x0, x1), (y0, y1) = map(sorted, zip(*corners, strict=True))
    return [x0, y0, x1, y1]


@contextmanager
def _explained() -> Iterator[None]:
    """Turn failures into the only exception whose message an agent shows to the user."""
    try:
        yield
    except Sam2Error as error:
        log.error("%s", error)
        # Other users see the message, so it does not tell them where the server is.
        message = str(error) if error.status is not None else "the SAM 2 server cannot be reached"
        raise cvataa.BadFunctionError(message) from None
