"""One call with its retries, as a generator.

Such a generator is called a "story". It yields an Attempt, then receives the response with `send` or the
transport's error with `throw`, and in the end returns its result. Does not know about sockets, threads and event
loops: the clients send and wait.
"""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import httpx

from sam2_client.errors import error_of, error_of_transport
from sam2_client.pictures import Picture
from sam2_client.retries import Retries
from sam2_client.step_lines import MEDIA_TYPE, OnStep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose body is not built yet. The body is JSON, a picture, or both as a form."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    json: dict[str, Any] | None = None
    picture: Picture | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    """Fields of a form beside `json` that are plain text."""
    on_step: OnStep | None = None
    """If given, the reply is asked for as lines, and this is called at each step."""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request with its body. Reads the picture's file. Raises OSError and PictureChanged."""
        query = dict(self.query) or None
        headers = {"Accept": f"{MEDIA_TYPE}, application/json"} if self.on_step is not None else {}
        if self.picture is not None and self.json is not None:
            files = {"image": ("picture", self.picture.read(), "application/octet-stream")}
            fields = {name: json.dumps(value) for name, value in self.json.items()}
            data = {**self.form, **fields}
            return http.build_request(
                self.method, self.path, params=query, files=files, data=data, headers=headers
            )
        content = None
        if self.picture is not None:
            content = self.picture.read()
            headers["Content-Type"] = "application/octet-stream"
        elif self.json is not None:
            content = json.dumps(self.json).encode()
            headers["Content-Type"] = "application/json"
        return http.build_request(self.method, self.path, params=query, content=content, headers=headers)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One step of a story: wait, then send the call."""

    call: Call
    wait_s: float


Story: TypeAlias = Generator[Attempt, httpx.Response, T]


def ask(call: Call, retries: Retries) -> Story[httpx.Response]:
    """Send a request until it succeeds, as often as `retries` allows. Raises Sam2Error."""
    tried, wait_s = 0, 0.0
    while True:
        tried += 1
        cause: httpx.RequestError | None = None
        try:
            response = yield Attempt(call, wait_s)
        except httpx.RequestError as error:
            failure, cause = error_of_transport(error), error
        else:
            if response.is_success:
                return response
            failure = error_of(response)
        again = retries.wait_s(failure, tried=tried)
        if again is None:
            raise failure from cause
        wait_s = again
