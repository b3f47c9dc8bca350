"""Starts requests without waiting for them, and blocks them with a click that keeps the device busy."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx

from tests.fakes import Served, picture


def start(*calls: Coroutine[Any, Any, httpx.Response]) -> list[asyncio.Task[httpx.Response]]:
    """Start requests. Return their tasks."""
    return [asyncio.create_task(call) for call in calls]


async def block(served: Served) -> asyncio.Task[httpx.Response]:
    """Keep the device busy with a click on a picture named "blocked", until the gate opens."""
    await served.embed(picture(shade=255), "blocked")
    await served.segmenter.wait_until_entered()  # the encoder's batch
    served.segmenter.gate.clear()
    (blocking,) = start(served.click("blocked"))
    await served.segmenter.wait_until_entered()
    return blocking


def waiting_prompts(served: Served) -> int:
    """Return the number of prompts in the decoder's queue."""
    return served.service._decoder.waiting
