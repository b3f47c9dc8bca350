"""What goes over /decode/stream: a key, prompts with tags, and what is answered beside masks.

Types and ranges only.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.routes.mask_fields import MaskFields, Wire
from app.routes.schemas import ErrorBody, ImageId, PromptBody

_SAFE = 2**53 - 1  # whole numbers that JavaScript keeps

Tag = (
    Annotated[str, Field(max_length=128)]
    | Annotated[int, Field(ge=-_SAFE, le=_SAFE)]
    | Annotated[float, Field(allow_inf_nan=False)]
)


class KeyMessage(Wire):
    """The first message of who cannot set headers: a browser."""

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
    """Whatever a message is, its tag."""

    model_config = ConfigDict(strict=True)

    tag: Tag


class SkippedReply(BaseModel):
    """A newer prompt of the connection came before this one had begun."""

    tag: Tag
    skipped: bool = True


class StreamErrorReply(BaseModel):
    """A prompt that could not be answered; the connection goes on."""

    tag: Tag | None = Field(description="null where the message had none.")
    error: ErrorBody
    retry_after_s: int | None = Field(None, description="When to try again, where that may help.")
