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

from sam2_client.error_replies import error_of, error_of_transport
from sam2_client.pictures import Picture
from sam2_client.retries import Retries
from sam2_client.step_lines import MEDIA_TYPE, OnStep
from sam2_client.tracked import TrackedFrame

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
    is_stream: bool = False
    """Whether the reply is lines that are read while they come, see FrameStory."""
    on_step: OnStep | None = None
    """If given, the reply is asked for as lines, and this is called at each step."""

    @property
    def has_lines(self) -> bool:
        """Whether the reply is asked for as lines."""
        return self.is_stream or self.on_step is not None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request with its body. Reads the picture's file. Raises OSError and PictureChanged."""
        query = dict(self.query) or None
        headers = {"Accept": f"{MEDIA_TYPE}, application/json"} if self.has_lines else {}
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


@dataclass(frozen=True, slots=True)
class NextPiece:
    """One step of a story of frames: read on in the reply to the last call, whose `is_stream` is set.

    The story receives some bytes, or none at the end.
    """


FrameStory: TypeAlias = Generator[Attempt | NextPiece | TrackedFrame, Any, None]
"""A story that has results before its end: it yields each TrackedFrame when it is there."""


def ask(
    call: Call, retries: Retries, *, wait_s: float = 0.0, again: Call | None = None
) -> Story[httpx.Response]:
    """Send a request until it succeeds, as often as `retries` allows. Raises Sam2Error.

    `again` is sent instead once it is not known whether the server got the call. What is raised then has the
    failure of the connection as its cause.
    """
    sent, tried = call, 0
    cause: Exception | None = None
    while True:
        tried += 1
        try:
            response = yield Attempt(sent, wait_s)
        except httpx.RequestError as error:
            failure, cause = error_of_transport(error), error
            sent = again or call
        else:
            if response.is_success:
                return response
            failure = error_of(response)
        pause = retries.wait_s(failure, tried=tried)
        if pause is None:
            raise failure from cause
        if failure.status == 502:  # a proxy lost the server
            sent, cause = again or call, failure
        wait_s = pause
