"""JSON of any size: parsed as by pydantic; bodies with too many values are rejected before parsing."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.codecs import json_bodies
from app.codecs.json_bodies import MAX_ITEMS, MAX_OBJECTS, MAX_STRINGS, Repeated, TooMany, parse
from app.codecs.long_text import Pieces
from app.doors.label_studio.bodies import Context
from app.routes.schemas import DecodeBody, EmbedBody
from app.routes.stream_messages import StreamPrompt
from app.routes.track_fields import TrackBody

LONG = "A" * 10_000
RLE = "a[],:0o\\\\" * 2000


def decode_body(**more: Any) -> dict[str, Any]:
    return {"image_id": "a", "point_coords": [[1.5, 2]], "point_labels": [1]} | more


@pytest.mark.parametrize(
    "body",
    [
        decode_body(mask_input=LONG),
        decode_body(mask_input={"size": [3, 4], "counts": LONG}),
        decode_body(mask_input={"size": [3, 4], "counts": "0[{"[:2] * 5000}),
        decode_body(mask_input={"size": [3, 4], "counts": list(range(5000))}),
        decode_body(mask_input=LONG + '"' + "\\" * 7 + LONG),
        decode_body(mask_input=LONG + "é"),
        {"image_id": "a", "prompts": [{"mask_input": LONG + str(i)} for i in range(20)]},
        {
            "image_id": "a",
            "prompts": [{"mask_input": {"size": [3, 4], "counts": LONG}}, {"box": [1, 2, 3, 4]}],
        },
    ],
    ids=["logits", "rle", "brackets", "runs", "escapes", "a letter", "many", "mixed"],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_bodies_come_out_as_pydantic_reads_them(body: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(body, indent=indent, ensure_ascii=False).encode()
    assert parse(DecodeBody, text) == DecodeBody.model_validate_json(text)


def test_a_picture_comes_out_whole() -> None:
    picture = "QUJD" * 2_000_000
    body = json.dumps({"image_id": "a", "image": picture}).encode()
    assert str(parse(EmbedBody, body).image) == picture


def test_no_step_takes_more_than_a_piece_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_bodies, "_PIECE", 5000)
    image = parse(EmbedBody, json.dumps({"image": "QUJD" * 100_000}).encode()).image
    assert isinstance(image, Pieces)
    assert {len(part) for part in image.parts} == {5000}
    again = json.dumps({"image": "QU/D" * 100_000}).replace("/", "\\/").encode()
    image = parse(EmbedBody, again).image
    assert isinstance(image, Pieces)
    assert max(map(len, image.parts)) <= 5000


def test_long_strings_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    validate = EmbedBody.model_validate_json
    monkeypatch.setattr(
        EmbedBody, "model_validate_json", lambda data: seen.append(len(data)) or validate(data)
    )
    parse(EmbedBody, json.dumps({"image": "A" * 1_000_000}).encode())
    assert seen[0] < 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"image_id": "a", "mask_input": "' + b"A" * 5000,
        b'{"image_id": "a", "mask_input": "' + b"A" * 5000 + b'\\"',
        b'{"image_id": "a", "mask_input": ' + b"A" * 5000 + b"}",
        b'"' * 5001,
        b"\\" * 5000,
        b"[" * 5000,
        bytes(5000),
    ],
    ids=["cut", "cut after an escape", "no quotes", "quotes", "backslashes", "brackets", "zeros"],
)
def test_what_is_not_json_is_pydantics_to_refuse(body: bytes) -> None:
    with pytest.raises(ValidationError) as error:
        parse(DecodeBody, body)
    assert error.value.errors()[0]["type"] == "json_invalid"


@pytest.mark.parametrize("name", ["mask_input", "image_id", "A" * 4000])
def test_wrong_fields_are_refused_as_ever(name: str) -> None:
    body = json.dumps({"image_id": "a", name: [LONG]}).encode()
    with pytest.raises(ValidationError):
        parse(DecodeBody, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"image_id": "a", "point_coords": [0' + b",0" * MAX_ITEMS + b",0]}",
        b'{"image_id": "a", "prompts": [{}' + b",{}" * MAX_OBJECTS + b"]}",
        b'{"image_id": "a"' + b"".join(b',"%x":1' % i for i in range(MAX_STRINGS)) + b"}",
        b"[" * (2 * MAX_ITEMS + 1),
    ],
    ids=["values", "objects", "fields", "lists"],
)
def test_more_values_than_any_request_needs_are_refused_unparsed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecodeBody, "model_validate_json", lambda _: pytest.fail("parsed"))
    with pytest.raises(TooMany, match="more than"):
        parse(DecodeBody, body)


def test_a_request_of_the_largest_kind_is_read() -> None:
    points = [[float(x), 2.5] for x in range(256)]
    prompts = [{"point_coords": points, "point_labels": [1] * 256}] * 256
    body = json.dumps({"image_id": "a", "prompts": prompts}).encode()
    assert len(parse(DecodeBody, body).prompts or []) == 256


def test_what_stands_for_a_string_cannot_be_guessed_and_serves_one_body() -> None:
    seen = [json_bodies._new_token() for _ in range(3)]
    assert len({token[:32] for token in seen}) == 3
    body = json.dumps(decode_body(mask_input="0" * 33 + "0" * 9000)).encode()
    assert parse(DecodeBody, body).mask_input == "0" * 9033


PICTURE = "iVBO+/9z" * 2000
WRITTEN = {
    "lines, as Python does": PICTURE.replace("9", "9\\n"),
    "lines, as Windows does": PICTURE.replace("9", "9\\r\\n"),
    "PHP": PICTURE.replace("/", "\\/"),
    ".NET": PICTURE.replace("+", "\\u002B"),
    "an escape at the end": PICTURE + "\\n",
    "one escape after another": "\\n" * 9000,
    "escaped backslashes": PICTURE.replace("9", "\\\\"),
    "one escaped backslash after another": "\\\\" * 9000,
}


@pytest.mark.parametrize("piece", [json_bodies._PIECE, 1000, 7])
@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_escapes_in_long_strings_are_read_in_pieces(
    text: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bodies, "_PIECE", piece)
    body = f'{{"image": "{text}"}}'
    seen: list[int] = []
    validate = EmbedBody.model_validate_json
    monkeypatch.setattr(
        EmbedBody, "model_validate_json", lambda data: seen.append(len(data)) or validate(data)
    )
    assert str(parse(EmbedBody, body.encode()).image) == json.loads(body)["image"]
    assert seen[0] < 200


@pytest.mark.parametrize("piece", [7, 8, 1000])
@pytest.mark.parametrize("written", [r"\\", r"\\u002B", r"\\\\", r"\\\n", r"\n\\", r"\u005c\\", r"\\\u005c"])
def test_escaped_backslashes_are_read_wherever_a_piece_ends(
    written: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bodies, "_PIECE", piece)
    for before in range(12):
        text = "A" * before + f"{written}{'A' * 11}" * 400
        body = f'{{"image": "{text}"}}'
        assert str(parse(EmbedBody, body.encode()).image) == json.loads(body)["image"]


@pytest.mark.parametrize("backslashes", [*range(20), 63, 64, 100_000, 100_001])
def test_backslashes_before_a_quote_are_counted_in_few_steps(backslashes: int) -> None:
    """One at a time, 64 MiB of them hold a worker for a quarter of a minute."""
    pieces = 0

    class Body(bytes):
        def __getitem__(self, place: Any) -> Any:
            nonlocal pieces
            pieces += 1
            return super().__getitem__(place)

    body = Body(b'"' + b"\\" * backslashes + b'"}')
    found = [(1, 1 + backslashes)] if backslashes % 2 == 0 else []
    assert list(json_bodies._strings(body)) == found
    assert pieces < 30


@pytest.mark.parametrize("text", [LONG + "\n", "\t" + LONG, LONG + "\\x", LONG + "\\ud800", LONG + "\\u00"])
@pytest.mark.parametrize("long", [True, False])
def test_what_no_string_may_hold_is_refused_at_any_length(text: str, long: bool) -> None:
    text = text if long else text.replace(LONG, "A")
    with pytest.raises(ValidationError) as error:
        parse(EmbedBody, f'{{"image": "{text}"}}'.encode())
    assert error.value.errors()[0]["type"] == "json_invalid"


@pytest.mark.parametrize(
    ("model", "body", "name"),
    [
        (DecodeBody, {"image_id": LONG}, "image_id"),
        (EmbedBody, {"url": LONG}, "url"),
        (StreamPrompt, {"image_id": "a", "tag": LONG}, "tag"),
    ],
)
def test_a_long_string_does_not_pass_where_a_short_one_belongs(
    model: Any, body: dict[str, str], name: str
) -> None:
    with pytest.raises(ValidationError) as error:
        parse(model, json.dumps(body).encode())
    assert error.value.errors()[0]["loc"][0] == name


BOX = '"box": [1, 2, 30, 40]'


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (f'{{"image_id": "a", {BOX}, {BOX}}}', "box"),
        (f'{{"image_id": "a", "image_id" : "b", {BOX}}}', "image_id"),
        (f'{{"image_id": "a", "b\\u006fx": null, {BOX}}}', "box"),
        (f'{{"image_id": "a", "prompts": [{{}}], "prompts": [{{{BOX}}}]}}', "prompts"),
        (f'{{"image_id": "a", "prompts": [{{{BOX}}}, {{{BOX},\n{BOX}}}]}}', "box"),
        ('{"image_id": "a", "mask_input": {"size": [1, 2], "counts": [2], "counts": "2"}}', "counts"),
        (f'{{"image_id": "a", "mask_input": "{LONG}", "mask_input": "{LONG}"}}', "mask_input"),
        (
            f'{{"image_id": "a", "mask_input": {{"size": [1, 2], "counts": "{LONG}", "size": [1, 2]}}}}',
            "size",
        ),
    ],
)
def test_a_field_that_is_given_twice_is_refused_wherever_it_is(body: str, name: str) -> None:
    with pytest.raises(Repeated) as error:
        parse(DecodeBody, body.encode())
    assert error.value.name == name


@pytest.mark.parametrize(
    "body",
    [
        f'{{"image_id": ":a:b", {BOX}}}',
        f'{{"image_id": "a", "prompts": [{{{BOX}}}, {{{BOX}}}, {{"point_coords": [[1, 2]]}}]}}',
        r'{"image_id": "a", "mask_input": "\": \":1"}',
        f'{{"image_id": "a", "mask_input": {{"size": [1, 2], "counts": ":::{RLE}\\":"}}}}',
        '{"image_id": ":a", "mask_input": {"size": [1, 2], "counts": [' + "9" * 4000 + "]}}",
    ],
)
def test_fields_are_not_counted_twice(body: str) -> None:
    assert parse(DecodeBody, body.encode()) == DecodeBody.model_validate_json(body)


@pytest.mark.parametrize("text", ["abc", LONG])
def test_a_byte_order_mark_is_ignored(text: str) -> None:
    assert str(parse(EmbedBody, b"\xef\xbb\xbf" + json.dumps({"image": text}).encode()).image) == text


def test_long_strings_in_lists_are_put_back_and_checked() -> None:
    region = {"type": "keypointlabels", "to_name": "image", "value": {"x": 1, "y": 2}}
    region["value"] |= {"keypointlabels": ["Eagle", LONG, "é" + LONG]}  # type: ignore[operator]
    (read,) = parse(Context, json.dumps({"result": [region]}).encode()).result
    assert read.value.keypointlabels == ["Eagle", LONG, "é" + LONG]
    with pytest.raises(ValidationError) as error:
        parse(TrackBody, json.dumps({"frames": ["a", LONG]}).encode())
    assert error.value.errors()[0]["loc"] == ("frames", 1)
