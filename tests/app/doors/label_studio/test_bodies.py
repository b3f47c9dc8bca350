"""Bodies that Label Studio does not send, but anybody may: what they make the server hold is bounded."""

import json
from typing import Any

import pytest

from app.doors.label_studio import bodies
from app.doors.label_studio.bodies import parse_predict
from app.errors import ValidationFailed
from tests.app.doors.label_studio.studio import body
from tests.fakes import serving


def _sent(*addresses: Any, images: int, names: str = "value") -> bytes:
    tags = "".join(f'<Image name="i{number}" {names}="$image"/>' for number in range(images))
    tasks = [{"id": 1, "data": {"image": address}} for address in addresses]
    return json.dumps(body() | {"label_config": f"<View>{tags}</View>", "tasks": tasks}).encode()


def test_a_picture_that_many_tags_show_is_read_once() -> None:
    address = "data:image/png;base64," + "A" * 100_000
    asked = parse_predict(_sent(address, images=100))
    found = asked.tasks[0].pictures
    assert len(found) == 100
    assert len({id(addresses[0]) for addresses in found.values()}) == 1


def test_a_task_without_a_picture_keeps_no_other_from_being_read() -> None:
    """As imported tables have them: one column for each tag, and not everything is filled in."""
    tags = '<Image name="one" value="$a"/><Image name="other" value="$b"/><Image name="all" valueList="$c"/>'
    tasks = [
        {"id": 1, "data": {"a": "/a", "b": None, "c": None}},
        {"id": 2, "data": {"a": "", "b": "/b", "c": [" "]}},
    ]
    sent = json.dumps(body() | {"label_config": f"<View>{tags}</View>", "tasks": tasks}).encode()
    assert [task.pictures for task in parse_predict(sent).tasks] == [{"one": ["/a"]}, {"other": ["/b"]}]


def test_pictures_of_all_tasks_and_tags_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST_PICTURES", 20)
    assert len(parse_predict(_sent("/a", "/b", images=10)).tasks) == 2
    for sent in (_sent("/a", "/b", "/c", images=10), _sent(["/a"] * 21, images=1, names="valueList")):
        with pytest.raises(ValidationFailed, match="more than 20 pictures in one request"):
            parse_predict(sent)


@pytest.mark.parametrize(("name", "most"), [("project", 256), ("hostname", 8192), ("access_token", 8192)])
async def test_what_setup_says_is_bounded(name: str, most: int) -> None:
    """It is kept, for a thousand projects."""
    async with serving() as served:
        for size, status in ((most - 2, 200), (most - 1, 422)):
            reply = await served.post("/label-studio/setup", {name: "a" * size, "schema": "b" * 99_999})
            assert reply.status_code == status
        assert f"{name}: it has {most + 1} bytes, where at most {most}" in reply.json()["detail"]
