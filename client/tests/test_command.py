"""The command `sam2`, as people type it, against the real service on a real port."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from client_server import Served
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from app.settings import unknown_variables
from sam2_client import Client
from sam2_client.command import main
from tests.fakes import RADII, disc_mask, picture
from tests.server import free_port


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_server(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.trouble.replies.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2_URL", served.url)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for shade, name in enumerate(["a.png", "b.PNG", "more/c.png"]):
        (folder / name).write_bytes(picture(60 + shade, 40, shade=shade))
    (folder / "notes.txt").write_text("no picture")
    return folder


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
        (["decode", "truck.png", "--box", "1,2,3,x"], "'1,2,3,x' is not X0,Y0,X1,Y1"),
        (["export", "replies"], "--coco"),
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
    for arguments, what in [
        (["decode", "nowhere.png", "--point", "1,1"], "nowhere.png"),
        (
            ["decode", "truck.png", "--point", "999,1"],
            "too far outside the picture of 60 x 40 pixels: at most by",
        ),
        (["decode", "truck.png", "--point", "1,1", "-o", "mask.xyz"], ".xyz"),
        (["embed", "truck.png", "--url", "ftp://host"], "no address of a server"),
        (["export", "truck.png", "--coco", "out.json"], "no reply of /decode"),
    ]:
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert what in error
        assert error.startswith("sam2: ")
        assert "Traceback" not in error
    monkeypatch.setattr("sam2_client.retries.FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("SAM2_URL", f"http://127.0.0.1:{free_port()}")
    assert main(["decode", "truck.png", "--point", "1,1"]) == 1
    assert "No connection to http://127.0.0.1" in capsys.readouterr().err


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


def test_export_joins_replies_to_what_pycocotools_loads(
    truck: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = Path("replies")
    replies.mkdir()
    for name, file, label, point in [
        ("1", "truck.png", "truck", "30,20"),
        ("2", "truck.png", "wheel", "10,20"),
        ("3", "photos/b.PNG", "truck", "40,20"),
    ]:
        decode = ["decode", file, "--point", point, "--label", label]
        assert main([*decode, "-o", f"replies/{name}.json"]) == 0
    (replies / "settings.json").write_text("[1]")
    (replies / "half.json").write_text('{"pred')
    capsys.readouterr()
    assert main(["export", "replies", "--coco", "replies/out.json"]) == 0
    assert "3 annotations" in capsys.readouterr().out
    assert main(["export", "replies/*.json", "--coco", "replies/out.json"]) == 0, "again, over its own output"
    data = COCO("replies/out.json")
    assert {image["file_name"] for image in data.imgs.values()} == {"truck.png", "photos/b.PNG"}
    assert {category["name"] for category in data.cats.values()} == {"truck", "wheel"}
    for annotation in data.anns.values():
        image = data.imgs[annotation["image_id"]]
        mask = data.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert annotation["bbox"] == coco_mask.toBbox(data.annToRLE(annotation)).tolist()
        assert 0 < annotation["score"] <= 1
    truck_id = next(number for number, image in data.imgs.items() if image["file_name"] == "truck.png")
    assert len(data.getAnnIds(imgIds=[truck_id])) == 2


def test_export_decodes_prompts_in_json_lines(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"picture": "a.png", "label": "left", "point_coords": [[15, 20]], "point_labels": [1]},
        {"picture": "more/c.png", "box": [10, 10, 30, 30]},
        {"picture": "a.png", "label": "right", "point_coords": [[45, 20]], "multimask_output": False},
        {"picture": "nowhere.png", "box": [10, 10, 30, 30]},
        {"picture": "b.PNG", "box": [30, 10, 10, 30]},
    ]
    (photos / "prompts.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert main(["export", "photos/prompts.jsonl", "--coco", "out.json"]) == 1
    printed = capsys.readouterr()
    assert "photos/nowhere.png: No such file or directory" in printed.err
    assert "photos/b.PNG: prompts[0]: box" in printed.err
    data = COCO("out.json")
    assert [image["file_name"] for image in data.imgs.values()] == ["a.png", "more/c.png"]
    masks = {data.cats[a["category_id"]]["name"]: data.annToMask(a) for a in data.anns.values()}
    assert np.array_equal(masks["left"], disc_mask(15, 20, RADII[2], height=40, width=60))
    assert np.array_equal(masks["right"], disc_mask(45, 20, RADII[1], height=40, width=60))
    assert np.array_equal(masks["object"], disc_mask(20, 20, RADII[1], height=40, width=62))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 1: Expecting"),
        ('{"box": [1, 2, 3, 4]}', "line 1: it has no picture"),
        ('{"picture": "a.png", "bbox": [1, 2, 3, 4]}', "line 1: unknown bbox"),
    ],
)
def test_export_says_which_line_is_wrong(capsys: pytest.CaptureFixture[str], line: str, what: str) -> None:
    Path("prompts.jsonl").write_text(line)
    assert main(["export", "prompts.jsonl", "--coco", "out.json"]) == 1
    error = capsys.readouterr().err
    assert what in error
    assert "nothing to export" in error
    assert not Path("out.json").exists()


def test_export_tells_two_pictures_of_one_name_apart(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert main(["decode", "truck.png", "--point", "30,20", "-o", f"{number}.json"]) == 0
        truck.write_bytes(picture(70, 40))
    capsys.readouterr()
    assert main(["export", "1.json", "2.json", "--coco", "out.json"]) == 1
    assert "truck.png is 60 x 40 in one reply and 70 x 40" in capsys.readouterr().err


def test_export_leaves_out_empty_masks(truck: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "truck.png", "--point", "30,20", "-o", "full.json"]) == 0
    assert main(["decode", "truck.png", "--point=-60,-40", "-o", "empty.json"]) == 0
    assert main(["export", "full.json", "empty.json", "--coco", "out.json"]) == 0
    printed = capsys.readouterr()
    assert "1 images, 1 annotations" in printed.out
    assert "1 masks were empty" in printed.err


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
