"""A server of weights that cuts, ignores, lies and refuses as real ones do."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
VARIANT = "sam2_hiera_tiny"
FILE = "sam2_hiera_tiny.pt"
PART = f"{FILE}.part"


@dataclass
class Web:
    """A web server with one file; the fields say how it misbehaves."""

    content: bytes = CONTENT
    statuses: list[int] = field(default_factory=list)
    """Answers of the first requests; later ones get the file."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the first answers break off."""
    ranges: bool = True
    longest: int = len(CONTENT)
    """Bytes in the longest range it sends."""
    shift: int = 0
    """What 206 answers begin too late by."""
    gate: threading.Event = field(default_factory=threading.Event)
    """No answer before it is set."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    sent: list[int] = field(default_factory=list)
    """Bytes of body sent to each request."""
    paths: list[str] = field(default_factory=list)
    encodings: list[str | None] = field(default_factory=list)
    """The Accept-Encoding header of each request."""
    url: str = ""

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Answer nothing until the end of this block."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        self.paths.append(request.path)
        self.encodings.append(request.headers.get("Accept-Encoding"))
        self.gate.wait()
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if asked and self.ranges:
            start += self.shift
            request.send_response(206)
            end = min(len(self.content), start + self.longest)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.content)}")
        else:
            end = len(self.content)
            request.send_response(200)
        body = self.content[start:end]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        body = body[: self.cuts.pop(0)] if self.cuts else body
        self.sent.append(len(body))
        request.wfile.write(body)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
