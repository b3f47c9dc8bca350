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
    length: int = 0
    start: int | None = None
    """Where its data begin in the body, once it is known."""
    begun: bytearray = field(default_factory=bytearray)
    """Its data until then: a few bytes that looked like a boundary at the end of a piece."""

    def data(self, body: bytes) -> bytes:
        """Return its data: the only copy, because files have hundreds of megabytes."""
        return bytes(self.begun) if self.start is None else body[self.start : self.start + self.length]


def parse_form(
    body: bytes, boundary: bytes, *, files: tuple[str, str] = PICTURE_FIELDS
) -> tuple[bytes, dict[str, str]]:
    """Return the file of a multipart form, and its other fields. Raises BadRequest and ValidationFailed.

    `files` are the names of the field that holds it: PICTURE_FIELDS or VIDEO_FIELDS.
    """
    if not boundary:
        raise BadRequest(
            "The Content-Type multipart/form-data has no boundary. HTTP libraries write one into it: do not set "
            "this header yourself."
        )
    parts: list[_Part] = []
    ended = False
    at, piece = 0, b""

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
        part = parts[-1]
        if part.start is None and data is piece:
            part.start = at + start - part.length
        elif part.start is None:  # not of this piece, but of the parser's own, whose place is not told
            part.begun += data[start:end]
        part.length += end - start

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
            piece = body[at : at + _FORM_PIECE]
            parser.write(piece)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise BadRequest(
            "The body is not valid multipart/form-data, or its boundary is not the one in the Content-Type "
            f"header: {error}."
        ) from error
    if not ended:
        raise BadRequest(
            "The multipart/form-data body is cut off, or its boundary is not the one in the Content-Type header."
        )
    return _file_and_fields(body, parts, files)


def _file_and_fields(body: bytes, parts: list[_Part], files: tuple[str, str]) -> tuple[bytes, dict[str, str]]:
    found: list[bytes] = []
    thing, example = (
        ("picture", "image=@truck.jpg") if files is PICTURE_FIELDS else ("video", "video=@clip.mp4")
    )
    fields: dict[str, str] = {}
    for part in parts:
        disposition = part.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        data = _decoded(name, part, body)
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


def _decoded(name: str, part: _Part, body: bytes) -> bytes:
    """Return the data of a part. Mail libraries, which some clients build forms with, may write it in base64."""
    encoding = part.headers.get(b"content-transfer-encoding", b"binary").decode("latin-1").strip().lower()
    if encoding in ("binary", "8bit", "7bit"):
        return part.data(body)
    if encoding != "base64":
        raise invalid(
            name, f"Content-Transfer-Encoding {encoding[:40]!r} is not supported; send it in binary"
        )
    try:
        return decode_base64(part.data(body).decode("latin-1"))
    except Base64Error as error:
        raise invalid(name, f"it {error}") from error


def _is_text(data: bytes) -> bool:
    start = data[:_TOLD_BY_BYTES].decode("utf-8", "ignore")
    return all(character.isprintable() or character.isspace() for character in start)
