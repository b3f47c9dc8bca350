"""What a GPU may do to a server that nothing on a CPU shows: captures amid other threads, a context that is lost.

Does not know about speed.
"""

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import monotonic, sleep

import httpx

from model.types import Prediction, Prompt
from tests.bench.gpu_checks import REPLAY_TOLERANCE, worst_difference
from tests.bench.gpu_profile import probe
from tests.bench.gpu_session import Session, embeddings, large_picture
from tests.bench.traffic import tiny_bitmap
from tests.server import free_port

THREADS = 8
"""Hold predictions and drop them, as the threads do that shape the server's replies."""

FIRST_MET = 3
"""Shapes that are met first while one picture is encoded."""

_BITMAP = {"Content-Type": "image/bmp"}

EXIT_CODE, EXIT_WITHIN_S = 3, 20.0
"""How a server ends whose device is lost, and how soon."""


def probe_races(session: Session) -> None:
    """Pinned memory that others free during a capture: on one stream, and with a stream for captures alone."""
    if session.device != "cuda":
        print("race probe: left out, no GPU", flush=True)
        return
    probe(session, "race_probe")
    probe(session, "race_probe", "separate")


def check_concurrency(session: Session) -> None:
    """Shapes that are met first while large pictures are encoded and others drop predictions: same answers."""
    quiet = session.timed
    fresh = session.runner(session.variant, checkpoint=session.checkpoint, dtype="auto")
    batches = list(islice(_batches(), 4 if session.rehearse else 40))
    (there,), (here,) = embeddings(quiet, 1), embeddings(fresh, 1)
    expected = [quiet.decode([(there, prompt) for prompt in batch]) for batch in batches]
    held: queue.SimpleQueue[Prediction | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=_hold_and_drop, args=(held,), daemon=True) for _ in range(THREADS)]
    errors: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = errors.append  # type: ignore[method-assign]
    logging.getLogger("model").addHandler(handler)
    for thread in threads:
        thread.start()
    waiting, worst, refused, allowed = list(enumerate(batches)), 0.0, 0, 0

    def decode_one() -> None:
        nonlocal worst, refused, allowed
        if not waiting or not allowed:
            return
        allowed -= 1
        place, batch = waiting.pop(0)
        try:
            found = fresh.decode([(here, prompt) for prompt in batch])
        except RuntimeError as error:
            refused += 1
            session.wrong(f"a batch of {len(batch)} amid uploads: {error}")
            return
        worst = max(worst, worst_difference(found, expected[place]))
        for prediction in found:
            held.put(prediction)

    picture = large_picture(2 if session.rehearse else 24)
    encodes = 0
    try:
        while waiting or encodes < (1 if session.rehearse else 20):
            allowed = FIRST_MET
            fresh.encode([picture], between=decode_one)
            encodes += 1
    finally:
        for _ in threads:
            held.put(None)
        logging.getLogger("model").removeHandler(handler)
    values = {"batches": len(batches), "refused": refused, "errors_logged": len(errors), "error": worst}
    session.add("hazards", f"new shapes amid {encodes} large pictures and {THREADS} threads", **values)
    if not worst <= REPLAY_TOLERANCE:
        session.wrong(f"answers amid uploads differ by {worst:.2g} from the quiet ones")
    if errors:
        session.wrong("amid uploads: " + "; ".join(record.getMessage() for record in errors[:5]))


def _batches() -> Iterator[list[Prompt]]:
    """Batches of ever other shapes: of one to eight clicks, of one to sixteen prompts."""
    for size in (1, 2, 4, 8, 16):
        for clicks in range(1, 9):
            points = tuple((200.0 + 90 * i, 300.0 + 50 * size) for i in range(clicks))
            yield [Prompt(points=points, labels=(1,) * clicks)] * size


def _hold_and_drop(held: "queue.SimpleQueue[Prediction | None]") -> None:
    while (prediction := held.get()) is not None:
        sleep(0.001)
        del prediction


def check_lost_device(session: Session) -> None:
    """A server whose GPU faults under its second picture: it says so, and ends for its supervisor."""
    port, log = free_port(), session.results.folder / "lost-device.log"
    settings = {"SAM2_PORT": str(port), "SAM2_DEVICE": session.device, "SAM2_DEVICE_CACHE_MIB": "256"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM2_")}
    command = [sys.executable, "-m", "tests.bench.gpu_fault"]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=clean | settings, stdout=file, stderr=file)
    try:
        base = f"http://127.0.0.1:{port}"
        _await_readiness(base, process, log)
        reply = httpx.post(f"{base}/embed", content=tiny_bitmap(0), headers=_BITMAP, timeout=60)
        statuses = [reply.raise_for_status().status_code]
        began = monotonic()
        code = None
        while (code := process.poll()) is None and monotonic() - began < EXIT_WITHIN_S:
            try:
                number = len(statuses)
                reply = httpx.post(f"{base}/embed", content=tiny_bitmap(number), headers=_BITMAP, timeout=10)
                statuses.append(reply.status_code)
            except httpx.TransportError:
                sleep(0.1)
            if session.rehearse and len(statuses) > 5:
                break
        seconds = monotonic() - began
    finally:
        process.kill()
        process.wait()
    session.results.note("said", f"statuses of /embed: {statuses[:20]}, exit code {code}")
    values = {"exit_code": -1 if code is None else code, "s": seconds, "replies_of_500": statuses.count(500)}
    session.add("hazards", "a GPU that faults under the server", **values)
    if code != EXIT_CODE and not session.rehearse:
        session.wrong(f"a server whose GPU is lost ended with {code}, not with {EXIT_CODE}")


def _await_readiness(base: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    began = monotonic()
    while True:
        try:
            if httpx.get(f"{base}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or monotonic() - began > 90:
            raise TimeoutError(f"the server is not ready; its log ends with:\n{log.read_text()[-2000:]}")
        sleep(0.1)
