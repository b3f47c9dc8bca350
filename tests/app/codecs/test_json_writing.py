"""JSON in parts: the same text as in one, and no part takes long."""

import json
import math

import pytest

from app.codecs import json_writing
from app.codecs.json_writing import write_json

VALUES: dict[str, object] = {
    "nothing": [None, True, False, {}, [], "", 0],
    "an outline": {"shapes": [{"points": [[x / 3, -x] for x in range(5000)], "score": 0.5}]},
    "runs": {"rle": list(range(5000)), "format": "rle"},
    "a long string": ['"\\\n' + "é𝄞x" * 50_000],
    "rings in parts": [[[[1, 2], [3, 4]]] * 300, [[[5, 6]] * 300] * 3],
    "a mixture": [*range(300), "text", [1, "text"], (1, 2), {"a": [1, {"b": 1e300}]}],
    "not a number": [math.inf, math.nan],
}


@pytest.mark.parametrize("kind", VALUES)
def test_the_text_is_that_of_one_call(kind: str) -> None:
    assert write_json(VALUES[kind]).decode() == json.dumps(VALUES[kind])


@pytest.mark.parametrize("kind", ["an outline", "runs", "a long string", "rings in parts"])
def test_no_call_writes_much(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because each one holds the interpreter lock until it is done."""
    lengths = list[int]()
    dumps = json.dumps

    def watched(value: object) -> str:
        text = dumps(value)
        lengths.append(len(text))
        return text

    monkeypatch.setattr(json, "dumps", watched)
    monkeypatch.setattr(json_writing, "_CHARACTERS", 1000)
    write_json(VALUES[kind])
    assert len(lengths) > 1
    assert max(lengths) < 15_000
