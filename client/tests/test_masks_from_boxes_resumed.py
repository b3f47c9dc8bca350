"""`sam2 masks-from-boxes` after a cut: it goes on where it was, and only with the same boxes."""

from pathlib import Path
from typing import Any

import pytest
from box_files import COMMAND, box_set, boxed, read, write
from client_server import Served

from sam2_client.command import main
from sam2_client.journal import Journal

pytestmark = pytest.mark.usefixtures("commanded")


def test_a_cut_run_goes_on_where_it_was(
    photos: Path, served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        box_set(
            boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [-1, 1, 9, 9]), boxed(3, 30, [1, 1, 9, 9], score=0.5)
        )
    )
    assert main(COMMAND) == 0
    uncut = read()
    real = Journal.__setitem__

    def keep(self: Journal, key: str, value: Any) -> None:
        real(self, key, value)
        if len(self) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "__setitem__", keep)
        assert main([*COMMAND, "--concurrency", "1"]) == 130
    assert "stopped: 2 of 3 pictures are done" in capsys.readouterr().err
    served.trouble.asked.clear()
    assert main(COMMAND) == 0
    assert served.trouble.asked.count("POST /decode") == 1
    assert "1 boxes clipped" in capsys.readouterr().out, "of the first part too"
    assert read() == uncut
    assert not Path("out.json.partial").exists()


def test_another_file_of_boxes_does_not_take_over_a_journal(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = box_set(boxed(1, 7, [1, 1, 9, 9]), boxed(2, "b", [1, 1, 9, 9]))
    (photos / "b.PNG").unlink()
    write(content)
    assert main(COMMAND) == 1
    content["annotations"][0]["bbox"][0] = 2
    write(content)
    assert main(COMMAND) == 1
    assert "a run has done so far that differs in boxes:" in capsys.readouterr().err
