"""`sam2 everything`: a COCO file of all objects of many pictures, and what a cut or a bad picture leaves of it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from client_server import Served
from pycocotools.coco import COCO

from sam2_client import Client, Sam2Error
from sam2_client.command import main
from sam2_client.journal import Journal
from tests.fakes import RADII, disc_mask, picture
from tests.server import free_port

pytestmark = pytest.mark.usefixtures("commanded")
SOME = ["--points-per-side", "2", "--stability-score-thresh", "0.5", "--pred-iou-thresh", "0.95"]
"""Finds the fake's largest discs around four clicks."""
COMMAND = ["everything", "photos", "--coco", "out.json", *SOME]


def read(file: str = "out.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def cut_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the command once so many pictures are in the journal."""
    real = Journal.__setitem__

    def keep(self: Journal, key: str, value: Any) -> None:
        real(self, key, value)
        if len(self) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "__setitem__", keep)


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("form", [[], ["--polygons"], ["--polygons", "--simplify", "1"]])
def test_pycocotools_loads_every_object(capsys: pytest.CaptureFixture[str], form: list[str]) -> None:
    assert main([*COMMAND, *form, "--concurrency", "2"]) == 0
    assert "out.json: 3 images, 12 annotations, 1 categories" in capsys.readouterr().out
    data = COCO("out.json")
    assert [image["file_name"] for image in data.imgs.values()] == [
        "photos/a.png",
        "photos/b.PNG",
        "photos/more/c.png",
    ]
    assert [category["name"] for category in data.cats.values()] == ["object"]
    assert list(data.anns) == list(range(1, 13))
    for image in data.imgs.values():
        width, height = image["width"], image["height"]
        expected = [
            disc_mask(x * width, y * height, RADII[2], height=height, width=width)
            for x in (0.25, 0.75)
            for y in (0.25, 0.75)
        ]
        for annotation in data.loadAnns(data.getAnnIds(imgIds=[image["id"]])):
            mask = data.annToMask(annotation)
            assert any((mask != each).mean() < (0.01 if "1" in form else 1e-9) for each in expected)
            assert annotation["area"] == pytest.approx(mask.sum(), rel=0.1)
            assert (annotation["iscrowd"], annotation["score"]) == (0, 1)
            assert 0 < annotation["stability"] < 1
            assert isinstance(annotation["segmentation"], list if form else dict)
    assert not Path("out.json.partial").exists()


def test_files_folders_and_patterns_name_each_picture_once(photos: Path) -> None:
    arguments = ["everything", "photos/a.png", "photos/*.png", "photos/more", "--coco", "out.json"]
    assert main([*arguments, *SOME, "--max-masks", "1"]) == 0
    data = read()
    assert [image["file_name"] for image in data["images"]] == ["photos/a.png", "photos/more/c.png"]
    assert len(data["annotations"]) == 2


