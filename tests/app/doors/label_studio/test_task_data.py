"""Values of a label config that are more than the name of a field: the editor shows their pictures, too."""

import json
from typing import Any

import pytest

from app.codecs import json_members
from app.doors.label_studio import bodies, task_data
from app.doors.label_studio.bodies import parse_predict
from app.doors.label_studio.task_data import TaskData
from app.errors import ValidationFailed
from tests.app.doors.label_studio.studio import LABELS, body, config, connected, key_point
from tests.fakes import picture

DATA = {"a": "/a", "deep": {"b": ["/0", {"c": "/1"}]}, "x.y": "/dot", "n": 5, "none": None, "d-1": "/dash"}

PAGES = (
    '<View><Repeater on="$doc.pages" indexFlag="{{i}}"><Image name="page_{{i}}" value="$doc.pages[{{i}}].url"/>'
    f'<BrushLabels name="brush_{{{{i}}}}" toName="page_{{{{i}}}}">{LABELS}</BrushLabels></Repeater>'
    '<Image name="cover" value="$cover"/></View>'
)


def sent(labels: str, *data: dict[str, Any]) -> bytes:
    tasks = [{"id": number, "data": each} for number, each in enumerate(data)]
    return json.dumps(body() | {"label_config": labels, "tasks": tasks}).encode()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("$a", "/a"),
        ("$deep.b[0]", "/0"),
        ("$deep.b[1].c", "/1"),
        ("$deep.b", ["/0", {"c": "/1"}]),
        ("$x.y", "/dot"),
        ("$d-1", "/dash"),
        ("https://host/$deep.b[1].c?n=$n", "https://host//1?n=5"),
        ("$none", None),
        ("$missing", None),
        ("$a.b", None),
        ("$a[0]", None),
        ("$deep.b[2]", None),
        ("$deep.b[-1]", None),
        ("$", None),
        ("$.", None),
        ("/$a/$missing", None),
        ("/$deep.b", None),
        ("/a", None),
        ("$" + ".a" * 99, None),
    ],
)
def test_what_a_value_stands_for(value: str, found: Any) -> None:
    part = TaskData(memoryview(json.dumps(DATA, indent=1).encode())).find(value)
    assert (None if part is None else json.loads(bytes(part))) == found


def test_what_many_values_look_into_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a hundred tags would take a hundred times as long as the task's data."""
    looked: list[int] = []

    def fields(text: memoryview) -> Any:
        looked.append(len(text))
        return json_members.fields(text)

    monkeypatch.setattr(task_data, "fields", fields)
    data = TaskData(memoryview(json.dumps({"a": {"b": {str(i): f"/{i}" for i in range(100)}}}).encode()))
    assert all(data.find(f"$a.b.{i}") is not None for i in range(100))
    assert len(looked) == 3


async def test_a_click_on_a_picture_in_nested_data() -> None:
    labels = config("BrushLabels").replace("$image", "$meta[0].url")
    async with connected() as (served, _):
        data = {"meta": [{"url": "/data/upload/1/a.png"}]}
        reply = await served.post("/label-studio/predict", body(key_point(), labels=labels, data=data))
        assert reply.status_code == 200, reply.text
        assert len(reply.json()["results"][0]["result"]) == 1


async def test_a_click_on_a_page_of_a_repeater() -> None:
    async with connected() as (served, studio):
        studio.pictures["/data/upload/1/b.png"] = picture(30, 20)
        pages = [{"url": "/data/upload/1/a.png"}, {"url": "/data/upload/1/b.png"}]
        sent = body(key_point(to_name="page_1"), labels=PAGES, data={"doc": {"pages": pages}})
        reply = await served.post("/label-studio/predict", sent)
        assert reply.status_code == 200, reply.text
        (region,) = reply.json()["results"][0]["result"]
        assert (region["from_name"], region["to_name"]) == ("brush_1", "page_1")
        assert (region["original_width"], region["original_height"]) == (30, 20)
        for name in ("page_2", "page_x", "page_", "1"):
            reply = await served.post(
                "/label-studio/predict", sent | body(key_point(to_name=name), labels=PAGES)
            )
            assert reply.status_code == 422
            assert f"no picture for the Image tag '{name}'" in reply.json()["detail"]


def test_all_pages_are_pictures_of_their_task(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [{"url": f"/{number}"} for number in range(3)]
    first, second = parse_predict(sent(PAGES, {"doc": {"pages": pages}}, {"doc": None, "cover": "/c"})).tasks
    assert first.pictures == {"page_0": ["/0"], "page_1": ["/1"], "page_2": ["/2"]}
    assert second.pictures == {"cover": ["/c"]}
    monkeypatch.setattr(bodies, "MOST_PICTURES", 2)
    with pytest.raises(ValidationFailed, match="more than 2 pictures"):
        parse_predict(sent(PAGES, {"doc": {"pages": pages}}))


def test_a_list_is_one_in_either_attribute() -> None:
    """Label Studio imports lists for value, and single addresses for valueList."""
    for name in ("value", "valueList"):
        labels = f'<View><Image name="img" {name}="$image"/></View>'
        tasks = parse_predict(sent(labels, {"image": ["/a", "/b"]}, {"image": "/c"})).tasks
        assert [task.pictures["img"] for task in tasks] == [["/a", "/b"], ["/c"]]


def test_long_values_that_are_no_address_are_refused_as_short_ones_are() -> None:
    for size in (1, 100_000):
        with pytest.raises(ValidationFailed, match=r"tasks\[0\]: \$image of its data is not the address"):
            parse_predict(sent(config(), {"image": {"a": "b" * size}}))
