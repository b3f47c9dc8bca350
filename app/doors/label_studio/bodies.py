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
from app.codecs.long_text import Pieces, beginning
from app.codecs.prompts import MAX_POINTS
from app.doors.label_studio.label_config import MOST_BYTES, ConfigError, LabelConfig, read_config
from app.doors.label_studio.task_data import TaskData, is_list
from app.doors.requests import ToolBody
from app.errors import BadRequest, ServiceError
from app.routes.field_errors import given_twice, invalid
from app.routes.schemas import MOST_PROMPTS, LongText
from app.routes.uploads import parse_json

_MOST_ID = 256
"""Bytes of the id of a task or a project. Label Studio's are numbers. They are kept while pictures wait."""
_MOST_ADDRESS = 8 * 2**10
"""Bytes of the address of a picture, also kept: signed ones of storages have 2 KiB. And of what /setup says."""
_SHORT = 64 * 2**10
"""Bytes that are parsed as they are: longer ones are pictures, which are read in pieces."""
MOST_PICTURES = 131_072
"""Of all tasks of a request. Each becomes an object for each of its Image tags."""
_SLICE = 2**18
_NOTHING = memoryview(b"{}")


class SetupBody(ToolBody):
    """What Label Studio says about a project."""

    project: str = ""
    hostname: str = ""
    access_token: str | None = None


class RegionValue(ToolBody):
    """Where a region lies, in percent of the picture, and its labels.

    Only key points and rectangles have a place of this form. What else there is, gestures.py refuses in words.
    """

    x: float = Field(default=0.0, allow_inf_nan=False)
    y: float = Field(default=0.0, allow_inf_nan=False)
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
    except (NotJson, json_bodies.TooMany, json_bodies.Repeated) as error:
        raise _refusal(error, "body") from error
    wanted = {name: known[name] for name in SetupBody.model_fields if name in known}
    for name, text in wanted.items():
        most = _MOST_ID if name == "project" else _MOST_ADDRESS
        if len(text) > most:
            raise invalid(name, f"it has {len(text)} bytes, where at most {most} are expected")
    parts = [b'"%s":%s' % (name.encode(), bytes(text)) for name, text in wanted.items()]
    return parse_json(SetupBody, b"{%s}" % b",".join(parts))


def parse_predict(body: bytes) -> Asked:
    """Parse the body of /predict. Raises a ServiceError."""
    where = "body"
    try:
        known = fields(memoryview(body))
        where = "label_config"
        config = read_config(_text(known, "label_config", most_bytes=2 * MOST_BYTES))
        where = "project"
        project = _text(known, "project", most_bytes=_MOST_ID) if "project" in known else ""
        where = "params"
        context = _context(known["params"]) if "params" in known else None
        where = "tasks"
        if "tasks" not in known:
            raise NotJson("it is missing")
        tasks, found = [], 0
        for number, task in enumerate(items(known["tasks"])):
            where = f"tasks[{number}]"
            tasks.append(read := _task(task, config))
            found += sum(map(len, read.pictures.values()))
            if found > MOST_PICTURES:
                raise json_bodies.TooMany(f"more than {MOST_PICTURES} pictures in one request")
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
    number: Any = json_members.value(known["id"], most_bytes=_MOST_ID) if "id" in known else ""
    data = TaskData(known.get("data", _NOTHING))
    pictures: dict[str, list[str | Pieces]] = {}
    # Once for all tags that show it: a picture in the task itself has megabytes.
    read: dict[str, list[str | Pieces]] = {}
    for name, value in _images(config, data):
        if value not in read:
            # A task may have a picture for one tag and null, or an empty text, for another: imported tables have a
            # column for each.
            there = data.find(value)
            read[value] = _addresses(there, value) if there is not None else []
        if read[value]:
            pictures[name] = read[value]
    return Task(str(number), pictures)


def _images(config: LabelConfig, data: TaskData) -> Iterator[tuple[str, str]]:
    """Yield the name of each Image tag, copies by a Repeater included, and what it shows."""
    found = 0
    for name, picture in config.pictures.items():
        repeater = picture.repeater
        copies = 1 if repeater is None else data.length(repeater.of)
        found += copies
        if found > MOST_PICTURES:
            raise json_bodies.TooMany(f"more than {MOST_PICTURES} pictures in one request")
        if repeater is None:
            yield name, picture.value
            continue
        for copy in map(str, range(copies)):
            yield name.replace(repeater.mark, copy), picture.value.replace(repeater.mark, copy)


def _addresses(text: View, value: str) -> list[str | Pieces]:
    found = [_address(each) for each in (items(text) if is_list(text) else [text])]
    if all(isinstance(each, str) and not each.strip() for each in found):
        return []
    if not all(isinstance(each, str | Pieces) for each in found):
        raise NotJson(f"{value[:80]} of its data is not the address of a picture")
    return found


def _address(text: View) -> Any:
    if len(text) <= _SHORT:
        address = json_members.value(text, most_bytes=_SHORT)
    elif not bytes(text[:_SHORT]).lstrip().startswith(b'"'):
        return None
    else:
        address = parse_json(_Inline, b"".join((b'{"picture":', *_slices(text), b"}"))).picture
    if len(text) > _MOST_ADDRESS and isinstance(address, str | Pieces) and not is_inline(address):
        raise NotJson(
            f"a picture's address has {len(text)} bytes, where at most {_MOST_ADDRESS} are expected"
        )
    # Browsers, and so Label Studio's editor, take a URL without what is around it.
    return address.strip() if isinstance(address, str) else address


def is_inline(address: str | Pieces) -> bool:
    """Whether an address is the picture itself, as a data URL. It may have megabytes, and is never kept."""
    return beginning(address)[:_SHORT].lstrip()[:5].lower() == "data:"


def _slices(text: View) -> Iterator[bytes]:
    """Copy a value in parts: one call for all would hold the interpreter lock; joining large bytes does not."""
    return (bytes(text[at : at + _SLICE]) for at in range(0, len(text), _SLICE))
