"""Servers that share a folder and are killed at random moments, as a process of its own: see test_kill.py.

    python -m tests.app.killed_servers FOLDER ROUNDS

Writes to FOLDER/said.N what each server acknowledged, one JSON array a line: what, image id, shade, and when by
time.monotonic(). The last line is when it was killed.
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
"""Servers that run side by side."""

SAID_AT_LEAST = 6
"""Lines of each server, a second and more before it is killed, however slow the machine is."""


def settings(folder: Path) -> Settings:
    """Little memory, so that embeddings come from the disk too."""
    return Settings(workers=2, cache_dir=str(folder / "cache"), device_cache_mib=1, keep_uploads=True)


async def work(folder: Path, server: int) -> None:
    """Embed, decode and delete, and write down every reply, until killed."""
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
    """How many it has by now."""
    return path.read_text().count("\n") if path.exists() else 0


def main() -> None:
    """Start and kill."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    servers = iter(range(rounds * AT_ONCE))
    for _ in range(rounds):
        running = {}
        for server in (next(servers), next(servers)):
            # A fork has everything imported already: rounds take as long as their load.
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
