"""Ctrl-C while requests wait: the process ends, whatever the server does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from box_files import COMMAND, box_set, boxed, write
from client_server import Served

from sam2_client import Client
from sam2_client.workers import NAME
from tests.fakes import LONG_S

pytestmark = pytest.mark.usefixtures("commanded")
CLIENT = Path(__file__).parent.parent
WAIT_LONGER = (503, {"Retry-After": "29"}, b"")


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send Ctrl-C to another one")
@pytest.mark.parametrize(
    "arguments", [["embed", "photos"], ["everything", "photos", "--coco", "out.json"], COMMAND]
)
def test_a_command_ends_at_ctrl_c_and_not_when_its_requests_end(served: Served, arguments: list[str]) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [1, 1, 9, 9])))
    first = [] if arguments[0] == "embed" else [(200, {}, httpx.get(f"{served.url}/model").content)]
    served.trouble.asked.clear()
    served.trouble.replies[:] = [*first, *[WAIT_LONGER] * 9]
    process = subprocess.Popen(  # noqa: S603  # ourselves
        [sys.executable, "-m", "sam2_client", *arguments], env={**os.environ, "PYTHONPATH": str(CLIENT)}
    )
    try:
        end = time.monotonic() + LONG_S
        while "POST /embed" not in served.trouble.asked:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG_S) == 130, "within 20 s, and the requests wait for 29"
    finally:
        process.kill()
        process.wait()


def test_embed_many_ends_at_an_interrupt(
    client: Client, served: Served, truck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sam2_client.images.Progress.count", interrupt)
    served.segmenter.gate.clear()
    later = threading.Timer(LONG_S / 4, served.segmenter.gate.set)
    later.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            client.embed_many([truck, "missing.png"], progress=False)
        assert not served.segmenter.gate.is_set(), "the picture that waits was not waited for"
        assert served.trouble.asked in ([], ["POST /embed"])
    finally:
        later.cancel()
        served.segmenter.gate.set()
        for thread in threading.enumerate():
            if thread.name == NAME:
                thread.join(LONG_S)
