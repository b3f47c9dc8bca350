"""Label configs that anybody may send with a click: what no project needs is refused before it costs time."""

from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest

from app.doors.label_studio import label_config
from app.doors.label_studio.label_config import ConfigError, Repeater, read_config

_PICTURE = "<Image name='a' value='$a'/>"


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("<a/>" * 65_536, "more than 65536 tags"),
        ("<a " + " ".join(f"a{i}=''" for i in range(10_000)) + "/>", "one of its tags or texts"),
        ("".join(f"<Image name='{i}' value='$a'/>" for i in range(101)), "more than 100 Image tags"),
        ("<BrushLabels name='b' toName='a'/>" * 1001, "more than 1000 that keep regions"),
    ],
    ids=["tags", "attributes", "pictures", "controls"],
)
def test_what_no_project_needs_is_refused(inner: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(f"<View>{inner}</View>")


def test_a_long_config_is_read_in_pieces() -> None:
    """The parser holds the interpreter lock for as long as a piece takes."""
    fed: list[int] = []

    class Parser(ElementTree.XMLParser):
        def feed(self, data: Any, /) -> None:
            fed.append(len(data))
            super().feed(data)

    labels = "".join(f"<Label value='{i}'/>" for i in range(20_000))
    text = f"<View>{_PICTURE}<BrushLabels name='b' toName='a'>{labels}</BrushLabels></View>"
    with patch.object(label_config.ElementTree, "XMLParser", Parser):
        config = read_config(text)
    assert len(config.controls[0].labels) == 20_000
    assert sum(fed) == len(text)
    assert max(fed) == 16_384


def test_names_of_pictures_are_not_compared_one_by_one() -> None:
    """For each label of a click, on the event loop if there are few."""
    names = ",".join(f"n{i}" for i in range(10_000))
    (control,) = read_config(f"<View>{_PICTURE}<BrushLabels name='b' toName='{names}'/></View>").controls
    assert isinstance(control.pictures, frozenset)
    assert len(control.pictures) == 10_000


def test_tags_and_attributes_are_read_in_any_case() -> None:
    """As the editor reads them. Labels were not: all answers went to the first tag."""
    text = (
        '<view><repeater ON="$pages" IndexFlag="{{i}}"><image Name="a{{i}}" VALUELIST="$pages[{{i}}]"/></repeater>'
        '<BRUSHLABELS name="b" toname="x"><label value="Eagle"/></BRUSHLABELS>'
        '<polygonlabels name="p" TONAME="x"><LABEL Alias="House" VALUE="Home"/></polygonlabels></view>'
    )
    config = read_config(text)
    assert [(control.name, control.pictures, control.labels) for control in config.controls] == [
        ("b", {"x"}, {"Eagle"}),
        ("p", {"x"}, {"House"}),
    ]
    (picture,) = config.pictures.values()
    assert (picture.value, picture.repeater) == ("$pages[{{i}}]", Repeater("$pages", "{{i}}"))
