"""Reads request bodies within limits, and extracts the picture from any of the accepted forms.

Does not know what a picture is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from app.codecs import json_bodies
from app.codecs.base64_text import Base64Error, decode_base64_or_data_url
from app.codecs.deep import Stretch
from app.codecs.long_text import Pieces
from app.errors import (
    BadRequest,
    BodyTooSlow,
    ImageTooLarge,
    Overloaded,
    ServiceError,
    ShuttingDown,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from app.routes.field_errors import explain, given_twice, invalid
from app.routes.forms import parse_form
from app.routes.schemas import EmbedBody, EmbedFields
from app.scheduling.shares import Shares

Model = TypeVar("Model", bound=BaseModel)

FORM_OVERHEAD = 64 * 1024
"""Bytes that a form may have in addition to its picture."""
_LEAST_BYTES_PER_S = 1024
"""Least average speed of a body, after the first `patience_s`: 1 MB may take a quarter of an hour."""
_JOINED_AT_ONCE = 1 << 20


class Upload(NamedTuple):
    """An uploaded picture file and its fields."""

    data: bytes
    url: str | None
    """URL to fetch the picture from; `data` is empty then."""
    image_id: str | None
    replace: bool
    stretch: Stretch


@dataclass(slots=True)
class BodyBudget:
    """Memory budget for the bodies of all requests.

    Bytes are counted when they arrive, not when they are announced. A client that sends nothing holds nothing.
    One that stops in the middle, or sends a byte now and then, holds what it sent for `patience_s` seconds.
    """

    shares: Shares
    patience_s: float
    _waiting: set[asyncio.Timeout] = field(default_factory=set, init=False)
    _is_draining: bool = field(default=False, init=False)

    @property
    def used_bytes(self) -> int:
        """Bytes held at this moment."""
        return self.shares.used

    def drain(self) -> None:
        """Refuse what has not arrived yet: the server stops, and would refuse the whole body too."""
        self._is_draining = True
        for each in self._waiting:
            if not each.expired():
                each.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def holding(self, share: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes as they arrive. All of them are released when the block ends.

        It raises Overloaded if `share` would hold more than it may.
        """
        held = 0

        def arrived(size: int) -> None:
            nonlocal held
            if not self.shares.admits(share, size):
                raise Overloaded(
                    "Too many uploads are in memory (SAM2_MAX_BODIES_MIB). Try again later.",
                    retry_after_s=2,
                )
            self.shares.add(share, size)
            held += size

        try:
            yield arrived
        finally:
            if held:
                self.shares.remove(share, held)

    @asynccontextmanager
    async def read(
        self,
        request: Request,
        *,
        max_bytes: int,
        limit: str,
        share: str,
        of: type[ServiceError] = ImageTooLarge,
    ) -> AsyncIterator[bytes]:
        """Yield the body of a request. Its bytes count until the block ends.

        Raises UnsupportedEncoding for a compressed body, `of` beyond `max_bytes` (at once if
        Content-Length says so), Overloaded if the budget is spent, BadRequest if the client disconnects,
        BodyTooSlow if it stops in the middle or is too slow, and ShuttingDown after `drain`.
        """
        _check_encoding(request.headers)
        thing = "picture" if of is ImageTooLarge else "video"
        too_large = of(f"The body is larger than {limit}. Send a smaller {thing} file.")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        with self.holding(share) as arrived:
            async for chunk in self._arriving(request):
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                arrived(len(chunk))
                chunks.append(chunk)
            yield await join(chunks, size)

    async def _arriving(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        loop = asyncio.get_running_loop()
        due = loop.time() + self.patience_s
        try:
            while True:
                end = loop.time() if self._is_draining else min(loop.time() + self.patience_s, due)
                async with asyncio.timeout_at(end) as waiting:
                    self._waiting.add(waiting)
                    try:
                        chunk = await anext(stream, None)
                    finally:
                        self._waiting.discard(waiting)
                if chunk is None:
                    return
                due += len(chunk) / _LEAST_BYTES_PER_S
                yield chunk
        except ClientDisconnect as error:
            raise BadRequest("The connection closed before the whole body had arrived.") from error
        except TimeoutError as error:
            if self._is_draining:
                raise ShuttingDown() from error
            raise BodyTooSlow(
                f"The body arrived too slowly: nothing for {self.patience_s:g} s, or less than "
                f"{_LEAST_BYTES_PER_S} bytes per second."
            ) from error


async def join(chunks: list[bytes], size: int) -> bytes:
    """Return all chunks, of `size` bytes together, as one, and release them.

    Joining tens of megabytes takes tens of milliseconds, most of it without the interpreter lock: so in a thread.
    """
    return _join(chunks) if size < _JOINED_AT_ONCE else await asyncio.to_thread(_join, chunks)


def _join(chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    chunks.clear()
    return body


def _check_encoding(headers: Headers) -> None:
    for header, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        for coding in ",".join(headers.getlist(header)).split(","):
            if coding.strip().lower() not in ("", plain):
                raise UnsupportedEncoding(
                    f"{header.title()} {coding.strip()[:40]!r} is not supported. Send the body as it is, not "
                    "compressed or otherwise encoded."
                )


def max_body_bytes(max_upload_mib: int) -> int:
    """Return the size of the largest body for a picture of the limit: base64 takes four bytes for three."""
    return max_upload_mib * 2**20 * 4 // 3 + FORM_OVERHEAD


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
