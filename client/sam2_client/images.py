"""Results of both clients: pictures, the model, and the results of embedding many pictures.

Does not know about requests.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from sam2_client.masks import Embedded
from sam2_client.pictures import PictureSource, is_one_picture

ImageT = TypeVar("ImageT", bound="KnownImage")
Floats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Model:
    """A server's model and limits."""

    name: str
    variant: str
    fingerprint: str
    """Identifies model, weights, preprocessing and precision. Results change only if it changes."""
    device: str
    dtype: str
    mask_size: tuple[int, int]
    """Height and width of the logits, whose pixels max_hole_area and max_sprinkle_area count."""
    limits: Mapping[str, float] = field(repr=False)
    """Limits by name, as in /model: max_upload_mib, max_image_megapixels, max_prompts and so on."""


class KnownImage:
    """A picture that the server has embedded."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded

    @property
    def image_id(self) -> str:
        """Your own name for the picture, or the SHA-256 of the uploaded bytes."""
        return self._embedded.image_id

    @property
    def width(self) -> int:
        """In pixels, after EXIF orientation."""
        return self._embedded.width

    @property
    def height(self) -> int:
        """In pixels, after EXIF orientation."""
        return self._embedded.height

    @property
    def model(self) -> str:
        """The model that embedded the picture."""
        return self._embedded.model

    @property
    def cached(self) -> bool:
        """Whether the server had embedded the picture before."""
        return self._embedded.cached

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 of the part that `closer` looks at, x1 and y1 exclusive; None for a whole picture."""
        return self._embedded.part.bounds if self._embedded.part else None

    def __repr__(self) -> str:
        part = f", {self._embedded.part}" if self._embedded.part else ""
        return f"{type(self).__name__}({self.image_id!r}, {self.width} x {self.height}{part})"


@dataclass(frozen=True, slots=True)
class EmbedResult(Generic[ImageT]):
    """The result for one of many pictures: an image or an error."""

    source: PictureSource
    image: ImageT | None
    error: Exception | None


class Progress:
    """A progress bar on standard error. `with` closes it."""

    def __init__(self, total: int, *, shown: bool, done: int = 0, unit: str = "picture") -> None:
        self._bar = tqdm(total=total, initial=done, unit=unit, disable=not shown)
        self._failed = 0

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, error: Exception | None) -> None:
        """Count one more picture or frame as done, or failed."""
        if error is not None:
            self._failed += 1
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update()


def check_concurrency(pictures: Iterable[PictureSource], concurrency: int) -> list[PictureSource]:
    """Return the pictures as a list. Raises TypeError for a single one, ValueError for a concurrency below 1."""
    if isinstance(pictures, str | bytes | os.PathLike | Image.Image) or is_one_picture(pictures):
        raise TypeError("embed_many takes a list of pictures: use embed for a single one")
    is_whole = isinstance(concurrency, int | np.integer) and not isinstance(concurrency, bool)
    if not is_whole or concurrency < 1:
        raise ValueError(f"concurrency is {concurrency!r}, but must be a whole number of at least 1")
    return list(pictures)
