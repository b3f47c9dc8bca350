"""Fixtures for tests of app/: those of HTTP that hold for a service in this process and on devices elsewhere."""

import pytest

from tests import fakes


@pytest.fixture(params=["local", "remote"])
def either_service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: with the service in this process, and with a Front before a fake device."""
    monkeypatch.setattr(fakes, "devices_are_elsewhere", request.param == "remote")
