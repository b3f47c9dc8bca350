"""Files of prompts in JSON lines: one object to segment on each line.

    {"picture": "truck.jpg", "label": "wheel", "box": [75, 275, 1725, 850]}

`picture` is a path relative to the file's folder. `label` is optional. The rest is a prompt of /decode:
point_coords, point_labels, box, mask_input, multimask_output. Does not know about servers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam2_client.coco import DEFAULT_LABEL
from sam2_client.prompts import Prompt

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


def read_prompt_lines(file: Path) -> Iterator[PromptLine]:
    """Read the lines of a file. Skips empty lines. Raises OSError, and ValueError with the number of a bad line."""
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            picture, label = str(fields.pop("picture")), str(fields.pop("label", DEFAULT_LABEL))
            if unknown := sorted(fields.keys() - _FIELDS.keys()):
                raise ValueError(
                    f"unknown fields: {', '.join(unknown)}. Valid fields: picture, label, {', '.join(_FIELDS)}"
                )
            prompt = Prompt(**{_FIELDS[name]: value for name, value in fields.items()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            why = "it has no picture" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file}, line {number}: {why}") from error
        yield PromptLine(path=file.parent / picture, picture=picture, label=label, prompt=prompt)
