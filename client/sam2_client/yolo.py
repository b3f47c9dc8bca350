"""Writes instances as a data set for Ultralytics' YOLO segmentation: pictures, labels and data.yaml.

A label file has a line for each object: the number of its category, then x and y of each point of one ring, as
shares of the picture's width and height. Format: https://docs.ultralytics.com/datasets/segment/. Does not know
about servers and the command line.
"""

import json
import os
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from sam2_client.coco import Instance, sizes
from sam2_client.joining import joined
from sam2_client.masks import Mask
from sam2_client.messages import naming, why
from sam2_client.pictures import open_picture

_SUFFIX = re.compile(r"(?:\.\w{1,10})?$")
_READ = frozenset(
    ".avif .bmp .dng .heic .heif .jp2 .jpeg .jpg .mpo .png .tif .tiff .webp".split()  # noqa: SIM905
)
"""Suffixes of the pictures that Ultralytics reads. It passes over others and their labels without a word."""
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and a number and a suffix may follow."""


def write(
    folder: Path, instances: Sequence[Instance], *, files: Mapping[str, Path], simplify: float = 0.0
) -> list[str]:
    """Write a data set into a new or empty folder, with copies of the pictures, in PNG if YOLO does not read them.

    `files` has the file of each instance's picture. Returns a message for each picture without one: which file to
    put where. Pictures whose masks are all empty get an empty label file, which tells YOLO that they are
    background. Raises OSError, and ValueError if the folder is not empty or two pictures have one name.
    """
    categories = {instance.label: None for instance in instances if instance.mask.area}
    numbers = {label: number for number, label in enumerate(categories)}
    lines: dict[str, list[str]] = {picture: [] for picture in sizes(instances)}
    for instance in instances:
        if instance.mask.area:
            line = to_line(instance.mask, numbers[instance.label], simplify=simplify)
            lines[instance.picture].append(f"{line}\n")
    require_empty(folder)
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    missing = []
    for (picture, of_picture), name in zip(lines.items(), _names(lines), strict=True):
        label_file = labels / f"{name}.txt"
        with naming(label_file):
            label_file.write_text("".join(of_picture), "utf-8")
        suffix = _SUFFIX.findall(picture)[0]
        target = f"{images / name}{suffix}"
        if (file := files.get(picture)) is not None and os.path.isfile(file):  # noqa: PTH113  # takes any name
            try:
                _copy(file, str(images / name), suffix)
            except ValueError as error:
                missing.append(f"{picture}: {error}")
        else:
            as_kind = "" if suffix else " with the suffix of its kind, such as .jpg, which YOLO requires"
            missing.append(f"{picture} is not found: copy it to {target}{as_kind}")
    (folder / "data.yaml").write_text(_description(list(categories)), "utf-8")
    return missing


def _copy(file: Path, target: str, suffix: str) -> None:
    """Copy a picture with a suffix that YOLO reads. Raises OSError, and ValueError if it cannot be converted."""
    if suffix.lower() in _READ:
        shutil.copyfile(file, f"{target}{suffix}")
        return
    with file.open("rb") as opened:
        is_jpeg = opened.read(2) == b"\xff\xd8"
    if is_jpeg:  # .jfif, as Windows has it
        shutil.copyfile(file, f"{target}.jpg")
        return
    try:
        shown = open_picture(file)
    except OSError as error:
        raise ValueError(f"YOLO does not read it; convert it to {target}.png ({why(error)})") from error
    with naming(Path(f"{target}.png")):
        shown.save(f"{target}.png")


def require_empty(folder: Path) -> None:
    """Raise ValueError if the folder has files, and NotADirectoryError if it is one."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder, so that no old labels are mixed in")


def to_line(mask: Mask, category: int, *, simplify: float = 0.0) -> str:
    """Return the label of a mask with at least one pixel.

    The format has one ring for an object. So parts and holes are joined to it by lines there and back, which
    enclose nothing: filled by the even-odd rule, as Ultralytics does it, the ring is the mask.
    """
    height, width = mask.rle["size"]
    outer, holes = mask.outlines(simplify=simplify)
    points = joined([*outer, *holes])
    return " ".join([str(category), *(f"{x / width:.6g} {y / height:.6g}" for x, y in points)])


def _names(pictures: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Return a file name without suffix for each picture, no two alike where neither case nor accents' form counts.

    A label belongs to the picture with its name, whatever the suffix.
    """
    taken: set[str] = set()
    names = []
    for picture in pictures:
        base = unicodedata.normalize("NFC", _SUFFIX.sub("", picture))
        base = re.sub(r"[^\w.-]+", "-", base).strip("-.") or "picture"
        base = base.encode()[-_LONGEST_NAME:].decode(errors="ignore")
        name, number = base, 1
        while name.upper().casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.upper().casefold())
        names.append(name)
    return names


def _description(categories: Sequence[str]) -> str:
    names = "".join(
        f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(categories)
    )
    return (
        "# Made with SAM 2. Name other pictures in val to validate on what was not trained on.\n"
        f"train: images/train\nval: images/train\nnames:\n{names}"
    )
