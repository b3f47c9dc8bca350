"""What a project's label config says: which tags show pictures, and which ones keep which kind of region.

The config is XML that users write. Does not know tasks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from xml.etree import ElementTree

MOST_BYTES = 2**20
"""Size of a config. The longest ones hold lists of thousands of classes."""

_DEEPEST = 100
_MOST_TAGS = 65_536
"""Opened and closed. Each becomes an object."""
_LONGEST = 65_536
"""Characters of a tag, or of text: a tag is read in one call, which holds the interpreter lock."""
_PIECE = 16_384
"""Characters read in one call: 4 ms for the shortest tags."""
_MOST_PICTURES = 100
"""Image tags: each is looked for in each task."""
_MOST_CONTROLS = 1000
"""Tags that keep regions: all are looked through for each label."""
_LONGEST_NAME = 64
"""Characters of the name of a repeated Image tag: each number in it may be that of the copy."""
_NUMBER = re.compile("[0-9]+")

Kind: TypeAlias = Literal["bitmasklabels", "brushlabels", "polygonlabels", "rectanglelabels"]
"""Type of a region, and the name of the field with its labels."""
_KINDS: tuple[Kind, ...] = ("bitmasklabels", "brushlabels", "polygonlabels", "rectanglelabels")
"""The best first: masks exact to the pixel, masks, outlines, boxes."""


class ConfigError(ValueError):
    """The label config cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Repeater:
    """A tag that stands for as many copies of those in it as a list of the task's data has members."""

    of: str
    """Where the list is, such as $pages."""
    mark: str
    """What stands for the number of a copy, from 0, in the attributes of the tags within: {{idx}}."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An Image tag: where a task's data has its picture, or a list of pictures."""

    value: str
    """Such as $image, $pages[0].url or https://host/$name.jpg."""
    repeater: Repeater | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A tag that keeps regions of one kind on some Image tags."""

    kind: Kind
    name: str
    pictures: frozenset[str]
    labels: frozenset[str]
    repeater: Repeater | None = None

    def on(self, picture: str) -> "Control | None":
        """Return the control, or its copy, that keeps regions on an Image tag; None if they go elsewhere."""
        if picture in self.pictures:
            return self
        if self.repeater is not None and len(picture) <= _LONGEST_NAME:
            mark = self.repeater.mark
            for number in _NUMBER.finditer(picture):
                if picture[: number.start()] + mark + picture[number.end() :] in self.pictures:
                    return replace(self, name=self.name.replace(mark, number.group()))
        return None


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """The tags that matter for masks."""

    pictures: dict[str, Picture]
    """By the name of their tag."""
    controls: tuple[Control, ...]

    def controls_on(self, picture: str) -> list[Control]:
        """Return the tags that keep regions on this Image tag, the best kind first. Raises ConfigError for none."""
        here = [here for control in self.controls if (here := control.on(picture)) is not None]
        if not here:
            raise ConfigError(
                f"no tag can keep a mask on {picture!r}; add BrushLabels, PolygonLabels, RectangleLabels or "
                "BitmaskLabels to the labeling setup"
            )
        return sorted(here, key=lambda control: _KINDS.index(control.kind))


def control_for(label: str | None, controls: Sequence[Control]) -> Control:
    """Return the first tag that has the label. One that none has does not count: labels may come with the task."""
    return next((control for control in controls if label in control.labels), controls[0])


def read_config(text: str) -> LabelConfig:
    """Parse a label config. Raises ConfigError if it is not XML or holds what no config needs."""
    if len(text) > MOST_BYTES:
        raise ConfigError(f"it has {len(text)} characters, more than {MOST_BYTES}")
    if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
        raise ConfigError("it has a document type or entities, which no label config needs")
    if text.count("<") > _MOST_TAGS:
        raise ConfigError(f"it has more than {_MOST_TAGS} tags")
    if max(map(len, text.split("<"))) > _LONGEST:
        raise ConfigError(f"one of its tags or texts has more than {_LONGEST} characters")
    try:
        root = _parsed(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"it is not XML: {error}") from error
    _check_depth(root)
    tags = list(root.iter())
    for tag in tags:  # in any case, as the editor reads them
        tag.tag, tag.attrib = tag.tag.lower(), {name.lower(): value for name, value in tag.items()}
    repeaters = _repeaters(tags)
    config = LabelConfig(_pictures(tags, repeaters), tuple(_controls(tags, repeaters)))
    if len(config.pictures) > _MOST_PICTURES or len(config.controls) > _MOST_CONTROLS:
        raise ConfigError(
            f"it has more than {_MOST_PICTURES} Image tags, or more than {_MOST_CONTROLS} that keep regions"
        )
    return config


def _parsed(text: str) -> ElementTree.Element:
    parser = ElementTree.XMLParser()  # noqa: S314  # without entities there is nothing to expand
    for at in range(0, len(text), _PIECE):
        parser.feed(text[at : at + _PIECE])
    root: ElementTree.Element = parser.close()
    return root


def _check_depth(root: ElementTree.Element) -> None:
    """Raise ConfigError for tags within tags within tags: each is looked through for the labels in it."""
    level = [root]
    for _ in range(_DEEPEST):
        level = [child for tag in level for child in tag]
    if level:
        raise ConfigError(f"its tags lie in each other more than {_DEEPEST} deep")


def _repeaters(tags: Iterable[ElementTree.Element]) -> Mapping[ElementTree.Element, Repeater]:
    """Return the Repeater around each tag, the outermost one, as far as there is one."""
    found: dict[ElementTree.Element, Repeater] = {}
    for tag in tags:
        if tag.tag == "repeater" and tag not in found:
            repeater = Repeater(tag.get("on", ""), tag.get("indexflag", "") or "{{idx}}")
            found |= dict.fromkeys(tag.iter(), repeater)
    return found


def _pictures(
    tags: Iterable[ElementTree.Element], repeaters: Mapping[ElementTree.Element, Repeater]
) -> dict[str, Picture]:
    found = {}
    for tag in tags:
        value = tag.get("valuelist", "") or tag.get("value", "")
        if tag.tag == "image" and "$" in value:
            found[tag.get("name", "")] = Picture(value, repeaters.get(tag))
    return found


def _controls(
    tags: Iterable[ElementTree.Element], repeaters: Mapping[ElementTree.Element, Repeater]
) -> Iterable[Control]:
    for tag in tags:
        kind = next((kind for kind in _KINDS if kind == tag.tag), None)
        if kind is not None:
            labels = (child.get("alias", "") or child.get("value", "") for child in tag.iter("label"))
            pictures = frozenset(name.strip() for name in tag.get("toname", "").split(","))
            yield Control(kind, tag.get("name", ""), pictures, frozenset(labels), repeaters.get(tag))
