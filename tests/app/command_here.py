"""The command `sam2-serve` in this process, for tests."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable

import pytest

from app import __main__ as command
from tests.fakes import LONG_S


def serve_until(
    story: Callable[[str], None], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run the command, call `story` with its address in a thread, then send SIGTERM. Return exit code and log."""
    log: list[str] = []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                log.append(capsys.readouterr().err)
                if found := re.search(r"Listening on (http://\S+);", "".join(log)):
                    story(found[1])
                    return
                time.sleep(0.01)
            raise TimeoutError("the server never listened")
        except BaseException as failure:
            failures.append(failure)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    # Ignore the signal until Uvicorn catches it. It does so before it logs the line that starts the story.
    signal.signal(signal.SIGTERM, lambda *_: None)
    watcher.start()
    code = command.main(["--port", "0", "--checkpoint", "untrained", *arguments])
    watcher.join()
    if failures:
        raise failures[0]
    return code, "".join(log) + capsys.readouterr().err
