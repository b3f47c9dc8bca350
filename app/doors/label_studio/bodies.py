"""Reads the bodies of Label Studio's requests.

A task carries all annotations, drafts and predictions of its picture, with masks as lists of numbers: megabytes,
with every click. None of them is wanted, so they are skipped and never become objects. Does not know what the
fields are for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from app.codecs import json_bodies, json_members
from app.codecs.json_members import NotJson, View, fields, items
from app.codecs.long_text import Pieces
from app.codecs.prompts import MAX_POINTS
from app.doors.label_studio.label_config import MOST_BYTES, ConfigError, LabelConfig, Picture, read_config
from app.doors.requests import ToolBody
from app.errors import BadRequest, ServiceError
from app.routes.field_errors import given_twice, invalid
from app.routes.schemas import MOST_PROMPTS, LongText
from app.routes.uploads import parse_json

_SHORT = 64 * 2**10
"""Most bytes of an id or an address."""
_SLICE = 2**18


class SetupBody(ToolBody):
    """What Label Studio says about a project."""

    project: str = ""
    hostname: str = ""
    access_token: str | None = None


class RegionValue(ToolBody):
    """Where a region lies, in percent of the picture, and its labels."""

    x: float = Field(allow_inf_nan=False)
    y: float = Field(allow_inf_nan=False)
    width: float = Field(default=0.0, allow_inf_nan=False)
    height: float = Field(default=0.0, allow_inf_nan=False)
    rotation: float = Field(default=0.0, allow_inf_nan=False)
    keypointlabels: Sequence[str] = ()
    rectanglelabels: Sequence[str] = ()
    labels: Sequence[str] = ()
    positive: bool | int | None = None


class Region(ToolBody):
    """A key point or a rectangle that the user has just drawn."""

    type: str
    to_name: str
    value: RegionValue
    is_positive: bool | int | None = None
    """Absent means positive."""
    image_rotation: float = 0
    item_index: int | None = Field(default=None, ge=0)


class _Inline(ToolBody):
    """A picture in the task itself, as a data URL: megabytes, which json_bodies.py reads in pieces."""

    picture: LongText


class Context(ToolBody):
    """The regions of one gesture."""

    result: Sequence[Region] = Field(default=(), max_length=MAX_POINTS + MOST_PROMPTS)


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its id, and the addresses of its pictures by the name of their Image tags, as far as they exist."""

    id: str
    pictures: dict[str, list[str | Pieces]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for predictions. Without a context, it is "Retrieve predictions" for all tasks."""

    project: str
    tasks: list[Task]
    config: LabelConfig
    context: Context | None


def parse_setup(body: bytes) -> SetupBody:
    """Parse the body of /setup. The schema and other fields may be large and are skipped. Raises a ServiceError."""
    try:
        known = fields(memoryview(body))
        parts = [
            b'"%s":%s' % (name.encode(), bytes(known[name]))
            for name in SetupBody.model_fields
            if name in known and len(known[name]) <= _SHORT
        ]
    except (NotJson, json_bodies.TooMany, json_bodies.Repeated) as error:
        raise _refusal(error, "body") from error
    return parse_json(SetupBody, b"{%s}" % b",".join(parts))


def parse_predict(body: bytes) -> Asked:
    """Parse the body of /predict. Raises a ServiceError."""
    where = "body"
    try:
        known = fields(memoryview(body))
        where = "label_config"
        config = read_config(_text(known, "label_config", most_bytes=2 * MOST_BYTES))
        where = "project"
        project = _text(known, "project", most_bytes=_SHORT) if "project" in known else ""
        where = "params"
        context = _context(known["params"]) if "params" in known else None
        where = "tasks"
        if "tasks" not in known:
            raise NotJson("it is missing")
        tasks = []
        for number, task in enumerate(items(known["tasks"])):
            where = f"tasks[{number}]"
            tasks.append(_task(task, config))
    except (NotJson, ConfigError, json_bodies.TooMany, json_bodies.Repeated) as error:
        raise _refusal(error, where) from error
    return Asked(project, tasks, config, context)


def _refusal(error: ValueError, where: str) -> ServiceError:
    if isinstance(error, json_bodies.Repeated):
        return given_twice(error.name)
    if where == "body" and isinstance(error, NotJson):
        return BadRequest(f"The body is not a JSON object: {error}.")
    return invalid(where, str(error))


def _text(known: dict[str, View], name: str, *, most_bytes: int) -> str:
    if name not in known:
        raise NotJson("it is missing")
    text = json_members.value(known[name], most_bytes=most_bytes)
    if not isinstance(text, str):
        raise NotJson("it is not a string")
    return text


def _context(params: View) -> Context | None:
    if json_members.is_null(params):
        return None
    context = fields(params).get("context")
    if context is None or json_members.is_null(context):
        return None
    return parse_json(Context, bytes(context))


def _task(text: View, config: LabelConfig) -> Task:
    known = fields(text)
    number: Any = json_members.value(known["id"], most_bytes=_SHORT) if "id" in known else ""
    data = fields(known["data"]) if "data" in known else {}
    pictures = {
        name: _addresses(data[picture.key], picture)
        for name, picture in config.pictures.items()
        if picture.key in data
    }
    return Task(str(number), pictures)


def _addresses(text: View, picture: Picture) -> list[str | Pieces]:
    values = items(text) if picture.is_list else [text]
    found = [_address(each) for each in values]
    if not all(isinstance(each, str | Pieces) for each in found):
        raise NotJson(f"data.{picture.key} is not the address of a picture")
    return found


def _address(text: View) -> Any:
    if len(text) <= _SHORT:
        return json_members.value(text, most_bytes=_SHORT)
    return parse_json(_Inline, b"".join((b'{"picture":', *_slices(text), b"}"))).picture


def _slices(text: View) -> Iterator[bytes]:
    """Copy a value in parts: one call for all would hold the interpreter lock; joining large bytes does not."""
    return (bytes(text[at : at + _SLICE]) for at in range(0, len(text), _SLICE))
