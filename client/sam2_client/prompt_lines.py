"""Files of prompts in JSON lines: one object to segment on each line.

    {"picture": "truck.jpg", "label": "wheel", "box": [75, 275, 1725, 850]}

`picture` is a path relative to the file's folder. `label` is optional. The rest is a prompt of /decode:
point_coords, point_labels, box, mask_input, multimask_output. Does not know about servers.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2_client.coco import DEFAULT_LABEL
from sam2_client.prompts import Prompt, to_wire

_FIELDS = {
    "point_coords": "points",
    "point_labels": "labels",
    "box": "box",
    "mask_input": "mask",
    "multimask_output": "multimask",
}


@dataclass(frozen=True, slots=True, eq=False)
class PromptLine:
    """One line."""

    path: Path
    """Path of the picture."""
    picture: str
    """The picture's path as the line has it."""
    label: str
    prompt: Prompt
    place: str
    """The file and the line's number in it, as messages name them."""


def read_prompt_lines(file: Path) -> Iterator[PromptLine | str]:
    """Yield the lines of a file, and a message with its number for each bad one. Skips empty lines.

    Raises OSError, and ValueError for a file that is not text.
    """
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            fields = json.loads(line, object_pairs_hook=_once)
            if not isinstance(fields, dict):
                raise ValueError("it is not a JSON object")
            picture, label = fields.pop("picture"), fields.pop("label", None)
            if not isinstance(picture, str):
                raise ValueError(f"picture is {picture!r}, but must be a path")
            if unknown := sorted(fields.keys() - _FIELDS.keys()):
                raise ValueError(
                    f"unknown fields: {', '.join(unknown)}. Valid fields: picture, label, {', '.join(_FIELDS)}"
                )
            prompt = Prompt(**{_FIELDS[name]: value for name, value in fields.items()})
            to_wire(prompt)  # only to find what is wrong with it while the line's number is known
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            why = "it has no picture" if isinstance(error, KeyError) else str(error)
            yield f"{place}: {why}"
            continue
        named = DEFAULT_LABEL if label is None else str(label)
        yield PromptLine(file.parent / picture, picture, named, prompt, place)


def _lines(file: Path) -> Iterator[str]:
    """Read a file's lines, which end with LF, CR LF or CR. Other line separators may be within a string."""
    content = file.read_bytes()
    try:
        text = content.decode(json.detect_encoding(content))  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8: {error}") from error
    return io.StringIO(text, newline=None)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{name} is given more than once")
        fields[name] = value
    return fields
