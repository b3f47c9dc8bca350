"""What commands write never takes the place of what they read."""

import json
import os
import sys
from pathlib import Path

import pytest
from box_files import COMMAND, box_set, boxed, write

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
