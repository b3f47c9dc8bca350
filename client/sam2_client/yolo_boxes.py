"""Reads label folders of YOLO as a data set of boxes in COCO's form.

A label file has a line for each object: the number of its category, then the box's centre, width and height as
shares of the picture's, and perhaps a confidence. The names of categories are in data.yaml or classes.txt, in the
folder, beside the labels, or above it. Format: https://docs.ultralytics.com/datasets/detect/. Does not know where
pictures are.
"""

import codecs
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from sam2_client import coco
from sam2_client.box_sets import BoxSet, of_document
from sam2_client.messages import at_most, complain, named
from sam2_client.named_files import files_below, tell_left_out

_NAME_FILES = ("classes.txt", "obj.names")
_LISTS = {"train.txt", "val.txt", "test.txt"}
"""Where Darknet has the paths of a set's pictures. But test.txt has the labels of a picture test.jpg too."""
_YAML = ("*.yaml", "*.yml")
_NO_FILES = "{} has no label files: name a COCO file, or the folder of YOLO's .txt files"
_NO_TEXT = "{} is left out: it is not a text file in UTF-8"
_LEVELS = 3


def read_yolo(folder: Path) -> BoxSet:
    """Read all label files below a folder. A picture's name is the path of its label file without suffix.

    Raises OSError, and ValueError if there are no label files.
    """
    labels = [file for file in files_below(folder, suffixes={".txt"}) if file.name not in _NAME_FILES]
    if not labels:
        raise ValueError(_NO_FILES.format(folder))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    problems: list[str] = []
    others: list[Path] = []
    lost: list[str] = []
    for file in labels:
        try:
            lines = _text(file).splitlines()
        except UnicodeDecodeError:
            problems.append(_NO_TEXT.format(file))
            continue
        first = next((line.split()[0] for line in lines if line.strip()), "")
        if file.name in _LISTS and first and not _is_number(first):
            continue
        if _is_prose(first) or (file.name in _LISTS and not first):
            others.append(file)
            continue
        number = len(images) + 1
        images.append({"id": number, "file_name": file.relative_to(folder).with_suffix("").as_posix()})
        for line_number, line in enumerate(lines, 1):
            try:
                fields = _fields(line)
            except ValueError as error:
                lost.append(f"{file}, line {line_number} is left out: {error}")
                continue
            if fields:
                numbers = {"id": len(annotations) + 1, "image_id": number}
                annotations.append({**numbers, **fields, "iscrowd": 0})
    problems += at_most(lost, "lines are left out for such reasons")  # as in a set of outlines
    tell_left_out(others, why="they do not begin with the number of a category, so they are no labels")
    if not images and not problems:
        raise ValueError(_NO_FILES.format(folder))
    names = _names(folder, labels, problems)
    used = sorted({annotation["category_id"] for annotation in annotations} | names.keys())
    if nameless := [each for each in used if each not in names]:
        complain(
            f"no name in data.yaml or classes.txt for categories {named(nameless)}: they get their numbers"
        )
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


def _is_prose(first: str) -> bool:
    """Whether a file with this first word is something to read, such as Roboflow's README.dataset.txt."""
    return bool(first) and not first.lstrip("+-.")[:1].isdigit()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _names(folder: Path, labels: Sequence[Path], problems: list[str]) -> dict[int, str]:
    """Return the names of the categories. Adds a data.yaml that is no YAML, and names that differ by folder."""
    own, *above = [folder.absolute(), *folder.absolute().parents][:_LEVELS]
    if names := _names_in(own, problems):
        return names
    sources: dict[int, Path] = {}
    for place in _folders_below(folder, labels):  # as of LabelImg, which writes classes.txt beside the labels
        found = _names_in(place, problems)
        if other := [number for number in found if names.get(number, found[number]) != found[number]]:
            number = other[0]
            problems.append(
                f"category {number} is {names[number]} in {sources[number]}, but {found[number]} in {place}: take "
                "these folders one by one"
            )
        sources = dict.fromkeys(found, place) | sources
        names = found | names
    return names or next((found for place in above if (found := _names_in(place, problems))), {})


def _folders_below(folder: Path, labels: Sequence[Path]) -> Iterator[Path]:
    """Yield the folders of labels and those above them, but for `folder` itself, each once."""
    seen = {folder}
    for file in labels:
        for place in file.parents:
            if place in seen:
                break
            seen.add(place)
            yield place


def _names_in(place: Path, problems: list[str]) -> dict[int, str]:
    for file in sorted(file for pattern in _YAML for file in place.glob(pattern)):
        try:
            names = _yaml_names(_text(file))
        except OSError:  # another's, above the data set, or a folder
            continue
        except UnicodeDecodeError:
            why = _NO_TEXT.format(file)
        except (yaml.YAMLError, RecursionError) as error:
            why = f"{file} is left out: {' '.join(str(error).split())}"
        else:
            if names:
                return names
            continue
        if file.stem == "data":
            problems.append(why)
    for name in _NAME_FILES:
        if (file := place / name).is_file():
            try:
                lines = _text(file).splitlines()
            except UnicodeDecodeError:
                problems.append(_NO_TEXT.format(file))
                continue
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return {}


def _text(file: Path) -> str:
    """Return what a file says in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it."""
    content = file.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def _yaml_names(text: str) -> dict[int, str]:
    """Read `names`, a list or numbered. Raises YAMLError, and RecursionError for what is nested too deeply."""
    if "names" not in text:  # a file of something else, perhaps a large one
        return {}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # as text: a class may be called no, or 1.0
    document = yaml.load(text, Loader=loader)  # noqa: S506  # neither makes any objects
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        return {}
    return {
        int(number): name
        for number, name in names.items()
        if str(number).isdecimal() and isinstance(name, str)
    }
