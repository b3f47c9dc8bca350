"""Files of prompts in JSON lines as editors and systems write them, and lines that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from sam2_client import coco, rle
from sam2_client.command import main
from sam2_client.prompt_lines import read_prompt_lines
from tests.fakes import picture

LABELS = ["plain", "a\u2028b", "a\u2029b", "a\x85b", "b\u00e4r", "\u6c49"]
LINES = [
    json.dumps({"picture": f"{number}.png", "label": label, "box": [1, 2, 30, 20]}, ensure_ascii=False)
    for number, label in enumerate(LABELS)
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\r\n \t\r\n"])
def test_lines_are_read_as_systems_write_them(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "prompts.jsonl"
    for text in (end.join(LINES), end.join(LINES) + end):
        file.write_bytes(text.encode(encoding))
        assert [getattr(line, "label", line) for line in read_prompt_lines(file)] == LABELS


def test_a_label_of_null_is_none(tmp_path: Path) -> None:
    """It was the category "None"."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"picture": "a.png", "label": null, "box": [1, 2, 30, 20]}')
    assert [getattr(line, "label", line) for line in read_prompt_lines(file)] == ["object"]
    mask = {
        "rle": rle.encode(np.ones((2, 2), bool)),
        "iou": 1,
        "stability": 1,
        "area": 4,
        "bbox": [0, 0, 2, 2],
    }
    reply = {"image_id": "a", "label": None, "width": 2, "height": 2, "predictions": [{"masks": [mask]}]}
    file.write_text(json.dumps(reply))
    assert [each.label for each in coco.read_reply(file)] == ["object"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"picture": "a.png", "box": [1, 2, 3, 4], "box": [1, 2, 30, 40]}', "box is given more than once"),
        ('{"picture": "a.png", "picture": "a.png", "box": [1, 2, 3, 4]}', "picture is given more than once"),
        (
            '{"picture": "a.png", "mask_input": {"size": [1, 2], "counts": [1, 1], "counts": [2]}}',
            "counts is given more than once",
        ),
        ('{"picture": "a.png", "point_coords": [[1, 2]], "point_labels": [2]}', "each label must be 1"),
        ('{"picture": "a.png", "point_coords": [[1, 2]], "point_labels": [1, 1]}', "1 points but 2 labels"),
        ('{"picture": "a.png", "point_coords": [[NaN, 2]]}', "not finite"),
        ('{"picture": "a.png", "box": [1, 2, 3]}', "must be x0, y0, x1, y1"),
        ('{"picture": null, "box": [1, 2, 3, 4]}', "picture is None"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(f"{LINES[0]}\r\n\r\n{line}\r\n{LINES[1]}\r\n".encode())
    before, message, after = read_prompt_lines(file)
    assert isinstance(message, str)
    assert message.startswith(f"{file}, line 3: ")
    assert words in message
    assert [getattr(each, "picture", "") for each in (before, after)] == ["0.png", "1.png"], (
        "the rest is done"
    )


@pytest.mark.usefixtures("commanded")
def test_export_reads_them_by_any_case_of_their_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    Path("0.png").write_bytes(picture(60, 40))
    Path("PROMPTS.JSONL").write_bytes(LINES[0].encode("utf-8-sig"))
    assert main(["export", "PROMPTS.JSONL", "--coco", "out.json"]) == 0
    assert "1 annotations" in capsys.readouterr().out
    Path("zip.jsonl").write_bytes(b"PK\x03\x04\xff\xfe")
    assert main(["export", "zip.jsonl", "--coco", "out.json"]) == 1
    assert "zip.jsonl is not a text file" in capsys.readouterr().err
