"""Reads label folders of YOLO as a data set of boxes in COCO's form.

A label file has a line for each object: the number of its category, then the box's centre, width and height as
shares of the picture's, and perhaps a confidence. The names of categories are in data.yaml or classes.txt, in the
folder or one above it. Format: https://docs.ultralytics.com/datasets/detect/. Does not know where pictures are.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sam2_client import coco
from sam2_client.box_sets import BoxSet, of_document
from sam2_client.named_files import files_below, tell_left_out

_NAME_FILES = ("classes.txt", "obj.names")
_NO_LABELS = {*_NAME_FILES, "train.txt", "val.txt", "test.txt"}
_QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:''|[^'])*'"
_COMMENT = r"(?:\s#.*|\s*)"
_ITEM = re.compile(rf"\s+(\d+)\s*:\s*({_QUOTED}|.*?){_COMMENT}|\s*-\s+({_QUOTED}|.*?){_COMMENT}")
_INLINE = re.compile(rf"(?:(\d+)\s*:\s*)?({_QUOTED}|[^,\s][^,]*)")
_INLINE_COMMENT = re.compile(rf"((?<=[\s\[{{,:])(?:{_QUOTED}))|\s#.*")
_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9A-Fa-f]{2})|U([0-9A-Fa-f]{8}))")
"""Those of YAML that JSON lacks. PyYAML writes \xe9 for é, unless it is told otherwise."""
_NO_FILES = "{} has no label files: name a COCO file, or the folder of YOLO's .txt files"
_LEVELS = 3


def read_yolo(folder: Path) -> BoxSet:
    """Read all label files below a folder. A picture's name is the path of its label file without suffix.

    Raises OSError, and ValueError if there are no label files.
    """
    labels = [file for file in files_below(folder, suffixes={".txt"}) if file.name not in _NO_LABELS]
    if not labels:
        raise ValueError(_NO_FILES.format(folder))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    problems: list[str] = []
    others: list[Path] = []
    for file in labels:
        try:
            lines = file.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            problems.append(f"{file} is left out: it is not a text file in UTF-8")
            continue
        if _is_prose(lines):
            others.append(file)
            continue
        number = len(images) + 1
        images.append({"id": number, "file_name": file.relative_to(folder).with_suffix("").as_posix()})
        for line_number, line in enumerate(lines, 1):
            try:
                fields = _fields(line)
            except ValueError as error:
                problems.append(f"{file}, line {line_number} is left out: {error}")
                continue
            if fields:
                numbers = {"id": len(annotations) + 1, "image_id": number}
                annotations.append({**numbers, **fields, "iscrowd": 0})
    tell_left_out(others, why="they do not begin with the number of a category, so they are no labels")
    if not images and not problems:
        raise ValueError(_NO_FILES.format(folder))
    names = _names(folder)
    used = sorted({annotation["category_id"] for annotation in annotations} | names.keys())
    categories = [{"id": each, "name": names.get(each, str(each)), "supercategory": ""} for each in used]
    found = of_document(
        {**coco.head(), "images": images, "annotations": annotations, "categories": categories},
        in_shares=True,
    )
    found.problems = [*problems, *found.problems]
    return found


def _fields(line: str) -> dict[str, Any]:
    """Return the fields of an annotation; none for an empty line."""
    words = line.split()
    if not words:
        return {}
    if len(words) not in (5, 6):
        raise ValueError(f"it has {len(words)} numbers, but a box is: category x y width height")
    try:
        category, *box = map(float, words)  # 0.0 is a category too, as numpy and pandas write it
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} is not: category x y width height") from None
    if not (category >= 0 and category.is_integer() and all(map(math.isfinite, box))):
        raise ValueError(f"{line.strip()[:60]!r} has a number that is out of range")
    confidence = {"box_score": box[4]} if len(box) == 5 else {}
    return {"category_id": int(category), "bbox": box[:4], **confidence}


def _is_prose(lines: list[str]) -> bool:
    """Whether a file is something to read, such as Roboflow's README.dataset.txt."""
    first = next((line.split()[0] for line in lines if line.strip()), "0")
    return not first.lstrip("+-.")[:1].isdigit()


def _names(folder: Path) -> dict[int, str]:
    """Return the names of the categories that data.yaml or classes.txt have."""
    for place in [folder.absolute(), *folder.absolute().parents][:_LEVELS]:
        for file in sorted(place.glob("*.yaml")):
            try:
                text = file.read_text("utf-8-sig", errors="replace")
            except OSError:  # another's, above the data set, or a folder
                continue
            if names := dict(_yaml_names(text)):
                return names
        for name in _NAME_FILES:
            if (file := place / name).is_file():
                lines = file.read_text("utf-8-sig", errors="replace").splitlines()
                return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return {}


def _yaml_names(text: str) -> Iterator[tuple[int, str]]:
    """Read `names`, a list or numbered, as data.yaml has it: only this part of YAML."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("names:"):
            continue
        rest = _uncommented(line.removeprefix("names:"))
        if rest[:1] in ("[", "{"):
            while rest[-1] not in "]}" and (more := next(lines, None)) is not None:
                rest += f" {_uncommented(more)}"
            for count, (number, name) in enumerate(_INLINE.findall(rest[1:-1])):
                yield int(number or count), _scalar(name)
            return
        count = 0
        for item in lines:
            if not _uncommented(f" {item}"):
                continue
            if (match := _ITEM.fullmatch(item)) is None:
                return
            number, name, listed = match.groups()
            yield (count, _scalar(listed)) if number is None else (int(number), _scalar(name))
            count += 1
        return


def _uncommented(text: str) -> str:
    return _INLINE_COMMENT.sub(lambda match: match[1] or "", text).strip()


def _scalar(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return str(json.loads(_ESCAPE.sub(_as_in_json, text))) if text.startswith('"') else text
    except ValueError:
        return text


def _as_in_json(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] else json.dumps(chr(int(escape[2] or escape[3], 16)))[1:-1]
