"""Base64 as programs write it: each way gives the same bytes, and what is none is refused in words."""

import base64
from urllib.parse import quote

import pytest

from app.codecs import base64_text
from app.codecs.base64_text import Base64Error, decode_base64, decode_base64_or_data_url
from app.codecs.long_text import HAND_OVER_S, Pieces

DATA = [bytes(251 * at % 256 for at in range(size)) for size in (0, 1, 2, 3, 4, 61, 62, 63, 1000)]
WRITERS = {
    "one line": lambda data: base64.b64encode(data).decode(),
    "lines of 76": lambda data: base64.encodebytes(data).decode(),
    "CR LF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "indented": lambda data: base64.encodebytes(data).decode().replace("\n", "\n\t  "),
    "between line ends": lambda data: "\n\n" + base64.b64encode(data).decode() + " \n",
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded": lambda data: base64.b64encode(data).decode().rstrip("="),
    "URL-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "padding on its own line": lambda data: base64.b64encode(data).decode().replace("=", "\n="),
}
URLS = {
    "data URL": "data:image/png;base64,{}",
    "in capitals": "DATA:IMAGE/PNG;BASE64,{}",
    "no type": "data:;base64,{}",
    "parameters": "data:image/png;name=a.png;charset=utf-8; base64,{}",
    "behind a line end": "\n data:image/png;base64,{}",
}


@pytest.fixture(params=[base64_text._PIECE, 8, 7, 1], ids=lambda piece: f"pieces of {piece}")
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64_text, "_PIECE", request.param)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("writer", WRITERS)
def test_what_programs_write_is_read(writer: str) -> None:
    for data in DATA:
        text = WRITERS[writer](data)
        assert decode_base64(text) == decode_base64_or_data_url(text) == data
        for url in URLS.values():
            assert decode_base64_or_data_url(url.format(text)) == data


@pytest.mark.parametrize("piece", [base64_text._PIECE, 20, 5, 3])
def test_data_urls_may_have_percent_signs(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64_text, "_PIECE", piece)
    for data in DATA:
        for text in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
            assert decode_base64_or_data_url(f"data:image/png;base64,{quote(text, safe='')}") == data


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_text_in_pieces_is_read_as_one(length: int) -> None:
    def parts(text: str) -> Pieces:
        return Pieces(tuple(text[at : at + length] for at in range(0, len(text), length)) or ("",))

    for data in DATA:
        text = base64.b64encode(data).decode()
        assert decode_base64(parts(text)) == data
        url = f"data:image/png;base64,{quote(text, safe='')}"
        first, *others = parts(url[30:]).parts or ("",)
        assert decode_base64_or_data_url(Pieces((url[:30] + first, *others))) == data
    with pytest.raises(Base64Error, match="the character 'é'"):
        decode_base64_or_data_url(parts("QUJDé"))


def test_no_call_decodes_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = base64_text._bytes_of
    monkeypatch.setattr(base64_text, "_bytes_of", lambda digits: sizes.append(len(digits)) or decode(digits))
    data = bytes(3_000_000)
    assert decode_base64(Pieces((base64.b64encode(data).decode(),))) == data
    assert max(sizes) <= base64_text._PIECE


def test_other_threads_get_the_interpreter_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decoder releases the lock for so short a time, and so often, that a waiting thread never asks for it."""
    naps: list[float] = []
    monkeypatch.setattr(base64_text, "sleep", naps.append)
    data = bytes(3_000_000)
    assert decode_base64(Pieces(tuple([base64.b64encode(data[:300_000]).decode()] * 10))) == data
    assert naps == [HAND_OVER_S] * 15


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("QUJD!UJD", "the character '!'"),
        ("QUJDé", "the character 'é'"),
        ("QUJD\x00", "the character"),
        ("QUJD%3D", "the character '%'"),
        ("QUJDQ", "cut off"),
        ("Q", "cut off"),
        ("Q===", "cut off"),
        ("QQ=", "padding"),
        ("QUI==", "padding"),
        ("QUJD=", "padding"),
        ("QQ==QQ==", "before its end"),
        ("QQ==\nQUJD", "before its end"),
        ("=QUJD", "before its end"),
        ("data:image/png,QUJD", "without ';base64,'"),
        ("data:base64,QUJD", "without ';base64,'"),
        ("data:image/png;base64", "without ';base64,'"),
        ("data:image/png;base64;x=1,QUJD", "without ';base64,'"),
        ("data:image/png;base64,QUJD%zz", "the character '%'"),
        ("data:image/png;base64,QUJD%FF", "the character"),
    ],
)
def test_what_is_no_base64_is_told_why(text: str, words: str) -> None:
    with pytest.raises(Base64Error, match=r"^is ") as error:
        decode_base64_or_data_url(text)
    assert words in str(error.value)
