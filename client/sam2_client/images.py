"""Results of both clients: pictures, the model, and the results of embedding many pictures.

Does not know about requests.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from sam2_client.masks import Embedded
from sam2_client.pictures import PictureSource

ImageT = TypeVar("ImageT", bound="KnownImage")
Floats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Model:
    """A server's model and limits."""

    name: str
    variant: str
    fingerprint: str
    """Identifies model, weights, preprocessing and precision. The numbers change only if it changes."""
    device: str
    dtype: str
    mask_size: tuple[int, int]
    """Height and width of the logits, whose pixels max_hole_area and max_sprinkle_area count."""
    limits: Mapping[str, float] = field(repr=False)
    """By the names that /model gives them: max_upload_mib, max_image_megapixels, max_prompts and so on."""


class KnownImage:
    """A picture that the server has embedded."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded

    @property
    def image_id(self) -> str:
        """The client's own name, or the SHA-256 of the uploaded bytes."""
        return self._embedded.image_id

    @property
    def width(self) -> int:
        """Pixels, after EXIF orientation."""
        return self._embedded.width

    @property
    def height(self) -> int:
        """Pixels, after EXIF orientation."""
        return self._embedded.height

    @property
    def model(self) -> str:
        """The model that embedded it."""
        return self._embedded.model

    @property
    def cached(self) -> bool:
        """Whether the server knew it already."""
        return self._embedded.cached

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.image_id!r}, {self.width} x {self.height})"


@dataclass(frozen=True, slots=True)
class EmbedResult(Generic[ImageT]):
    """The result for one of many pictures: an image or an error."""

    source: PictureSource
    image: ImageT | None
    error: Exception | None


class Progress:
    """A progress bar on standard error; closed by `with`."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar = tqdm(total=total, unit="picture", disable=not shown)
        self._failed = 0

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, result: EmbedResult[ImageT]) -> None:
        """One more is done."""
        if result.error is not None:
            self._failed += 1
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update()


def check_concurrency(pictures: Iterable[PictureSource], concurrency: int) -> list[PictureSource]:
    """Return the pictures as a list. Raises TypeError for a single path, and ValueError for no concurrency."""
    if isinstance(pictures, str | bytes):
        raise TypeError("embed_many takes a list of pictures; embed takes one")
    if concurrency < 1:
        raise ValueError(f"concurrency is at least 1, not {concurrency}")
    return list(pictures)
