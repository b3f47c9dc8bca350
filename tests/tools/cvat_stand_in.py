"""As much of CVAT's server as an agent of cvat-cli needs: one task with one frame, one function and its queue.

Does not know about masks.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_NONE = {"count": 0, "next": None, "previous": None, "results": []}
_CHANGED = "2026-11-01T00:00:00Z"
FUNCTION = 7
TASK = 1


class Wanted(NamedTuple):
    """An annotation request that a user made."""

    params: dict[str, Any]
    before: Callable[[], object] = lambda: None
    """Called before an agent gets the request."""


@dataclass
class StandIn:
    """What the server holds, and what agents told it."""

    frame: bytes
    """A picture file."""
    size: tuple[int, int]
    """Width and height."""
    queue: list[Wanted] = field(default_factory=list)
    function: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    """For each request in order: the agent's result, or `exc_info`, why it failed."""
    frames_sent: int = 0

    def reply(self, method: str, path: str, query: str, body: dict[str, Any]) -> object:
        """Return JSON or the bytes of a picture; None for an unknown path."""
        match method, path.strip("/").split("/")[1:]:
            case "GET", ["server", "about"]:
                return {
                    "name": "CVAT",
                    "description": "",
                    "version": "2.80.0",
                    "logo_url": "",
                    "subtitle": "",
                }
            case "POST", ["functions"]:
                self.function = {
                    "id": FUNCTION,
                    "min_neg_points": -1,
                    "startswith_box": False,
                    "startswith_box_optional": False,
                    **body,
                }
                return self.function
            case "GET", ["functions", _]:
                return self.function
            case "POST", ["functions", "queues", _, "requests", "acquire"]:
                return {"ar_assignment": self._next(body["request_category"])}
            case "POST", ["functions", "queues", _, "requests", _, "complete" | "fail"]:
                self.answers.append(body)
                return {}
            case "GET", ["tasks", _]:
                return self._task()
            case "GET", ["labels"]:
                return _NONE
            case "GET", ["tasks", _, "data", "meta"]:
                return self._meta()
            case "GET", ["tasks", _, "data"] if "type=frame" in query:
                self.frames_sent += 1
                return self.frame
        return None

    def _next(self, category: str) -> dict[str, Any] | None:
        if category != "interactive" or not self.queue:
            return None
        wanted = self.queue.pop(0)
        wanted.before()
        params = {"type": "interact", "task": TASK, "frame": 0, **wanted.params}
        return {"ar_id": f"r{len(self.answers)}", "ar_params": params}

    def _task(self) -> dict[str, Any]:
        return {
            "id": TASK,
            "organization": None,
            "name": "task",
            "size": 1,
            "data_chunk_size": 1,
            "data_original_chunk_type": "imageset",
            "updated_date": _CHANGED,
            "jobs": {"count": 0, "completed": 0, "validation": 0, "url": ""},
            "labels": {"url": ""},
        }

    def _meta(self) -> dict[str, Any]:
        width, height = self.size
        frame = {
            "width": width,
            "height": height,
            "name": "1.jpg",
            "related_files": 0,
            "has_related_context": False,
        }
        return {"chunks_updated_date": _CHANGED, "frames": [frame], "deleted_frames": [], "size": 1}


@contextmanager
def standing_in(server: StandIn) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1. Yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            address = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            reply = server.reply(self.command, address.path, address.query, body)
            is_picture = isinstance(reply, bytes)
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(404 if reply is None else 200)
            self.send_header("Content-Type", "image/jpeg" if is_picture else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815  # the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()
