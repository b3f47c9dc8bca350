"""What a project's label config says: which tags show pictures, and which ones keep which kind of region.

The config is XML that users write. Does not know tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

Kind: TypeAlias = Literal["bitmasklabels", "brushlabels", "polygonlabels", "rectanglelabels"]
"""Type of a region, and the name of the field with its labels."""
_KINDS: tuple[Kind, ...] = ("bitmasklabels", "brushlabels", "polygonlabels", "rectanglelabels")
"""The best first: masks exact to the pixel, masks, outlines, boxes."""


class ConfigError(ValueError):
    """The label config cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An Image tag: where a task's data has its picture, or a list of pictures."""

    key: str
    is_list: bool


@dataclass(frozen=True, slots=True)
class Control:
    """A tag that keeps regions of one kind on some Image tags."""

    kind: Kind
    name: str
    pictures: frozenset[str]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """The tags that matter for masks."""

    pictures: dict[str, Picture]
    """By the name of their tag."""
    controls: tuple[Control, ...]

    def control_for(self, picture: str, label: str | None) -> Control:
        """Return the tag that keeps a mask on this Image tag: the best kind of those that have the label.

        A label that no tag has does not count: labels may come with the task. Raises ConfigError.
        """
        here = [control for control in self.controls if picture in control.pictures]
        if not here:
            raise ConfigError(
                f"no tag can keep a mask on {picture!r}; add BrushLabels, PolygonLabels, RectangleLabels or "
                "BitmaskLabels to the labeling setup"
            )
        return _best([control for control in here if label in control.labels] or here)


def _best(controls: Sequence[Control]) -> Control:
    return min(controls, key=lambda control: _KINDS.index(control.kind))


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
    config = LabelConfig(_pictures(tags), tuple(_controls(tags)))
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


def _pictures(tags: Iterable[ElementTree.Element]) -> dict[str, Picture]:
    found = {}
    for tag in tags:
        value, values = tag.get("value", ""), tag.get("valueList", "")
        source = values or value
        if tag.tag.lower() == "image" and source.startswith("$"):
            found[tag.get("name", "")] = Picture(source.removeprefix("$"), is_list=bool(values))
    return found


def _controls(tags: Iterable[ElementTree.Element]) -> Iterable[Control]:
    for tag in tags:
        kind = next((kind for kind in _KINDS if kind == tag.tag.lower()), None)
        if kind is not None:
            labels = (child.get("alias", "") or child.get("value", "") for child in tag.iter("Label"))
            pictures = frozenset(name.strip() for name in tag.get("toName", "").split(","))
            yield Control(kind, tag.get("name", ""), pictures, frozenset(labels))
