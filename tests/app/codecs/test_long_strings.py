"""Long strings where none belong: refused without being copied, and without a word of what stood for them."""

import json
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from app.codecs import json_bodies
from app.codecs.json_bodies import parse
from app.codecs.long_text import Pieces
from app.errors import ServiceError
from app.routes import field_errors
from app.routes.schemas import DecodeBody, EmbedBody
from app.routes.track_fields import TrackBody
from app.routes.uploads import parse_json

LONG = "A" * 10_000


def decode_body(**more: Any) -> dict[str, Any]:
    return {"image_id": "a", "point_coords": [[1.5, 2]], "point_labels": [1]} | more


@pytest.mark.parametrize(
    ("model", "body", "where"),
    [
        (DecodeBody, {"image_id": LONG}, "image_id"),
        (DecodeBody, decode_body(mask_format=LONG), "mask_format"),
        (DecodeBody, decode_body(zz=LONG), "zz"),
        (DecodeBody, decode_body(box=[LONG]), "box[0]"),
        (DecodeBody, {"image_id": "a", "prompts": [LONG]}, "prompts[0]"),
        (DecodeBody, decode_body(**{LONG: 1}), "the name of a field"),
        (TrackBody, {"frames": ["a", LONG]}, "frames[1]"),
        (TrackBody, {"video_id": LONG}, "video_id"),
    ],
)
def test_nothing_shows_what_stands_for_a_string(
    model: Any, body: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: No embedding for image_id '941f4787affdda8ad0472ce1061d5a16:0'."""
    token = json_bodies._new_token()
    monkeypatch.setattr(json_bodies, "_new_token", lambda: token)
    with pytest.raises(ServiceError) as error:
        parse_json(model, json.dumps(body).encode())
    assert error.value.details
    assert error.value.details[0]["where"] == where
    assert token[:8] not in error.value.message + str(error.value.details)


class _Words(BaseModel):
    words: list[Annotated[str, Field(max_length=6000)]]


def test_long_strings_in_lists_are_put_back_and_checked() -> None:
    words = ["a", "b" * 5000, "c"]
    assert parse(_Words, json.dumps({"words": words}).encode()).words == words
    with pytest.raises(ValidationError) as error:
        parse(_Words, json.dumps({"words": ["a", LONG]}).encode())
    assert error.value.errors()[0]["loc"] == ("words", 1)


@pytest.mark.parametrize(
    ("model", "body", "where"),
    [
        (EmbedBody, {"url": "https://"}, "url"),
        (DecodeBody, decode_body(mask_input=""), "mask_input"),
        (DecodeBody, decode_body(mask_input={"size": [3, 4], "counts": ""}), "counts"),
    ],
)
def test_megabytes_where_none_belong_are_not_copied(
    model: Any, body: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pieces, "__str__", lambda _: pytest.fail("copied"))
    text = json.dumps(body)
    at = text.rindex('"', 0, text.rindex("}")) if where != "counts" else text.rindex('"')
    with pytest.raises(ServiceError, match=rf"^{where}: it has \d+ characters, where at most 8388608"):
        parse_json(model, (text[:at] + "a" * 9_000_000 + text[at:]).encode())


def test_errors_do_not_write_a_value_that_they_would_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repr of a million numbers takes 100 ms, in which nothing else runs."""
    monkeypatch.setattr(field_errors, "repr", lambda value: _short(value), raising=False)
    for wrong in ([0] * 9000, [[0] * 9000], {"x": [0] * 9000}):
        with pytest.raises(ServiceError, match=r"^image_id: Input should be a valid string"):
            parse_json(DecodeBody, json.dumps(decode_body(image_id=wrong)).encode())
    with pytest.raises(ServiceError, match=r"\(got \[1, 2\]\)"):
        parse_json(DecodeBody, json.dumps(decode_body(image_id=[1, 2])).encode())


def _short(value: object) -> str:
    text = repr(value)
    assert len(text) < 1000
    return text
