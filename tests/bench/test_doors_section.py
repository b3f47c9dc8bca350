"""Tests the section doors itself: its requests are answered, and what it notes of an event loop."""

from pathlib import Path

from app.settings import Settings
from tests.bench.door_requests import TOOLS, large_bodies
from tests.bench.probes.loop_probe import Notes
from tests.bench.report import BODIES, SEND_PICTURES
from tests.fakes import serving


async def test_every_door_answers_the_requests_of_the_bench() -> None:
    bodies = large_bodies("fake", megabytes=0.1)
    assert tuple(bodies) == BODIES
    assert tuple(tool.name for tool in TOOLS if tool.sends_picture) == SEND_PICTURES
    async with serving(Settings(workers=2)) as served:
        for name, stream in bodies.items():
            (body,) = stream.bodies
            headers = {"Content-Type": stream.content_type} | dict(stream.headers)
            reply = await served.client.request(stream.method, stream.path, content=body, headers=headers)
            assert reply.status_code == 200, (name, reply.text)


def test_the_longest_of_each_is_noted_until_it_is_forgotten(tmp_path: Path) -> None:
    written, read = Notes(tmp_path / "notes"), Notes(tmp_path / "notes")
    written.add(0.002, 0.001, 0.0005)
    written.add(0.001, 0.0015, 0.0001)
    assert (read.read().delay_ms, read.read().hold_ms, read.read().work_ms) == (2, 1.5, 0.5)
    read.forget()
    assert read.read().delay_ms == 0
