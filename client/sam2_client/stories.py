"""What Client and AsyncClient do alike: the requests of each call, in order, and what their replies mean.

A story is a generator. It yields an Attempt, gets the response sent in or the transport's error thrown in, and
returns its result. Knows nothing of sockets, threads and event loops: the clients send, and wait.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from sam2_client.errors import ConnectionFailed, ImageNotFound, Sam2Error, TimedOut, error_of, unexpected
from sam2_client.masks import Embedded, Mask, Origin
from sam2_client.pictures import Picture
from sam2_client.prompts import Prompt, to_wire
from sam2_client.retries import Retries

T = TypeVar("T")

PROMPTS_PER_REQUEST = 64
"""More go in several requests: no reply keeps others waiting long, and servers take at most 256 by default."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, its body not yet made."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    json: dict[str, Any] | None = None
    picture: Picture | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request with its body; reads the picture's file. Raises OSError and PictureChanged."""
        content, headers = None, {}
        if self.picture is not None:
            content, headers = self.picture.read(), {"Content-Type": "application/octet-stream"}
        elif self.json is not None:
            content, headers = json.dumps(self.json).encode(), {"Content-Type": "application/json"}
        return http.build_request(
            self.method, self.path, params=dict(self.query) or None, content=content, headers=headers
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """Wait, then send."""

    call: Call
    wait_s: float


Story: TypeAlias = Generator[Attempt, httpx.Response, T]


def embed(picture: Picture, *, image_id: str | None, replace: bool, retries: Retries) -> Story[Embedded]:
    """Upload a picture."""
    query = {"image_id": image_id} if image_id is not None else {}
    if replace:
        query["replace"] = "true"
    response = yield from _ask(Call("POST", "embed", query=query, picture=picture), retries)
    return _read_embedded(response, picture)


def find(image_id: str, *, retries: Retries) -> Story[Embedded]:
    """Look a picture up that the server holds already."""
    response = yield from _ask(Call("GET", _image_path(image_id)), retries)
    return _read_embedded(response, None)


def delete(image_id: str, *, retries: Retries) -> Story[None]:
    """Have the server forget a picture."""
    yield from _ask(Call("DELETE", _image_path(image_id)), retries)


def decode(
    embedded: Embedded, prompts: Sequence[Prompt], *, logits: bool, retries: Retries
) -> Story[list[list[Mask]]]:
    """Masks for every prompt, in order, best first; missing logits of masks to refine are asked for."""
    wires = []
    for prompt in prompts:
        wire = to_wire(prompt)
        if isinstance(prompt.mask, Mask):
            wire["mask_input"] = yield from _mask_input(prompt.mask, retries)
        wires.append(wire)
    answers = []
    for start in range(0, len(wires), PROMPTS_PER_REQUEST):
        chunk = wires[start : start + PROMPTS_PER_REQUEST]
        answers += yield from _decode(embedded, chunk, logits=logits, retries=retries)
    return answers


def _mask_input(mask: Mask, retries: Retries) -> Story[Any]:
    """The logits of an earlier mask; its runs, where nothing is known of how it came about."""
    origin = mask.origin
    if origin is None:
        return mask.rle
    if origin.logits is None:
        (candidates,) = yield from _decode(origin.embedded, [origin.prompt], logits=True, retries=retries)
        # In a near tie of two candidates their order may be another one than before.
        pixels = mask.to_numpy()
        same = max(candidates, key=lambda candidate: (candidate.to_numpy() == pixels).sum())
        origin.logits = same.logits
    return origin.logits


def _decode(
    embedded: Embedded, wires: list[dict[str, Any]], *, logits: bool, retries: Retries
) -> Story[list[list[Mask]]]:
    call = Call(
        "POST",
        "decode",
        json={"image_id": embedded.image_id, "prompts": wires, "return_logits": logits},
    )
    try:
        response = yield from _ask(call, retries)
    except ImageNotFound:
        if embedded.picture is None:
            raise
        yield from embed(embedded.picture, image_id=embedded.image_id, replace=False, retries=retries)
        response = yield from _ask(call, retries)
    try:
        return [list(_read_masks(prediction, embedded, wire)) for prediction, wire in _pairs(response, wires)]
    except (ValueError, LookupError, TypeError) as error:
        raise unexpected(response, error) from error


def _ask(call: Call, retries: Retries) -> Story[httpx.Response]:
    """Send a request, as often as `retries` says, until the reply is a good one. Raises Sam2Error."""
    tried, wait_s = 0, 0.0
    while True:
        tried += 1
        cause: httpx.RequestError | None = None
        try:
            response = yield Attempt(call, wait_s)
        except httpx.RequestError as error:
            failure, cause = _transport_failure(error), error
        else:
            if response.is_success:
                return response
            failure = error_of(response)
        again = retries.wait_s(failure, tried=tried)
        if again is None:
            raise failure from cause
        wait_s = again


def _transport_failure(error: httpx.RequestError) -> Sam2Error:
    url = error.request.url
    server = f"{url.scheme}://{url.netloc.decode()}"
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"No reply of {server} in time ({type(error).__name__}).")
    return ConnectionFailed(f"No connection to {server}: {why}.")


def _read_embedded(response: httpx.Response, picture: Picture | None) -> Embedded:
    try:
        reply = response.json()
        return Embedded(
            image_id=str(reply["image_id"]),
            width=int(reply["width"]),
            height=int(reply["height"]),
            model=str(reply["model"]),
            cached=bool(reply.get("cached", True)),
            picture=picture,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise unexpected(response, error) from error


def _pairs(
    response: httpx.Response, wires: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return zip(response.json()["predictions"], wires, strict=True)


def _read_masks(prediction: dict[str, Any], embedded: Embedded, wire: dict[str, Any]) -> Iterator[Mask]:
    for value in prediction["masks"]:
        yield Mask.from_dict(value, origin=Origin(embedded, wire, value.get("logits")))


def _image_path(image_id: str) -> str:
    return f"images/{quote(image_id, safe='')}"
