"""Members of JSON objects and lists are found without parsing them, whatever lies in them, wherever pieces end."""

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codecs import json_members
from app.codecs.json_bodies import Repeated, TooMany
from app.codecs.json_members import NotJson, fields, is_null, items, value

_TEXT = st.text(st.sampled_from('a"\\,:[]{}é \n'), max_size=9)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def parsed(view: memoryview) -> Any:
    return json.loads(bytes(view))


@given(
    values=st.lists(_VALUES, max_size=5),
    piece=st.integers(1, 40),
    escaped=st.booleans(),
    indent=st.sampled_from([None, 1]),
    short=st.sampled_from([-1, 30, 4096]),
)
def test_members_are_those_of_a_parser(
    values: list[Any], piece: int, escaped: bool, indent: int | None, short: int
) -> None:
    # So that strings, escapes and brackets are cut anywhere. A sleep after each byte would take long.
    with (
        patch.object(json_members, "_PIECE", piece),
        patch.object(json_members, "_SHORT", short),
        patch.object(json_members, "sleep"),
    ):
        text = json.dumps(values, ensure_ascii=escaped, indent=indent).encode()
        assert [parsed(each) for each in items(memoryview(text))] == values
        named = {f'{number}"\\,': each for number, each in enumerate(values)}
        text = json.dumps(named, ensure_ascii=escaped, indent=indent).encode()
        assert {name: parsed(each) for name, each in fields(memoryview(text)).items()} == named


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[1]",
        '{"a": 1',
        '{"a": "1}',
        '{"a": [1}',
        "{a: 1}",
        '{"a" 1}',
        '{"a": 1,}',
        '{,"a": 1}',
        '{"a": "\\"}',
        "{}}",
    ],
)
@pytest.mark.parametrize("short", [-1, 4096])
def test_what_is_no_object_is_refused(text: str, short: int) -> None:
    with patch.object(json_members, "_SHORT", short), pytest.raises(NotJson):
        value(fields(memoryview(text.encode()))["a"], most_bytes=10)


def test_small_values_cost_no_sleep_each() -> None:
    """100,000 tasks, each looked into, took two minutes."""
    tasks = b",".join(b'{"id": %d, "data": {"image": "/\\"{,"}}' % number for number in range(5000))
    with patch.object(json_members, "sleep") as sleep:
        found = [fields(fields(task)["data"]) for task in items(memoryview(b"[%s]" % tasks))]
    assert {parsed(each["image"]) for each in found} == {'/"{,'}
    assert sleep.call_count <= len(tasks) // 2**18 + 1


def test_what_is_no_list_is_refused() -> None:
    for text in ("{}", "[1", "[1,,2]", "[1,]", "[]]"):
        with pytest.raises(NotJson):
            items(memoryview(text.encode()))
    assert items(memoryview(b" [ ] ")) == []


def test_a_field_comes_once_and_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Repeated):
        fields(memoryview(b'{"a": 1, "\\u0061": 2}'))
    monkeypatch.setattr(json_members, "MOST_MEMBERS", 3)
    assert len(items(memoryview(b"[1,2,3]"))) == 3
    with pytest.raises(TooMany):
        items(memoryview(b"[1,2,3,4]"))


def test_single_values() -> None:
    assert value(memoryview(b' "a\\n" '), most_bytes=10) == "a\n"
    assert is_null(memoryview(b" null"))
    assert not is_null(memoryview(b'"null"'))
    assert value(memoryview(b'"\\ud83d\\ude00"'), most_bytes=20) == "\U0001f600"
    for text in (b"NaN", b"[" * 100_000, b"1" * 5000, b'"12345678901"', b'"\\ud83d"', b'"\xff"'):
        with pytest.raises(NotJson):
            value(memoryview(text), most_bytes=10 if text[0] == ord('"') else 10**6)


def test_other_threads_get_the_interpreter_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr(json_members, "sleep", sleeps.append)
    monkeypatch.setattr(json_members, "_PIECE", 1000)
    assert len(items(memoryview(b"[" + b"[1,2]," * 999 + b"3]"))) == 1000
    assert len(sleeps) == 6
    assert min(sleeps) > 0, "sleep(0) hands nothing over"


@pytest.mark.parametrize("cut", range(8))
def test_the_middle_of_a_long_string_is_passed_over(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_members, "_PIECE", 8)
    values = ["-" * cut + "\\" + "a" * 40 + '"' + "b,]" * 20, 1, "\\" * 9 + "c" * 30]
    assert [parsed(each) for each in items(memoryview(json.dumps(values).encode()))] == values


def test_a_name_is_not_looked_for_in_megabytes() -> None:
    """One step of an expression over 60 MB would hold up all other threads for two seconds."""
    spaces = " " * 2**17
    for size in (60_000, 2**17):
        text = memoryview(f'{{{spaces}"{"a" * size}": 1, "b": 2}}'.encode())
        if size == 60_000:
            assert [len(name) for name in fields(text)] == [size, 1]
        else:
            with pytest.raises(NotJson, match="more than 65536 bytes"):
                fields(text)
