"""A server does not hold the event loop at its first requests for what FastAPI builds only then.

And its routes, which are served as their modules made them, are made with what all of them have in common.
"""

from typing import Any

import httpx
import pydantic
import pytest
from fastapi.routing import APIRoute

from app import __main__ as command
from app.main import create_app, prepare_routes
from app.routes.field_errors import check_query
from app.settings import Settings
from tests.fakes import FakeSegmenter


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Gets an entry for each validator that is built from now on."""
    found: list[object] = []
    build = pydantic.TypeAdapter.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        found.append(given)
        build(self, *given, **named)

    monkeypatch.setattr(pydantic.TypeAdapter, "__init__", noted)
    return found


async def test_the_first_requests_build_nothing_any_more(built: list[object]) -> None:
    app = create_app(Settings(), segmenter=FakeSegmenter())
    assert not built  # else nothing is left to prepare, and this test proves nothing
    prepare_routes(app)
    assert len(built) > 100
    built.clear()
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
        for path in (
            "/nowhere",
            "/embed",
            "/v1/predict",
            "/sam2/embed_image",
            "/tracks/none",
            "/openapi.json",
        ):
            await client.get(f"http://127.0.0.1{path}")
    assert not built


def test_every_route_checks_its_query_and_describes_its_errors() -> None:
    routes = [r for r in create_app(Settings(doors="all")).routes if isinstance(r, APIRoute)]
    assert len(routes) > 40
    for route in routes:
        assert route.dependencies[0].dependency is check_query, route.path
        assert "default" in route.responses, route.path
        assert route.unique_id == route.name, route.path


def test_the_command_prepares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        """The server would begin next."""

    def tune() -> None:
        raise Enough

    prepared: list[object] = []
    monkeypatch.setattr(command, "prepare_routes", prepared.append)
    monkeypatch.setattr(command, "tune", tune)
    monkeypatch.setattr(command, "locate_weights", lambda settings: None)
    monkeypatch.setattr(command, "bind", lambda host, port: [])
    with pytest.raises(Enough):
        command.main([])
    assert len(prepared) == 1
