"""What all tests share: async tests run in an event loop of their own, and nothing of the outside is read."""

import asyncio
import gc
import inspect
import os

import pytest


def pytest_collection_finish() -> None:
    """What is imported stays; without it, to collect what a test left behind takes a fifth of a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests. One fails, too, where asyncio has reason to complain: of lost exceptions, say."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    complaints: list[object] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await pyfuncitem.obj(**arguments)
        gc.collect()  # lost exceptions are complained of when their tasks are

    asyncio.run(story())
    assert complaints == []
    return True


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SAM2_")]:
        monkeypatch.delenv(name)
