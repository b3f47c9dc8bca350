"""Which files of a folder the commands read: what is linked, what is hidden, what cannot be read."""

import os
from pathlib import Path
from typing import Any

import pytest

from sam2_client import Client
from sam2_client.command import main
from tests.fakes import picture

pytestmark = pytest.mark.usefixtures("commanded")


def names(printed: str) -> list[str]:
    return [line.split("\t")[1] for line in printed.splitlines()]


@pytest.mark.parametrize(
    "suffix", [".jfif", ".JPE", ".heif"]
)  # as Windows, old programs and telephones write them
def test_rarer_names_of_pictures_are_known(
    suffix: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / f"rare{suffix}").write_bytes(picture(30, 20))
    assert main(["embed", "photos"]) == 0
    assert f"photos/rare{suffix}" in names(capsys.readouterr().out)


def test_a_folder_that_is_linked_to_is_read_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk2" / "deep").mkdir(parents=True)
    (tmp_path / "disk2" / "deep" / "d.png").write_bytes(picture(30, 20))
    (tmp_path / "beside.png").write_bytes(picture(31, 20))
    links = {"a-link": tmp_path / "disk2", "z-link": tmp_path / "disk2", "again": photos / "more"}
    for name, target in {**links, "self": photos, "up": tmp_path, "all": Path("/")}.items():
        (photos / name).symlink_to(target, target_is_directory=True)
    (photos / "gone.png").symlink_to("nowhere.png")
    assert main(["embed", "photos"]) == 0
    printed = capsys.readouterr()
    assert "left out photos/gone.png: they are links to nothing, or no files" in printed.err
    assert names(printed.out) == [
        "photos/a-link/deep/d.png",
        "photos/a.png",
        "photos/b.PNG",
        "photos/more/c.png",
    ]


def test_what_is_hidden_is_left_out_unless_it_is_named(
    photos: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "._a.png").write_bytes(b"\0\5\x16\7 of macOS")
    (photos / ".trash").mkdir()
    (photos / ".trash" / "old.png").write_bytes(picture(30, 20))
    (photos / ".DS_Store").write_bytes(b"")
    assert main(["everything", "photos", "--coco", "out.json", "--points-per-side", "2"]) == 0
    assert "left out photos/._a.png, photos/.trash: they are hidden" in capsys.readouterr().err
    assert main(["embed", "photos/.trash", "photos/._a.png"]) == 1
    printed = capsys.readouterr()
    assert names(printed.out) == ["photos/.trash/old.png"]
    assert "photos/._a.png: " in printed.err
    for file in ("b.PNG", "notes.txt"):
        (photos / file).unlink()
    with client.track(photos) as track:
        assert track.frames == 1


def test_labels_of_yolo_are_found_in_the_same_way(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "c.txt").write_text("0 0.5 0.5 0.2 0.2")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "more").symlink_to(tmp_path / "real", target_is_directory=True)
    (labels / "._a.txt").write_bytes(b"\0\5\x16\7\xff")
    assert main(["masks-from-boxes", "labels", "photos", "-o", "out.json"]) == 0


def test_a_folder_that_cannot_be_read_is_a_line(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refuse(folder: Any) -> Any:
        if os.fspath(folder) == os.path.join("photos", "more"):  # noqa: PTH118
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["embed", "photos"]) == 0
    printed = capsys.readouterr()
    assert "sam2: left out photos/more: Permission denied" in printed.err
    assert names(printed.out) == ["photos/a.png", "photos/b.PNG"]


@pytest.mark.parametrize("pattern", ["pho*", "photos/**", "**/photos", "photos/*"])
def test_a_pattern_may_match_folders(photos: Path, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "notes.txt").unlink()
    assert main(["embed", pattern]) == 0
    assert sorted(names(capsys.readouterr().out)) == [
        "photos/a.png",
        "photos/b.PNG",
        "photos/more/c.png",
    ]
