"""Extracts the picture from a body of any of the accepted forms.

Does not know how a body arrives, or what a picture is.
"""

from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from app.codecs import json_bodies
from app.codecs.base64_text import Base64Error, decode_base64_or_data_url
from app.codecs.deep import Stretch
from app.codecs.long_text import Pieces
from app.errors import ImageTooLarge, UnsupportedMediaType
from app.routes.field_errors import explain, given_twice, invalid
from app.routes.forms import parse_form
from app.routes.schemas import EmbedBody, EmbedFields

Model = TypeVar("Model", bound=BaseModel)


class Upload(NamedTuple):
    """An uploaded picture file and its fields."""

    data: bytes
    url: str | None
    """URL to fetch the picture from; `data` is empty then."""
    image_id: str | None
    replace: bool
    stretch: Stretch


def parse_json(model: type[Model], body: bytes) -> Model:
    """Parse a request's JSON. Raises BadRequest if it is not JSON, ValidationFailed if a field is wrong."""
    try:
        return json_bodies.parse(model, body)
    except json_bodies.TooMany as error:
        raise invalid("body", str(error)) from error
    except json_bodies.TooLong as error:
        raise invalid(error.where or "the name of a field", f"it has {error}") from error
    except json_bodies.Repeated as error:
        raise given_twice(error.name) from error
    except ValidationError as error:
        raise explain(error) from error


def parse_upload(body: bytes, *, headers: Headers, query: EmbedFields, max_bytes: int) -> Upload:
    """Extract the picture from a body of any accepted form. A field may be in the body or in `query`, not in both.

    Raises UnsupportedMediaType, BadRequest, ValidationFailed and, for a picture file beyond `max_bytes`,
    ImageTooLarge.
    """
    media_type, options = parse_options_header(headers.get("content-type", ""))
    url: str | None = None
    if media_type == b"multipart/form-data":
        data, fields = parse_form(body, options.get(b"boundary", b""))
    elif media_type.startswith(b"image/") or media_type == b"application/octet-stream":
        data, fields = body, {}
    elif media_type == b"application/json" or media_type.endswith(b"+json"):
        request = parse_json(EmbedBody, body)
        url = request.url
        if (request.image is None) == (url is None):
            raise invalid("image", "give either 'image' or 'url'")
        data = b"" if request.image is None else _decode_base64(request.image)
        fields = request.model_dump(include=request.model_fields_set - {"image", "url"})
    else:
        raise UnsupportedMediaType(
            f"{_named(media_type)} is not a picture upload. Send multipart/form-data with a field 'image' (curl -F "
            "image=@truck.jpg), a raw body with Content-Type image/* or application/octet-stream (curl -H "
            "'Content-Type: image/jpeg' --data-binary @truck.jpg), or JSON."
        )
    check_size(data, max_bytes=max_bytes)
    for name in sorted(query.model_fields_set & fields.keys()):
        raise given_twice(name, "in the query and in the body")
    try:
        named = EmbedFields.model_validate({**query.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise explain(error) from error
    return Upload(data, url, named.image_id, named.replace, named.stretch)


def check_size(data: bytes, *, max_bytes: int) -> None:
    """Raise ImageTooLarge for a picture file beyond `max_bytes`."""
    if len(data) > max_bytes:
        raise ImageTooLarge(
            f"The picture file is {len(data) / 2**20:.1f} MiB; the limit is {max_bytes // 2**20} "
            "(SAM2_MAX_UPLOAD_MIB). Send a smaller file."
        )


def _decode_base64(text: str | Pieces) -> bytes:
    try:
        return decode_base64_or_data_url(text)
    except Base64Error as error:
        raise invalid("image", f"it {error}") from error


def _named(media_type: bytes) -> str:
    return f"Content-Type {media_type.decode('latin-1')!r}" if media_type else "A body without Content-Type"
