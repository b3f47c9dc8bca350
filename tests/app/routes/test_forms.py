"""Forms and fields as clients write them: pictures without a filename, base64, and fields that are given twice."""

import base64
import json
import tracemalloc
from typing import Any

import httpx
import pytest

from app.routes.forms import parse_form
from tests.fakes import Served, error, picture, serving

FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}
PNG = {"Content-Type": "image/png"}
DATA = picture()
TEXT = base64.b64encode(DATA).decode()
CLICK = [('name="point_coords"', b"[[30, 20]]"), ('name="point_labels"', b"[1]")]
FILE = ('name="image"; filename="a.png"', DATA)


def form(*parts: tuple[str, bytes]) -> bytes:
    """Build a multipart body from parts: what follows "form-data;", further headers included, and data."""
    written = b"".join(
        f"--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return written + b"--xyz--\r\n"


async def send(served: Served, *parts: tuple[str, bytes], path: str = "/embed") -> httpx.Response:
    return await served.client.post(path, content=form(*parts), headers=FORM)


def refused(response: httpx.Response, where: str, words: str) -> None:
    """Check that a reply says that a field is wrong, and why."""
    assert error(response) == (422, "validation_error")
    (detail, *_) = response.json()["error"]["details"]
    assert detail["where"].rpartition(".")[2] == where
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("size", [*range(1, 20), 10_000])
def test_pieces_of_any_size_give_the_same_fields(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece may end within what looks like a boundary, and a field within one piece or in many."""
    monkeypatch.setattr("app.routes.forms._FORM_PIECE", size)
    data = b"\r\n--xy\r\n\x00\xff--xyz\r\n-\r\n\r\n--xy"
    fields = {"empty": "", "short": "\r", "like": "\r\n--xy", "text": "a" * 50}
    parts = [(f'name="{name}"', text.encode()) for name, text in fields.items()]
    body = form(*parts[:2], ('name="image"; filename="a"', data), *parts[2:])
    assert parse_form(body, b"xyz") == (data, fields)


def test_a_file_is_copied_once() -> None:
    """A video of 256 MiB would otherwise be held three times, and counted once."""
    data = bytes(range(256)) * 2**15
    body = form(('name="image"; filename="a"', data))
    tracemalloc.start()
    try:
        assert parse_form(body, b"xyz")[0] == data
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", ["/embed", "/segment"])
@pytest.mark.parametrize("name", ["image", "file"])
@pytest.mark.parametrize(
    "head",
    [
        "",
        "; filename=a.png",
        '; filename=""',
        "; filename*=utf-8''%E6%B1%89.png",
        "\r\nContent-Type: image/png",
        "\r\nContent-Type: application/octet-stream",
        "\r\nContent-Type: text/plain; charset=utf-8",
        "\r\nContent-Length: 99\r\nContent-Transfer-Encoding: binary",
    ],
)
async def test_a_picture_needs_no_filename(path: str, name: str, head: str) -> None:
    async with serving() as served:
        prompt = CLICK if path == "/segment" else []
        reply = await send(served, (f'name="{name}"{head}', DATA), *prompt, path=path)
        assert reply.status_code == 200, reply.text
        assert reply.json()["image_id"] == (await served.embed(DATA)).json()["image_id"]


@pytest.mark.parametrize(
    "text", [b"truck.jpg", b"", b"C:\\truck.jpg\r\n", "Bär.jpg".encode(), TEXT.encode(), b"a" * 9999]
)
async def test_text_in_place_of_a_file_is_told_how_to_be_one(text: bytes) -> None:
    async with serving() as served:
        refused(await send(served, ('name="image"', text)), "image", "image=@truck.jpg")
        refused(await send(served, ('name="image"\r\nContent-Type: text/plain', text)), "image", "with an @")


async def test_a_file_that_is_no_picture_is_not_taken_for_text() -> None:
    async with serving() as served:
        for head in ('name="image"; filename="a.txt"', "name=\"image\"; filename*=utf-8''a.txt"):
            assert error(await send(served, (head, b"some text"))) == (422, "invalid_image")


async def test_a_part_may_be_in_base64_as_mail_libraries_write_it() -> None:
    encoded = "\r\nContent-Transfer-Encoding: {}"
    async with serving() as served:
        for how in ("base64", "BASE64 "):
            part = (FILE[0] + encoded.format(how), base64.encodebytes(DATA))
            name = ('name="image_id"' + encoded.format(how), base64.b64encode(b"truck"))
            assert (await send(served, part, name)).json()["image_id"] == "truck"
        wrong = await send(served, (FILE[0] + encoded.format("base64"), b"QUJDQ"))
        refused(wrong, "image", "not base64")
        other = await send(served, (FILE[0] + encoded.format("quoted-printable"), DATA))
        refused(other, "image", "Content-Transfer-Encoding 'quoted-printable'")


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        f"  {TEXT}\n",
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:image/png;base64,{base64.encodebytes(DATA).decode()}",
        "data:image/png;base64," + TEXT.replace("+", "%2B").replace("=", "%3d"),
    ],
)
async def test_base64_is_read_as_it_is_written(text: str) -> None:
    async with serving() as served:
        reply = await served.post("/embed", {"image": text})
        assert reply.status_code == 200, reply.text
        assert reply.json()["image_id"] == (await served.embed(DATA)).json()["image_id"]


@pytest.mark.parametrize("data", [DATA, DATA + bytes(9000)])
async def test_a_bare_line_end_in_json_is_told_how_to_be_written(data: bytes) -> None:
    body = b'{"image": "' + base64.encodebytes(data) + b'"}'
    async with serving() as served:
        headers = {"Content-Type": "application/json"}
        reply = await served.client.post("/embed", content=body, headers=headers)
        assert error(reply) == (400, "bad_request")
        assert "base64 -w0" in reply.json()["error"]["message"]


async def test_wrapped_logits_are_the_same_logits() -> None:
    async with serving() as served:
        await served.embed(DATA, "truck")
        click = {"image_id": "truck", "point_coords": [[30, 20]], "point_labels": [1], "return_logits": True}
        logits = (await served.post("/decode", click)).json()["predictions"][0]["masks"][0]["logits"]
        lines = [logits[at : at + 76] for at in range(0, len(logits), 76)]
        same = [
            await served.post("/decode", {"image_id": "truck", "mask_input": text})
            for text in (logits, "\n".join(lines), "\r\n".join(lines).rstrip("="), logits.replace("-", "+"))
        ]
        same.append(
            await send(served, FILE, ('name="mask_input"', "\n".join(lines).encode()), path="/segment")
        )
        assert all(reply.status_code == 200 for reply in same)
        assert all(reply.json()["predictions"] == same[0].json()["predictions"] for reply in same)


async def test_json_in_a_form_may_begin_with_a_line_end_or_a_byte_order_mark() -> None:
    async with serving() as served:
        rle = {"size": [40, 60], "counts": [0, 2400]}
        for text in (f"\n {json.dumps(rle)}\n", f"\ufeff{json.dumps(rle)}"):
            reply = await send(served, FILE, ('name="mask_input"', text.encode()), path="/segment")
            assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ([*CLICK, ('name="point_coords"', b"[[50, 50]]")], "point_coords"),
        ([*CLICK, *CLICK], "point_coords"),
        ([('name="mask_format"', b"png"), *CLICK, ('name="mask_format"', b"png")], "mask_format"),
        ([('name="image_id"', b"a"), *CLICK, ('name="image_id"', b"b")], "image_id"),
        ([('name="typo"', b"1"), ('name="typo"', b"2")], "typo"),
        ([('name="prompts"', b'[{"box": [1, 2, 30, 20], "box": [1, 2, 30, 30]}]')], "box"),
        ([('name="mask_input"', b'{"size": [40, 60], "counts": [2400], "size": [40, 60]}')], "size"),
    ],
)
async def test_a_form_with_a_field_twice_is_refused(parts: list[tuple[str, bytes]], where: str) -> None:
    async with serving() as served:
        refused(await send(served, FILE, *parts, path="/segment"), where, "more than once")
        assert served.segmenter.encoded == []


async def test_two_pictures_are_refused() -> None:
    async with serving() as served:
        for name in ("image", "file"):
            refused(await send(served, FILE, (f'name="{name}"', DATA)), "image", "2 pictures")
        both = await served.post("/embed", {"image": TEXT, "url": "https://example.org/a.png"})
        refused(both, "image", "either 'image' or 'url'")


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("POST", "/embed?image_id=a&image_id=b", "image_id"),
        ("POST", "/embed?image_id=a&image%5Fid=a", "image_id"),
        ("POST", "/embed?replace=true&replace=false", "replace"),
        ("POST", "/embed?replace=&replace=true", "replace"),
        ("GET", "/images?limit=1&limit=2", "limit"),
        ("HEAD", "/images?limit=1&limit=2", "limit"),
        ("GET", "/images/truck/embedding?format=npz&format=safetensors", "format"),
        ("POST", "/decode?x=1&x=2", "x"),
        ("POST", "/segment?x=1&x=2", "x"),
    ],
)
async def test_a_query_with_a_parameter_twice_is_refused(method: str, path: str, where: str) -> None:
    async with serving() as served:
        reply = await served.client.request(method, path, content=DATA, headers=PNG)
        if method == "HEAD":
            assert reply.status_code == 422
        else:
            refused(reply, where, f"{where}: it is given more than once")


@pytest.mark.parametrize(
    "body",
    [
        {"files": {"image": DATA}, "data": {"image_id": "a"}},
        {"json": {"image": TEXT, "image_id": "a"}},
        {"json": {"image": TEXT, "image_id": "b"}},
    ],
)
async def test_a_field_in_the_query_and_in_the_body_is_refused(body: dict[str, Any]) -> None:
    async with serving() as served:
        reply = await served.client.post("/embed?image_id=b", **body)
        refused(reply, "image_id", "in the query and in the body")
        elsewhere = await served.client.post("/embed?replace=true", **body)
        assert elsewhere.status_code == 200, "one field in each is fine"


async def test_json_with_a_field_twice_is_refused_at_every_endpoint() -> None:
    json_body = {"Content-Type": "application/json"}
    async with serving() as served:
        await served.embed(DATA, "truck")
        for path, body, where in (
            ("/embed", f'{{"image": "{TEXT}", "image": "{TEXT}"}}', "image"),
            ("/decode", '{"image_id": "truck", "box": [1, 2, 30, 20], "box": [1, 2, 30, 20]}', "box"),
        ):
            reply = await served.client.post(path, content=body.encode(), headers=json_body)
            refused(reply, where, f"{where}: it is given more than once")
