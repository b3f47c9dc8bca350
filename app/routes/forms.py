"""Parses multipart forms into the picture and the other fields, within limits that are checked while parsing.

Does not know what a picture is, or what the fields mean.
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import BadRequest
from app.routes.field_errors import invalid
from app.scheduling.abandoned import check_wanted

PICTURE_FIELDS = ("image", "file")
_MOST_PARTS = 64
"""Fields of a form. The parser limits the headers of each."""
_FORM_PIECE = 1 << 20


@dataclass(slots=True)
class _Part:
    """One field of a form while it is parsed."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    data: bytearray = field(default_factory=bytearray)


def parse_form(body: bytes, boundary: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the picture of a multipart form, and its other fields. Raises BadRequest and ValidationFailed."""
    parts: list[_Part] = []
    ended = False

    def begin_part() -> None:
        if len(parts) == _MOST_PARTS:
            raise invalid("body", f"more than {_MOST_PARTS} fields in one form")
        parts.append(_Part())

    def end_header() -> None:
        part = parts[-1]
        part.headers[part.header_name.lower()] = part.header_value
        part.header_name = part.header_value = b""

    def add_name(data: bytes, start: int, end: int) -> None:
        parts[-1].header_name += data[start:end]

    def add_value(data: bytes, start: int, end: int) -> None:
        parts[-1].header_value += data[start:end]

    def add_data(data: bytes, start: int, end: int) -> None:
        parts[-1].data += memoryview(data)[start:end]

    def end_form() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin_part,
                "on_header_field": add_name,
                "on_header_value": add_value,
                "on_header_end": end_header,
                "on_part_data": add_data,
                "on_end": end_form,
            },
        )
        for at in range(0, len(body), _FORM_PIECE):
            check_wanted()
            parser.write(body[at : at + _FORM_PIECE])
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise BadRequest(f"The body is not valid multipart/form-data: {error}") from error
    if not ended:
        raise BadRequest(
            "The multipart/form-data body is cut off, or its boundary is not the one in the Content-Type header."
        )
    return _picture_and_fields(parts)


def _picture_and_fields(parts: list[_Part]) -> tuple[bytes, dict[str, str]]:
    pictures: list[bytes] = []
    fields: dict[str, str] = {}
    for part in parts:
        _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in PICTURE_FIELDS:
            if b"filename" not in options:
                raise invalid(name, "it holds text, not a file: with curl, write image=@truck.jpg, with an @")
            pictures.append(bytes(part.data))
        else:
            fields[name] = part.data.decode("utf-8", "replace")
    if len(pictures) != 1:
        raise invalid(
            "image", f"{len(pictures)} pictures in the form; send exactly one, as 'image' or 'file'"
        )
    return pictures[0], fields
