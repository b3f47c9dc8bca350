"""Messages of /decode/stream: a key, prompts with tags, and answers other than masks.

Types and ranges only.
"""

from math import isfinite
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.routes.error_schemas import ErrorBody
from app.routes.image_ids import ImageId
from app.routes.mask_fields import MaskFields, Wire
from app.routes.schemas import PromptBody

_LONGEST = 128
_SAFE = 2**53 - 1  # the largest integer that JavaScript represents exactly


def _comes_back_exactly(tag: object) -> object:
    """Return a tag. Raises PydanticCustomError for what is none, or would come back rounded, as a float."""
    if isinstance(tag, int) and abs(tag) > _SAFE:  # first: no float holds one of 400 digits
        raise PydanticCustomError(
            "rounded", "JavaScript represents no whole number beyond 2**53 - 1 exactly: send it as a string"
        )
    is_number = isinstance(tag, (int, float)) and not isinstance(tag, bool) and isfinite(tag)
    if not is_number and not (isinstance(tag, str) and len(tag) <= _LONGEST):
        raise PydanticCustomError("tag", "Input should be a number, or a string of at most 128 characters")
    return tag


Tag = Annotated[
    Annotated[str, Field(max_length=_LONGEST)]
    | Annotated[int, Field(ge=-_SAFE, le=_SAFE)]
    | Annotated[float, Field(allow_inf_nan=False)],
    BeforeValidator(_comes_back_exactly),
]


class KeyMessage(Wire):
    """The first message of clients that cannot set headers, such as browsers."""

    api_key: str = Field(max_length=4096)


class StreamPrompt(PromptBody, MaskFields):
    """One prompt on one picture. Its answer carries its tag."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"tag": 1, "image_id": "example", "point_coords": [[500, 375]], "point_labels": [1]}
            ],
        }
    )

    tag: Tag = Field(description="Any short string or number.")
    image_id: ImageId


class Tagged(BaseModel):
    """The tag of any message."""

    model_config = ConfigDict(strict=True)

    tag: Tag


class SkippedReply(BaseModel):
    """A newer prompt of the connection arrived before this one was decoded."""

    tag: Tag
    skipped: bool = True


class StreamErrorReply(BaseModel):
    """The prompt failed; the connection stays open."""

    tag: Tag | None = Field(description="null if the message had none.")
    error: ErrorBody
    retry_after_s: int | None = Field(None, description="Seconds after which to try again, if that may help.")
