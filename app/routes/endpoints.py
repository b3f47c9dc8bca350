"""Makes the routers, with what all endpoints have in common: their checks, names and errors.

An application serves their routes as they are: `include_router` would build each of them again, 40 ms in all at
start, and look twice for the route of a request. Does not know the endpoints.
"""

from collections.abc import Awaitable, Callable
from operator import attrgetter

from fastapi import APIRouter, Depends, FastAPI
from starlette.types import StatelessLifespan

from app.routes.error_schemas import ErrorReply
from app.routes.field_errors import check_query


def new_router(
    *,
    prefix: str = "",
    check: Callable[..., Awaitable[None]] | None = None,
    include_in_schema: bool = True,
    lifespan: StatelessLifespan[FastAPI] | None = None,
) -> APIRouter:
    """Return a router for endpoints below `prefix`. `check` is a dependency of all of them."""
    checks = [check_query] if check is None else [check_query, check]
    return APIRouter(
        prefix=prefix,
        dependencies=[Depends(each) for each in checks],
        responses={"default": {"description": "Any error.", "model": ErrorReply}},
        # Generated clients have a method decode, not decode_decode_post.
        generate_unique_id_function=attrgetter("name"),
        include_in_schema=include_in_schema,
        lifespan=lifespan,
    )
