"""Converts replies of the service to the objects of this package. Does not know about requests and retries."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np

from sam2_client.bodies import MAX_REPLY_BYTES
from sam2_client.closer import out_of_part, whole_size
from sam2_client.error_replies import unexpected
from sam2_client.everything_options import EverythingOptions
from sam2_client.found_masks import FoundMask
from sam2_client.images import Floats, Model
from sam2_client.mask_options import MaskOptions
from sam2_client.masks import Embedded, Mask, Origin
from sam2_client.picture_parts import PartialPicture
from sam2_client.pictures import Picture

UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
"""What reading a reply raises if it is not one of the service."""
_MAX_SIDE_PX = 65_535
MAX_PIXELS = 2**30
"""The service accepts no side above 65,535 px. Arrays of masks stay within 1 GiB."""


def read_embedded(response: httpx.Response, picture: Picture | None) -> Embedded:
    """Read the picture that a reply is about. Raises UnexpectedReply, as all functions here do."""
    try:
        return _embedded(response.json(), picture)
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_masks(
    response: httpx.Response, wires: Sequence[dict[str, Any]], options: MaskOptions, picture: Picture | None
) -> list[list[Mask]]:
    """Read the masks of each prompt, best first. `wires` are the prompts as they were sent."""
    try:
        reply = response.json()
        embedded = _embedded(reply, picture)
        return [
            list(_masks(prediction, embedded, wire, options))
            for prediction, wire in zip(reply["predictions"], wires, strict=True)
        ]
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_everything(
    response: httpx.Response, options: EverythingOptions, embedded: Embedded
) -> list[FoundMask]:
    """Read all masks of a picture, in the order of the reply."""
    try:
        reply = response.json()
        size = int(reply["height"]), int(reply["width"])
        if size != (shown := _shown(embedded)):
            raise ValueError(f"a picture of {size[1]} x {size[0]} pixels, which had {shown[1]} x {shown[0]}")
        return [_found(value, embedded, options) for value in reply["masks"]]
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_page(response: httpx.Response) -> tuple[list[Embedded], str | None]:
    """Read stored pictures, and what the next page follows; None on the last page."""
    try:
        reply = response.json()
        return [_embedded(value, None) for value in reply["images"]], reply["next"]
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_model(response: httpx.Response) -> Model:
    """Read the server's model."""
    try:
        reply = response.json()
        height, width = reply["mask_size"]
        return Model(
            name=str(reply["model"]),
            variant=str(reply["variant"]),
            fingerprint=str(reply["fingerprint"]),
            device=str(reply["device"]),
            dtype=str(reply["dtype"]),
            mask_size=(int(height), int(width)),
            limits=dict(reply["limits"]),
        )
    except UNREADABLE as error:
        raise unexpected(response, error) from error


def read_maps(response: httpx.Response) -> dict[str, Floats]:
    """Read the feature maps of an embedding in npz format."""
    try:
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            if sum(file.file_size for file in archive.infolist()) > MAX_REPLY_BYTES:
                raise ValueError("its arrays are too large")
        with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
            maps = {name: arrays[name] for name in arrays.files}
        if not all(isinstance(each, np.ndarray) and each.dtype.kind == "f" for each in maps.values()):
            raise TypeError("it has something other than arrays of floats")
        return maps
    except (*UNREADABLE, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise unexpected(response, error) from error


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a picture that no service has accepted."""
    if not (0 < width <= _MAX_SIDE_PX and 0 < height <= _MAX_SIDE_PX and width * height <= MAX_PIXELS):
        raise ValueError(f"a picture of {width} x {height} pixels")


def _embedded(reply: dict[str, Any], picture: Picture | None) -> Embedded:
    width, height = int(reply["width"]), int(reply["height"])
    check_size(width, height)
    if isinstance(picture, PartialPicture):
        width, height = whole_size(picture.part, shown=(width, height))
    return Embedded(
        image_id=str(reply["image_id"]),
        width=width,
        height=height,
        model=str(reply["model"]),
        cached=bool(reply.get("cached", True)),
        picture=picture,
    )


def _masks(
    prediction: dict[str, Any], embedded: Embedded, wire: dict[str, Any], options: MaskOptions
) -> Iterator[Mask]:
    for value in prediction["masks"]:
        origin = Origin(embedded, wire, options, value.get("logits"))
        mask = Mask.from_dict(value, size=_shown(embedded), origin=origin)
        yield mask if embedded.part is None else out_of_part(mask, embedded.part)


def _shown(embedded: Embedded) -> tuple[int, int]:
    """Height and width of what the server was shown."""
    shown = embedded.part or embedded
    return shown.height, shown.width


def _found(value: dict[str, Any], embedded: Embedded, options: EverythingOptions) -> FoundMask:
    origin = None
    if options.logits:
        click = {"point_coords": [value["point"]], "point_labels": [1]}
        origin = Origin(embedded, click, MaskOptions(logits=True), str(value["logits"]))
    mask = FoundMask.from_dict(value, size=_shown(embedded), origin=origin)
    return mask if embedded.part is None else out_of_part(mask, embedded.part)
