"""What the tests of tracks ask of a service: frames, clicks, propagations and their lines."""

import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.fakes import Served, picture, serving

HEIGHT, WIDTH = 40, 60
CLICK = {"frame": 0, "object": 1, "point_coords": [[30, 20]], "point_labels": [1]}


def with_service(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Run a test with a service of its own as its first argument."""

    @functools.wraps(test)
    async def run(**fields: Any) -> None:
        async with serving() as served:
            await test(served, **fields)

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return run


async def begin(served: Served, frames: int = 4, **fields: Any) -> str:
    """Embed frames f0, f1, ..., and begin a track of them."""
    for number in range(frames):
        await served.embed(picture(shade=number), f"f{number}")
    reply = await served.post("/tracks", {"frames": [f"f{n}" for n in range(frames)], **fields})
    assert reply.status_code == 200, reply.text
    track_id: str = reply.json()["track_id"]
    return track_id


async def click(served: Served, track: str, **fields: Any) -> httpx.Response:
    return await served.post(f"/tracks/{track}/prompts", CLICK | fields)


async def lines(served: Served, track: str, **fields: Any) -> list[dict[str, Any]]:
    reply = await served.post(f"/tracks/{track}/propagate", fields)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(each) for each in reply.text.splitlines()]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    assert found[-1] == {"done": True}
    return [each["frame"] for each in found[:-1]]
