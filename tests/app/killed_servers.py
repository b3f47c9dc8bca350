"""Runs servers that share a folder, and kills them at random moments. test_kill.py runs this as its own process.

    python -m tests.app.killed_servers FOLDER ROUNDS

Writes to FOLDER/said.N what each server acknowledged, one JSON array per line: what, image id, shade, and the time
from time.monotonic(). The last line has the time when the server was killed.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from app.settings import Settings
from tests.fakes import picture, serving

AT_ONCE = 2
"""Number of servers that run concurrently."""

SAID_AT_LEAST = 6
"""Lines that each server must have written a second or more before it is killed, even on a slow machine."""


def settings(folder: Path) -> Settings:
    """Return settings with little memory, so that embeddings are also read from disk."""
    return Settings(workers=2, cache_dir=str(folder / "cache"), device_cache_mib=1, keep_uploads=True)


async def work(folder: Path, server: int) -> None:
    """Embed, decode and delete until killed. Record every acknowledged upload and delete."""
    said = os.open(folder / f"said.{server}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with serving(settings(folder)) as served:
        for i in range(1_000_000):
            name, shade = f"{server}-{i}", random.randrange(256)  # noqa: S311
            reply = await served.embed(picture(60 + i, 40, shade=shade), name)
            assert reply.status_code == 200, reply.text
            os.write(said, json.dumps(["embed", name, shade, time.monotonic()]).encode() + b"\n")
            reply = await served.click(name)
            assert reply.status_code == 200, reply.text
            if i % 3 == 0:
                assert (await served.client.delete(f"/images/{name}")).status_code == 204
                os.write(said, json.dumps(["delete", name, shade, time.monotonic()]).encode() + b"\n")


def lines(path: Path) -> int:
    """Return the number of lines that a file has so far."""
    return path.read_text().count("\n") if path.exists() else 0


def main() -> None:
    """Start servers and kill them."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    servers = iter(range(rounds * AT_ONCE))
    for _ in range(rounds):
        running = {}
        for server in (next(servers), next(servers)):
            # A fork has everything imported already, so a round takes no longer than its load.
            if (child := os.fork()) == 0:
                asyncio.run(work(folder, server))
            running[server] = child
        while min(lines(folder / f"said.{server}") for server in running) < SAID_AT_LEAST:
            time.sleep(0.01)
        time.sleep(random.uniform(1.0, 1.4))  # noqa: S311
        for server, child in running.items():
            os.kill(child, signal.SIGKILL)
            killed = time.monotonic()
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it ended before it was killed"
            with (folder / f"said.{server}").open("a") as said:
                said.write(json.dumps(["killed", "", 0, killed]) + "\n")


if __name__ == "__main__":
    main()
