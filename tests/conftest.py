"""Setup for all tests: each async test gets its own event loop, and settings from outside are ignored."""

import asyncio
import gc
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.done_once import do_once
from tests.postgres import PostgresServer, running_postgres

settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")
do_once()


_LONGEST = {"golden", "training", "test_examples.py", "test_server_killed_behind_haproxy.py"}
"""Folders and files, of half a minute and more."""


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, which would otherwise take a fifth of a second per test."""
    spare_what_stays()


@cache
def spare_what_stays(path: Path | None = None) -> None:
    """Exclude what is there now from garbage collection, once a file: caches grow, and libraries import more."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run the tests: twice the cores, because many wait for servers and browsers."""
    return 2 * min(4, os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that at the end no process works alone on one of them."""
    items.sort(key=lambda item: not _LONGEST.intersection(item.path.parts))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests. A test also fails if asyncio reports an error, for example a lost exception."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    spare_what_stays(pyfuncitem.path)
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    complaints: list[object] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await pyfuncitem.obj(**arguments)
        gc.collect()  # asyncio reports lost exceptions when their tasks are collected

    asyncio.run(story())
    assert complaints == []
    return True


@pytest.fixture(autouse=True)
def _no_log_on_a_closed_stream() -> Iterator[None]:
    """Undo what `sam2-serve` sets up for its log: it would write to this test's captured stderr in later ones."""
    root = logging.getLogger()
    before, level = set(root.handlers), root.level
    yield
    for handler in set(root.handlers) - before:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _tiny_numbers_are_not_zero() -> Iterator[None]:
    """Undo what commands set for their thread (model/cpu/threads.py): Hypothesis needs these numbers later."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SAM2_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL, for all tests of this process."""
    with running_postgres() as server:
        yield server
