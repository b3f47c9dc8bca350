"""What long runs have in common."""

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from box_files import COMMAND, box_set, boxed, read, write
from client_server import Served

from sam2_client import Client, Image, Model, RateLimited
from sam2_client.command import main

pytestmark = pytest.mark.usefixtures("commanded")


LONG_RUNS = pytest.mark.parametrize(
    "arguments", [["everything", "photos", "--coco", "out.json", "--points-per-side", "2"], COMMAND]
)


@pytest.mark.usefixtures("photos")
@LONG_RUNS
def test_a_run_ends_when_the_server_has_another_model(
    served: Served,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [1, 1, 9, 9]), boxed(3, 30, [1, 1, 9, 9])))
    real = Client.model

    def before(client: Client) -> Model:
        return replace(real(client), name="sam2_hiera_tiny")

    with monkeypatch.context() as patched:
        patched.setattr(Client, "model", before)
        assert main([*arguments, "--concurrency", "1"]) == 1
    error = capsys.readouterr().err
    assert "sam2: the server has another model now, fake; sam2_hiera_tiny began this run" in error
    assert error.count("another model") == 1, "and not for each picture"
    assert not Path("out.json").exists()
    assert main(arguments) == 0


@pytest.mark.usefixtures("photos")
@LONG_RUNS
def test_a_complete_run_leaves_no_journal_though_nobody_reads_what_it_prints(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9])))
    reader, written = os.pipe()
    os.close(reader)
    with os.fdopen(written, "w", buffering=1) as standard_output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", standard_output)
        assert main(arguments) == 141, "the end that SIGPIPE gives a program"
    assert read()["annotations"]
    assert not list(Path().glob("*.partial"))


@pytest.mark.usefixtures("photos")
@LONG_RUNS
def test_a_run_over_the_clients_limits_waits_for_its_turn(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9])))
    real, refusals = Client.embed, [RateLimited("Slowly.", retry_after_s=0)] * 3

    def limited(client: Client, picture: Path) -> Image:
        if refusals:
            raise refusals.pop()
        return real(client, picture)

    monkeypatch.setattr(Client, "embed", limited)
    assert main(arguments) == 0
    assert read()["annotations"]
    assert not refusals


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
@LONG_RUNS
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_obstacle(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    write(box_set(boxed(1, 7, [1, 1, 9, 9])))
    monkeypatch.setattr("fcntl.flock", flock)
    assert main(arguments) == 0
    assert read()["annotations"]
