"""The body of a request that may hold a picture: read within the limits, and parsed where it holds nobody up.

Does not know what the fields mean.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from fastapi import Request

from app.middleware.callers import share_of
from app.routes.body_budget import BodyBudget, max_body_bytes
from app.routes.state import budget_of, service_of

Parsed = TypeVar("Parsed")

PARSED_ON_LOOP_BYTES = 8 * 1024
"""Bodies and messages shorter than this are parsed on the event loop, where it takes 0.1 ms; others in a worker."""


def body_of(request: Request, *, budget: BodyBudget | None = None) -> AbstractAsyncContextManager[bytes]:
    """Yield the body of a request. Its bytes count for the client until the block ends.

    They count in the budget of all bodies, unless another one is given. Raises as BodyBudget.read.
    """
    max_upload_mib = service_of(request).settings.max_upload_mib
    return (budget or budget_of(request)).read(
        request,
        max_bytes=max_body_bytes(max_upload_mib),
        limit=f"{max_upload_mib} MiB (SAM2_MAX_UPLOAD_MIB)",
        share=share_of(request),
    )


async def parsed(request: Request, body: bytes, parse: Callable[[bytes], Parsed]) -> Parsed:
    """Return what `parse` makes of a body: in a worker, if it is more than a few kilobytes. Raises as `parse`."""
    if len(body) < PARSED_ON_LOOP_BYTES:
        return parse(body)
    return await service_of(request).work(partial(parse, body), share=share_of(request))
