"""Requests under way: started without waiting for them, and held up by a click that keeps the device busy."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx

from tests.fakes import Served, picture


def start(*calls: Coroutine[Any, Any, httpx.Response]) -> list[asyncio.Task[httpx.Response]]:
    """Requests under way."""
    return [asyncio.create_task(call) for call in calls]


async def block(served: Served) -> asyncio.Task[httpx.Response]:
    """Keep the device busy with a click on a picture named "blocked", until the gate opens."""
    await served.embed(picture(shade=255), "blocked")
    await served.segmenter.wait_until_entered()  # that was the encoder
    served.segmenter.gate.clear()
    (blocking,) = start(served.click("blocked"))
    await served.segmenter.wait_until_entered()
    return blocking


def waiting_prompts(served: Served) -> int:
    """Prompts in the queue of the decoder."""
    return served.service._decoder.waiting
