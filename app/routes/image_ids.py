"""The id of a picture on the wire: in paths, queries, forms, JSON and messages alike.

Those of videos and tracks are of the same form. Does not know which ids exist.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

_DOTS = (".", "..")


def fits_a_url(image_id: str) -> str:
    """Return an id. Raises PydanticCustomError for one that clients would take out of a URL."""
    if image_id in _DOTS:
        raise PydanticCustomError(
            "dots",
            "{id} cannot be an id, because clients take it out of URLs: use another name",
            {"id": repr(image_id)},
        )
    return image_id


Id = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$", json_schema_extra={"not": {"enum": list(_DOTS)}}),
    AfterValidator(fits_a_url),
]
"""Of a picture, a video or a track."""

ImageId = Annotated[
    Id,
    Field(
        description="The id that /embed returned: the client's own name, or the SHA-256 of the uploaded bytes.",
        examples=["truck"],
    ),
]
IMAGE_ID_SCHEMA = TypeAdapter(ImageId).json_schema()
"""For the forms in openapi.json."""
