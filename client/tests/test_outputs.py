"""What commands write never takes the place of what they read."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box_files import COMMAND, box_set, boxed, write

from sam2_client import coco
from sam2_client.command import main

pytestmark = pytest.mark.usefixtures("commanded")
A_REPLY = {"picture": "truck.png", "predictions": []}


@pytest.mark.usefixtures("photos", "truck")
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["everything", "photos/b.PNG", "--coco", "photos/a.png"], "photos/a.png"),  # --coco photos/*
        (["masks-from-boxes", "boxes.json", "photos", "-o", "photos/a.png"], "photos/a.png"),
        (["masks-from-boxes", "boxes.json", "photos", "-o", "photos/../boxes.json"], "boxes.json"),
        (["export", "reply.json", "--coco", "reply.json"], "reply.json"),
        (["export", "other.json", "--coco", "reply.json"], "reply.json"),  # --coco *.json
        (["track", "truck.png", "truck.png", "--point", "9,9", "--coco", "truck.png"], "truck.png"),
        (["decode", "truck.png", "--point", "9,9", "-o", "truck.png"], "truck.png"),
        (["decode", "truck.png", "--point", "9,9", "--overlay", "link.png"], "truck.png"),
        (["decode", "truck.png", "--point", "9,9", "--cutout", "./truck.png"], "truck.png"),
    ],
)
def test_a_file_that_is_read_is_not_replaced(
    arguments: list[str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9])))
    for name in ("reply.json", "other.json"):
        Path(name).write_text(json.dumps(A_REPLY))
    Path("link.png").symlink_to("truck.png")
    before = Path(file).read_bytes()
    assert main(arguments) == 2
    assert "name another file" in capsys.readouterr().err
    assert Path(file).read_bytes() == before
    assert not list(Path().rglob("*.partial"))


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("before", [b"", b'\xef\xbb\xbf{ "info": {}}', b"of mine"])
def test_text_is_replaced(before: bytes) -> None:
    write(box_set(boxed(1, 7, [1, 1, 9, 9])))
    Path("out.json").write_bytes(before)
    assert main(COMMAND) == 0
    assert len(json.loads(Path("out.json").read_bytes())["annotations"]) == 1


@pytest.mark.usefixtures("photos")
@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names")
def test_a_pipe_takes_a_data_set_of_export_but_no_long_run(
    truck: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "reply.json"]) == 0
    read, written = os.pipe()
    pipe = f"/dev/fd/{written}"
    with os.fdopen(written, "w") as standard_output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", standard_output)
        assert main(["export", "reply.json", "--coco", pipe]) == 0
    with os.fdopen(read, "rb") as file:
        assert len(json.load(file)["annotations"]) == 1, "and nothing beside it"
    assert "1 annotations" in capsys.readouterr().err
    assert main(["everything", "photos", "--coco", os.devnull]) == 2
    assert "/dev/null is not a file, and the run keeps what is done beside it" in capsys.readouterr().err


@pytest.mark.usefixtures("truck")
@pytest.mark.skipif(sys.platform == "win32", reason="by a shell of Unix")
@pytest.mark.parametrize(
    ("options", "file"),
    [(["-o"], "mask.png"), (["-o"], "mask.json"), (["--overlay"], "over.png"), (["--cutout"], "cut.png")],
)
def test_a_full_disk_leaves_what_was_there(options: list[str], file: str) -> None:
    command = ["decode", "truck.png", "--point", "30,20", *options, file]
    assert main(command) == 0
    before, files = Path(file).read_bytes(), sorted(Path().iterdir())
    done = subprocess.run(  # noqa: S603  # ourselves
        ["/bin/sh", "-c", 'ulimit -f 0; exec "$0" -m sam2_client "$@"', sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, f"'{file}'" in done.stderr) == (1, True), done.stderr
    assert Path(file).read_bytes() == before
    assert sorted(Path().iterdir()) == files


def test_of_two_that_write_one_data_set_the_last_one_stays() -> None:
    file = Path("out.json")

    def images() -> Iterator[dict[str, Any]]:
        yield {"id": 1}
        coco.write(file, {"images": [{"id": number} for number in range(9)]})  # as another process
        assert len(json.loads(file.read_text())["images"]) == 9
        yield {"id": 2}

    coco.write(file, {"images": images()})
    assert json.loads(file.read_text()) == {"images": [{"id": 1}, {"id": 2}]}
    assert [*Path().iterdir()] == [file]
