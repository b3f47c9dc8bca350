"""Parses multipart forms into the picture and the other fields, within limits that are checked while parsing.

Does not know what a picture is, or what the fields mean.
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.codecs.base64_text import Base64Error, decode_base64
from app.errors import BadRequest
from app.routes.field_errors import given_twice, invalid
from app.scheduling.abandoned import check_wanted

PICTURE_FIELDS = ("image", "file")
VIDEO_FIELDS = ("video", "file")
_MOST_PARTS = 64
"""Fields of a form. The parser limits the headers of each."""
_FORM_PIECE = 1 << 20
_TOLD_BY_BYTES = 256
"""Within this many bytes from its start, every picture format has a byte that no text has."""


@dataclass(slots=True)
class _Part:
    """One field of a form while it is parsed."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    data: bytearray = field(default_factory=bytearray)


def parse_form(
    body: bytes, boundary: bytes, *, files: tuple[str, str] = PICTURE_FIELDS
) -> tuple[bytes, dict[str, str]]:
    """Return the file of a multipart form, and its other fields. Raises BadRequest and ValidationFailed.

    `files` are the names of the field that holds it: PICTURE_FIELDS or VIDEO_FIELDS.
    """
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
    return _file_and_fields(parts, files)


def _file_and_fields(parts: list[_Part], files: tuple[str, str]) -> tuple[bytes, dict[str, str]]:
    found: list[bytes] = []
    thing, example = (
        ("picture", "image=@truck.jpg") if files is PICTURE_FIELDS else ("video", "video=@clip.mp4")
    )
    fields: dict[str, str] = {}
    for part in parts:
        disposition = part.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        data = _decoded(name, part)
        if name in files:
            # A client may give only filename*, which the parser does not know, or no name at all.
            if b"filename" not in disposition.lower() and _is_text(data):
                raise invalid(name, f"it holds text, not a file: with curl, write {example}, with an @")
            found.append(data)
        elif name in fields:
            raise given_twice(name)
        else:
            fields[name] = data.decode("utf-8-sig", "replace")
    if len(found) != 1:
        what = f"{len(found)} {thing}s in the form; send exactly one, as '{files[0]}' or '{files[1]}'"
        raise invalid(files[0], what)
    return found[0], fields


def _decoded(name: str, part: _Part) -> bytes:
    """Return the data of a part. Mail libraries, which some clients build forms with, may write it in base64."""
    encoding = part.headers.get(b"content-transfer-encoding", b"binary").decode("latin-1").strip().lower()
    if encoding in ("binary", "8bit", "7bit"):
        return bytes(part.data)
    if encoding != "base64":
        raise invalid(
            name, f"Content-Transfer-Encoding {encoding[:40]!r} is not supported; send it in binary"
        )
    try:
        return decode_base64(part.data.decode("latin-1"))
    except Base64Error as error:
        raise invalid(name, f"it {error}") from error


def _is_text(data: bytes) -> bool:
    start = data[:_TOLD_BY_BYTES].decode("utf-8", "ignore")
    return all(character.isprintable() or character.isspace() for character in start)
