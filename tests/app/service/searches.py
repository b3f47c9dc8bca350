"""Requests for /everything whose client may go away, and a service that takes one batch at a time."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.settings import Settings
from tests.fakes import FakeSegmenter, Served, picture, serving

LINES = "application/x-ndjson"
FOUND = {"points_per_side": 8, "stability_score_thresh": 0.5, "pred_iou_thresh": 0.4}


@dataclass
class Caller:
    """A client whose connection may be lost, which httpx's transport cannot play."""

    body: bytes
    sent: list[MutableMapping[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    asked: bool = False

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(m["body"]) for m in self.sent if m["type"] == "http.response.body" and m["body"]]

    def request(self, served: Served, *, accept: str = LINES) -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/everything",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"accept", accept.encode())],
        }
        return asyncio.create_task(served.app(scope, self.receive, self.send))  # type: ignore[arg-type]


def asking(**options: Any) -> Caller:
    return Caller(json.dumps({"image_id": "dots", **FOUND, **options}).encode())


class Stepping(FakeSegmenter):
    """While `held`, closes its gate behind each decode batch."""

    def __init__(self) -> None:
        super().__init__(hold=self._step)
        self.held = False

    def _step(self) -> None:
        if self.held and self.order[-1] == "decode":
            self._wait_at_gate()
            self.gate.clear()


@asynccontextmanager
async def stepping(settings: Settings | None = None) -> AsyncIterator[tuple[Served, Stepping]]:
    """A service with a picture called dots, where every batch waits for the gate and closes it behind it."""
    model = Stepping()
    async with serving(settings, model) as served:
        await served.embed(picture(), "dots")
        await served.click("dots")
        while model._entered.acquire(blocking=False):
            pass
        model.held = True
        model.gate.clear()
        try:
            yield served, model
        finally:
            model.held = False
            model.gate.set()
