"""The command `sam2` against the real service on a real port."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from client_server import Served
from PIL import Image

from app.settings import unknown_variables
from sam2_client import Client
from sam2_client.command import main
from tests.fakes import RADII, disc_mask
from tests.server import free_port

pytestmark = pytest.mark.usefixtures("commanded")


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["photos/a.png", "photos/b.PNG"], ["photos/a.png", "photos/b.PNG"]),
        (["photos"], ["photos/a.png", "photos/b.PNG", "photos/more/c.png"]),
        (["photos/*.png"], ["photos/a.png"]),
        (["photos/**/*.png"], ["photos/a.png", "photos/more/c.png"]),
    ],
)
def test_embed_prints_an_id_for_each_file(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], files: list[str]
) -> None:
    assert main(["embed", *arguments]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [file for _, file in printed] == files
    with Client(served.url) as client:
        assert [client.image(image_id).height for image_id, _ in printed] == [40] * len(files)


@pytest.mark.usefixtures("photos")
def test_embed_does_the_rest_where_one_file_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "photos/notes.txt", "nowhere.png", "photos/a.png"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("\tphotos/a.png\n")
    assert "sam2: photos/notes.txt: The body" in printed.err
    assert "sam2: nowhere.png: No such file or directory" in printed.err


def test_a_pattern_that_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "*.jpg"]) == 1
    assert capsys.readouterr().err == "sam2: no file matches *.jpg\n"


def test_decode_writes_mask_overlay_and_reply(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["decode", "truck.png", "--point", "30,20", "--label", "truck"]
    assert main([*command, "-o", "mask.png", "-o", "truck.json", "--overlay", "over.png"]) == 0
    wanted = disc_mask(30, 20, RADII[2], height=40, width=60)
    assert np.array_equal(np.asarray(Image.open("mask.png")), wanted * 255)
    over = np.asarray(Image.open("over.png"))
    assert np.array_equal(over.any(axis=2), wanted), "the picture is black"
    printed = capsys.readouterr().out
    assert "60 x 40 pixels, fake" in printed
    assert "IoU 1.000  stability 0.8" in printed
    assert len(printed.splitlines()) == 4
    reply = json.loads(Path("truck.json").read_text())
    assert (reply["picture"], reply["label"], reply["width"]) == ("truck.png", "truck", 60)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == reply


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_decode_reads_a_pipe_once_for_the_mask_and_its_overlay(truck: Path) -> None:
    """The overlay read it again, and then said that Pillow cannot read this kind of picture."""
    os.mkfifo("pipe")
    content = truck.read_bytes()
    writing = threading.Thread(target=lambda: Path("pipe").write_bytes(content), daemon=True)
    writing.start()
    assert main(["decode", "pipe", "--point", "30,20", "--overlay", "over.png"]) == 0
    writing.join()
    assert np.asarray(Image.open("over.png")).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("options", "points", "box"),
    [
        (["--point", "-5,10"], [(-5, 10)], None),
        (["--point=-5,10"], [(-5, 10)], None),
        (["--point", "-.5,-1e1"], [(-0.5, -10)], None),
        (["--point", "5,5", "--not", "-5,10", "--point", "-1,-2"], [(5, 5), (-1, -2), (-5, 10)], None),
        (["--box", "-10,-10,50,30"], [], (-10, -10, 50, 30)),
        (["--box", "-10, -10, 50, 30"], [], (-10, -10, 50, 30)),
        (["--bo", "-1.5,2,50,30", "--json"], [], (-1.5, 2, 50, 30)),
    ],
)
def test_numbers_may_be_negative(
    served: Served,
    truck: Path,
    options: list[str],
    points: list[tuple[float, float]],
    box: tuple[float, ...] | None,
) -> None:
    assert main(["decode", str(truck), *options]) == 0
    (sent,) = served.segmenter.decoded[-1]
    assert (sent.points, sent.box) == (tuple(points), box)


def test_the_arguments_of_the_process_may_be_negative_too(
    truck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sam2", "decode", "truck.png", "--point", "-5,10"])
    assert main() == 0


@pytest.mark.usefixtures("photos")
def test_embed_says_which_files_of_a_folder_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/more/.thumbs").write_bytes(b"")
    assert main(["embed", "photos"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    (line,) = printed.err.splitlines()
    assert line.startswith(
        "sam2: left out photos/more/.thumbs, photos/notes.txt: their names do not end in .avif,"
    )
    for number in range(30):
        Path(f"photos/{number}.txt").write_text("")
    assert main(["embed", "photos"]) == 0
    error = capsys.readouterr().err
    assert error.count(".txt") == 20
    assert " and 12 more: " in error
    assert main(["embed", "photos/a.png"]) == 0
    assert capsys.readouterr().err == ""


def test_decode_sends_clicks_of_both_kinds_and_a_box(served: Served, truck: Path) -> None:
    clicks = ["--point", "30,20", "--not", "10,10.5", "--point=-1,3", "--box", "1,2,50,30"]
    assert main(["decode", str(truck), *clicks]) == 0
    (sent,) = served.segmenter.decoded[-1]
    assert (sent.points, sent.labels) == (((30, 20), (-1, 3), (10, 10.5)), (1, 1, 0))
    assert sent.box == (1, 2, 50, 30)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["decode", "truck.png"], "nothing to segment"),
        (["decode", "truck.png", "--point", "30"], "'30' is not X,Y"),
        (["decode", "truck.png", "--point", "-30"], "'-30' is not X,Y"),
        (["decode", "truck.png", "--point", "nan,1"], "'nan,1' is not X,Y"),
        (["decode", "truck.png", "--box", "-inf,1,2,3"], "'-inf,1,2,3' is not X0,Y0,X1,Y1"),
        (["decode", "truck.png", "--json", "-3,5"], "--json: ignored explicit argument"),
        (["decode", "truck.png", "--box", "1,2,3,x"], "'1,2,3,x' is not X0,Y0,X1,Y1"),
        (
            ["decode", "truck.png", "--point", "1,1", "--max-hole-area", "-1"],
            "'-1' is not a number of at least 0",
        ),
        (["decode", "truck.png", "--point", "1,1", "--max-sprinkle-area", "nan"], "'nan' is not a number"),
        *(
            (
                ["decode", "truck.png", "--point", "1,1", option, file],
                f"{option} {file}: this cannot be written",
            )
            for option, file in (
                ("-o", "m.xyz"),
                ("--overlay", "m"),
                ("--cutout", "m.json"),
                ("--cutout", "m.jpg"),
            )
        ),
        (["embed", ""], "a name is empty"),  # "$FOLDER", which is not set: not all of this folder
        (["everything", "", "--coco", "out.json"], "a name is empty"),
        (["track", "truck.png", "--point", "1,1", "-o", ""], "a name is empty"),
        (["export", "1.json", "--coco", "no/out.json"], "there is no folder no"),
        (["export", "replies"], "--coco"),
        (["export", "1.json", "--coco", "out.json", "--simplify", "2"], "--simplify requires --polygons"),
        (["embed", "truck.png", "--concurrency", "0"], "at least 1"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_ends_with_2(
    truck: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert what in capsys.readouterr().err


def test_what_fails_is_said_in_a_line(
    served: Served, truck: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    Path("failed.json").write_text('{"error": {"code": "image_not_found", "message": "No embedding"}}')
    for arguments, what in [
        (["decode", "nowhere.png", "--point", "1,1"], "nowhere.png"),
        (
            ["decode", "truck.png", "--point", "999,1"],
            "too far outside the picture of 60 x 40 pixels: at most by",
        ),
        (["embed", "truck.png", "--url", "ftp://host"], "not the address of a server"),
        (["export", "truck.png", "--coco", "out.json"], "not a reply of /decode: it is no text"),
        (["export", "failed.json", "--coco", "out.json"], "it is an error: No embedding"),
        (["embed", "empty"], "there are no pictures"),
    ]:
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert len(error) < 300
        assert what in error
        assert error.startswith("sam2: ")
        assert "Traceback" not in error
    monkeypatch.setattr("sam2_client.retries.FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("SAM2_URL", f"http://127.0.0.1:{free_port()}")
    assert main(["decode", "truck.png", "--point", "1,1"]) == 1
    assert "The connection to http://127.0.0.1" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(truck: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "embed", interrupt)
    assert main(["decode", "truck.png", "--point", "30,20"]) == 130


def test_the_key_comes_from_the_environment_or_an_option(
    served: Served, truck: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_API_KEY", "from-environment")
    assert main(["embed", "truck.png"]) == 0
    assert served.trouble.headers["authorization"] == "Bearer from-environment"
    assert main(["embed", "truck.png", "--api-key", "given"]) == 0
    assert served.trouble.headers["authorization"] == "Bearer given"
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    assert "from-environment" not in capsys.readouterr().out


def test_the_server_knows_the_clients_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_API_KEY", "key")
    assert unknown_variables() == []


def test_clean_up_and_a_cutout(served: Served, truck: Path) -> None:
    clean_up = ["--max-hole-area", "9999", "--max-sprinkle-area", "0"]
    assert main(["decode", str(truck), "--point", "30,20", "-o", "plain.png", "--cutout", "cutout.png"]) == 0
    assert main(["decode", str(truck), "--point", "30,20", "-o", "filled.png", *clean_up]) == 0
    assert np.asarray(Image.open("filled.png")).all(), "background along the border counts as a hole"
    plain, cutout = np.asarray(Image.open("plain.png")), Image.open("cutout.png")
    y, x = np.nonzero(plain)
    assert cutout.mode == "RGBA"
    box = plain[y.min() : y.max() + 1, x.min() : x.max() + 1]
    assert np.array_equal(np.asarray(cutout)[..., 3], box)


def test_python_m_runs_the_command() -> None:
    client = Path(__file__).parent.parent
    done = subprocess.run(  # ourselves
        [sys.executable, "-m", "sam2_client", "--version"],
        cwd=client,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("sam2-client ")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_standard_output_cannot_write_ends_nothing(
    truck: Path, tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.fsdecode(b"caf\xe9.png")
    for name in (old, "d\u00e9j\u00e0.png"):
        Path(name).write_bytes(truck.read_bytes())
    printed = io.TextIOWrapper(io.BytesIO(), encoding)  # strict, as of a terminal
    monkeypatch.setattr("sys.stdout", printed)
    assert main(["embed", old, "d\u00e9j\u00e0.png", "truck.png"]) == 0
    assert main(["decode", old, "--point", "30,20", "-o", "old.json"]) == 0
    assert main(["export", "old.json", "--coco", f"{old}.json", "--yolo", f"{old}.yolo"]) == 0
    printed.seek(0)
    first, second, third, *_ = printed.read().splitlines()
    assert first.endswith("\tcaf\\udce9.png")
    assert second.split("\t")[1] == ("d\u00e9j\u00e0.png" if encoding == "utf-8" else "d\\xe9j\\xe0.png")
    assert third.endswith("\ttruck.png")


def test_pillow_does_not_say_how_large_a_picture_may_be(
    truck: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mask,) = client.embed(truck).decode(box=(5, 5, 25, 25))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 60 * 40 // 2 - 1)
    with pytest.raises(OSError, match=r"opens none so large.*MAX_IMAGE_PIXELS is None"):
        mask.cutout(truck)
    assert main(["decode", str(truck), "--box", "5,5,25,25", "--cutout", "cut.png"]) == 0
    with Image.open("cut.png") as cutout:
        assert cutout.size == mask.cutout(truck).size
