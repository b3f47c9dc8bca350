"""Parses forms of a picture and fields that are JSON, as /segment and /everything take them.

Does not know what a picture is, or what prompts mean.
"""

from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header

from app.codecs import json_bodies
from app.errors import UnsupportedMediaType
from app.routes.field_errors import explain, given_twice, invalid
from app.routes.forms import parse_form
from app.routes.image_ids import IMAGE_ID_SCHEMA
from app.routes.schemas import EmbedFields, PromptsBody
from app.routes.uploads import Upload, check_size

Model = TypeVar("Model", bound=BaseModel)

_TEXTS = ("mask_format", "mask_input", "order")
"""Fields that may be given without JSON's quotes."""
_PYTHONS_WORDS = {"True": True, "False": False}
"""As Python's libraries write values of a form."""

PICTURE_FORM: dict[str, Any] = {
    "image": {"type": "string", "format": "binary", "description": "Or called 'file'."},
    "image_id": IMAGE_ID_SCHEMA,
    "replace": {"type": "boolean"},
    "stretch": {"type": "string", "enum": ["range", "percentile", "none"]},
}
"""The file and EmbedFields in every form with a picture, for openapi.json."""


class Segment(NamedTuple):
    """A picture and the prompts on it."""

    upload: Upload
    wanted: PromptsBody


def parse_segment(body: bytes, *, content_type: str, max_bytes: int) -> Segment:
    """Parse picture and prompts from a form. Raises UnsupportedMediaType, and as `parse_picture_form`."""
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaType(
            "/segment takes picture and prompts as multipart/form-data: curl -F image=@truck.jpg "
            "-F point_coords='[[500,375]]' -F point_labels='[1]'. Pictures alone go to /embed, prompts alone to "
            "/decode."
        )
    boundary = options.get(b"boundary", b"")
    upload, wanted = parse_picture_form(PromptsBody, body, boundary=boundary, max_bytes=max_bytes)
    return Segment(upload, wanted)


def parse_picture_form(
    model: type[Model], body: bytes, *, boundary: bytes, max_bytes: int
) -> tuple[Upload, Model]:
    """Parse a picture and the fields of a model, which are JSON, from a form. A prompt alone is a list of one.

    Raises BadRequest, ValidationFailed and, for a picture file beyond `max_bytes`, ImageTooLarge.
    """
    data, fields = parse_form(body, boundary)
    check_size(data, max_bytes=max_bytes)
    naming = {name: fields.pop(name) for name in EmbedFields.model_fields.keys() & fields.keys()}
    try:
        # As those of a body in JSON, before any is parsed: millions would hold the interpreter lock for seconds.
        json_bodies.check_number(*(text.encode() for text in fields.values()))
    except json_bodies.TooMany as error:
        raise invalid("body", str(error)) from error
    values = {name: _value(name, text, model) for name, text in fields.items()}
    if isinstance(values.get("prompts"), dict):
        values["prompts"] = [values["prompts"]]
    try:
        named = EmbedFields.model_validate(naming)
        wanted = model.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error
    return Upload(data, None, named.image_id, named.replace, named.stretch), wanted


def _value(name: str, text: str, model: type[BaseModel]) -> Any:
    if name in _TEXTS and text.lstrip()[:1] not in ('"', "{", "n"):  # neither a string, an RLE nor null
        return text
    if name not in model.model_fields:
        return text  # unknown, and rejected as such
    if text in _PYTHONS_WORDS:
        return _PYTHONS_WORDS[text]
    try:
        return json_bodies.parse_value(text, where=name)
    except json_bodies.Repeated as error:
        raise given_twice(error.name) from error
    except json_bodies.TooLong as error:
        raise invalid(name, f"it has {error}") from error
    except ValueError as error:
        raise invalid(name, f"it is not JSON ({error}); write, say, -F point_coords='[[500,375]]'") from error