def test_bad_pictures_are_a_line_each_and_the_rest_is_done(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.PNG").write_bytes(b"no picture")
    command = ["everything", "photos", "gone.png", "--coco", "out.json", *SOME]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "sam2: photos/b.PNG: The" in error
    assert "sam2: gone.png: No such file or directory" in error
    assert "2 of 4 pictures failed; the same command tries only these again" in error
    assert [image["file_name"] for image in read()["images"]] == ["photos/a.png", "photos/more/c.png"]


def test_a_second_run_tries_only_what_failed(
    photos: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.PNG").write_bytes(b"no picture")
    assert main(COMMAND) == 1
    (photos / "b.PNG").write_bytes(picture(70, 40, shade=9))
    served.trouble.asked.clear()
    assert main(COMMAND) == 0
    assert served.trouble.asked.count("POST /everything") == 1
    assert [image["width"] for image in read()["images"]] == [60, 70, 62]
    assert len(read()["annotations"]) == 12
    assert not Path("out.json.partial").exists()


@pytest.mark.usefixtures("photos")
def test_a_cut_run_goes_on_where_it_was(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*COMMAND, "--concurrency", "1"]) == 0
    uncut = read()
    Path("out.json").write_text("the last good one")
    with monkeypatch.context() as patched:
        cut_after(2, patched)
        assert main([*COMMAND, "--concurrency", "1"]) == 130
    assert "stopped: 2 of 3 pictures are done and kept in out.json.partial" in capsys.readouterr().err
    assert Path("out.json").read_text() == "the last good one"
    with Path("out.json.partial").open("ab") as journal:
        journal.write(b'["photos/more/c.png", {"sta')  # the disk was full
    served.trouble.asked.clear()
    assert main([*COMMAND, "--concurrency", "1"]) == 0
    assert served.trouble.asked.count("POST /everything") == 1
    assert read() | {"info": None} == uncut | {"info": None}


def test_a_changed_picture_is_segmented_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        cut_after(2, patched)
        assert main([*COMMAND, "--concurrency", "1"]) == 130
    (photos / "a.png").write_bytes(picture(90, 40, shade=7))
    assert main(COMMAND) == 0
    assert [image["width"] for image in read()["images"]] == [90, 61, 62]


@pytest.mark.usefixtures("photos")
def test_a_journal_of_another_run_is_not_mixed_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        cut_after(1, patched)
        assert main([*COMMAND, "--concurrency", "1"]) == 130
    assert main([*COMMAND, "--max-masks", "1"]) == 1
    assert (
        "out.json.partial is what a run has done so far that differs in options:" in capsys.readouterr().err
    )
    for foreign in ("mine\n", "mine", '["mine", {}]\n'):
        Path("out.json.partial").write_text(foreign)
        assert main(COMMAND) == 1
        assert "move it away" in capsys.readouterr().err
        assert Path("out.json.partial").read_text() == foreign
    other_run = '["sam2 journal 1", {"options": 5}]\n'
    for begun in ("", '["sam2 jou', other_run, other_run + '["photos/a.png", {'):
        Path("out.json.partial").write_text(begun)
        assert main(COMMAND) == 0


@pytest.mark.usefixtures("photos")
def test_two_runs_do_not_write_one_journal(capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(Path("out.json"), {}) as journal:
        journal["photos/a.png"] = {}
        assert main(COMMAND) == 1
        assert "another run is writing out.json.partial: wait for its end" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_a_server_that_is_gone_ends_the_run_and_not_each_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam2_client.retries.FIRST_WAIT_S", 0.001)
    gone = f"http://127.0.0.1:{free_port()}"
    real = Client.embed
    seen: list[object] = []

    def embed(self: Client, source: Any, *_: Any, **__: Any) -> Any:
        seen.append(source)
        if len(seen) == 1:
            return real(self, source)
        self._pool.http.base_url = gone
        return real(self, source)

    monkeypatch.setattr(Client, "embed", embed)
    assert main([*COMMAND, "--concurrency", "1"]) == 1
    error = capsys.readouterr().err
    assert len(seen) == 2
    assert "stopped: 1 of 3 pictures are done" in error
    assert "[connection_failed]" in error


@pytest.mark.usefixtures("photos")
def test_one_broken_connection_is_one_failed_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.embed

    def embed(self: Client, source: Any, *_: Any, **__: Any) -> Any:
        if str(source).endswith("b.PNG"):
            from sam2_client import ConnectionFailed

            raise ConnectionFailed("cut")
        return real(self, source)

    monkeypatch.setattr(Client, "embed", embed)
    assert main(COMMAND) == 1
    assert "sam2: photos/b.PNG: cut\n" in capsys.readouterr().err
    assert len(read()["images"]) == 2


def test_one_bar_counts_all_pictures_and_lines_stay_whole(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "b.PNG").write_bytes(b"no picture")
    assert main(COMMAND) == 1
    assert "%|" not in capsys.readouterr().err, "no bar in a file"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "2/3" in error, "what an earlier run did is counted"
    assert "3/3" in error
    assert "failed=1" in error
    assert re.search(r"(?:^|[\n\r])sam2: photos/b.PNG: The [^\r\n]*\n", error)


@pytest.mark.usefixtures("photos")
def test_concurrency_is_bounded(served: Served) -> None:
    served.trouble.most_at_once = 0
    assert main([*COMMAND, "--concurrency", "1"]) == 0
    assert served.trouble.most_at_once == 1
    served.trouble.most_at_once = 0
    assert main([*COMMAND, "--concurrency", "2"]) == 0
    assert served.trouble.most_at_once <= 2


@pytest.mark.usefixtures("photos")
def test_options_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def everything(self: Any, **options: Any) -> list[Any]:
        asked.append(options)
        raise Sam2Error("enough")

    monkeypatch.setattr("sam2_client.client.Image.everything", everything)
    more = ["--box-nms-thresh", "0.5", "--crop-n-layers", "1", "--min-mask-region-area", "9"]
    assert main(["everything", "photos/a.png", "--coco", "out.json", *SOME, *more, "--max-masks", "3"]) == 1
    (options,) = asked
    with pytest.raises(InterruptedError):  # so that a run that was stopped stops the server's work too
        options.pop("progress")(0.5, 1)
    assert options == {
        "points_per_side": 2,
        "pred_iou_thresh": 0.95,
        "stability_score_thresh": 0.5,
        "box_nms_thresh": 0.5,
        "crop_n_layers": 1,
        "min_mask_region_area": 9,
        "max_masks": 3,
    }
    assert not Path("out.json").exists()
    assert not Path("out.json.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["everything", "photos"], 2, "--coco"),
        (["everything", "photos", "--coco", "photos"], 2, "is a folder"),
        (
            ["everything", "photos", "--coco", "o.json", "--simplify", "1"],
            2,
            "--simplify requires --polygons",
        ),
        (["everything", "photos", "--coco", "o.json", "--pred-iou-thresh", "2"], 2, "not a number of 0..1"),
        (["everything", "photos/more/empty", "--coco", "o.json"], 1, "there are no pictures"),
        (["everything", "photos", "--coco", "nowhere/o.json"], 2, "there is no folder nowhere"),
        (["everything", "*.jpg", "--coco", "o.json"], 1, "no file matches *.jpg"),
    ],
)
def test_wrong_usage_is_said_before_any_work(
    photos: Path,
    served: Served,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    what: str,
) -> None:
    (photos / "more" / "empty").mkdir()
    served.trouble.asked.clear()
    try:
        found: object = main(arguments)
    except SystemExit as end:
        found = end.code
    assert found == code
    assert what in capsys.readouterr().err
    assert "POST /embed" not in served.trouble.asked


def test_an_option_that_the_server_refuses_ends_the_run_at_the_first_picture(
    served: Served, photos: Path, truck: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        (photos / f"{number}.png").write_bytes(picture(70 + number, 40))
    served.trouble.asked.clear()
    assert main([*COMMAND, "--points-per-side", "100000", "--concurrency", "2"]) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "left out" not in each]
    assert line.startswith("sam2: points_per_side: Input should be less than or equal to 256")
    assert served.trouble.asked.count("POST /embed") <= 4
    assert not Path("out.json.partial").exists()
