"""Where the command `sam2` writes to is full, closed, or read no further."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sam2_client.command import main

pytestmark = pytest.mark.usefixtures("commanded")


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    "arguments",
    [
        "decode photos/a.png --point 30,20 -o full.png",
        "decode photos/a.png --point 30,20 -o full.json",
        "decode photos/a.png --point 30,20 --overlay full.png",
        "export prompts.jsonl --coco /dev/full",
    ],
)
def test_a_full_disk_is_said_with_the_file(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.jsonl").write_text('{"picture": "photos/a.png", "box": [20, 10, 40, 30]}\n', "utf-8")
    for name in ("full.png", "full.json"):
        Path(name).symlink_to("/dev/full")
    assert main(arguments.split()) == 1
    assert re.search(r"No space left on device: '(/dev/full|full\.(png|json))'", capsys.readouterr().err)


_KEEPING = """
from pathlib import Path
from sam2_client.journal import Journal
with Journal(Path("out.json"), {}) as journal:
    journal["a.png"] = "x" * 1000
"""


@pytest.mark.skipif(sys.platform == "win32", reason="by a shell of Unix")
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_full_disk_is_said_with_the_file_of_what_is_done(blocks: int) -> None:
    """Full at the start of a long run, or once a picture is done."""
    shell = f'ulimit -f {blocks}; exec "$0" -c "$1"'
    done = subprocess.run(  # noqa: S603  # ourselves
        ["/bin/sh", "-c", shell, sys.executable, _KEEPING],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large: 'out.json.partial'"


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(sys.platform == "win32", reason="by a shell of Unix")
def test_a_reader_that_has_enough_ends_the_command_without_a_word() -> None:
    client = str(Path(__file__).parent.parent)
    done = subprocess.run(  # ourselves
        [
            "/bin/sh",
            "-c",
            '{ "$0" -m sam2_client embed photos/a.png; echo $? >code; } | true',
            sys.executable,
        ],
        env={**os.environ, "PYTHONPATH": client},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stderr, Path("code").read_text("utf-8").strip()) == ("", "141")


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(sys.platform == "win32", reason="by a shell of Unix")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(
    "arguments", ["embed photos", "everything photos --coco out.json --points-per-side 2"]
)
def test_closed_output_ends_nothing(arguments: str, closed: str) -> None:
    client = str(Path(__file__).parent.parent)
    done = subprocess.run(  # noqa: S603  # ourselves
        ["/bin/sh", "-c", f'exec "$0" -m sam2_client {arguments} {closed}', sys.executable],
        env={**os.environ, "PYTHONPATH": client},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
