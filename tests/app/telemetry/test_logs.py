"""The log, as text or JSON: clients cannot forge lines, and it contains no API key and no picture."""

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from app.__main__ import configure_logging
from app.middleware.access import Message
from app.settings import Settings
from app.telemetry.logs import JsonFormatter, TextFormatter
from tests.fakes import FakeSegmenter, Served, error, picture, serving

FORMATS = ["text", "json"]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.error")}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


class Output:
    """Captured standard error, where the log goes."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    @property
    def text(self) -> str:
        """All output so far."""
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    """The log output of a test's server."""
    return Output(capsys)


def lines_of(output: Output) -> list[dict[str, Any]]:
    """Return the JSON log as objects."""
    return [json.loads(line) for line in output.text.splitlines()]


def record(message: str, **more: Any) -> logging.LogRecord:
    """Return a record like those of a logger."""
    made = logging.LogRecord("app.x", logging.WARNING, "x.py", 1, message, (), None)
    for name, value in more.items():
        setattr(made, name, value)
    return made


async def test_a_request_is_one_object_with_all_that_is_known_of_it(output: Output) -> None:
    configure_logging(Settings(log_format="json"))
    async with serving() as served:
        data = picture()
        await served.client.post(
            "/embed",
            content=data,
            params={"image_id": "truck"},
            headers={"Content-Type": "image/png", "X-Request-ID": "job-1"},
        )
        reply = await served.click("truck")
        await served.click("unknown")
        await served.client.get("/images/truck")
    lines = [line for line in lines_of(output) if "route" in line]
    embed, click, unknown, look = lines
    assert embed["request_id"] == "job-1"
    assert embed["bytes_in"] == len(data)
    assert set(embed["stages_ms"]) == {"hash", "picture", "queue", "device"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", click["time"])
    assert (click["level"], click["logger"]) == ("info", "app.middleware.access")
    assert (click["method"], click["route"], click["path"]) == ("POST", "/decode", "/decode")
    assert (click["status"], click["batch_size"], click["bytes_out"]) == (200, 1, len(reply.content))
    assert set(click["stages_ms"]) == {"queue", "device", "masks"}
    assert click["duration_ms"] >= sum(click["stages_ms"].values()) - 1
    assert (unknown["status"], "batch_size" in unknown, "stages_ms" in unknown) == (404, False, False)
    assert (look["route"], look["path"]) == ("/images/{image_id}", "/images/truck")
    assert "tenant" not in look


async def test_a_tenant_is_named_where_there_is_one(output: Output) -> None:
    configure_logging(Settings(log_format="json"))
    key = "a key of sixteen characters at least"
    async with serving(Settings(api_keys=f"alice:{key}")) as served:  # type: ignore[arg-type]  # pydantic converts it
        await served.client.get("/images", headers={"X-API-Key": key})
    assert lines_of(output)[-1]["tenant"] == "alice"


async def test_a_request_that_failed_late_has_its_stages(output: Output) -> None:
    configure_logging(Settings(log_format="json"))
    async with serving() as served:
        served.segmenter.fail_next = ValueError("a broken kernel")
        assert error(await served.embed(picture())) == (500, "inference_failed")
    lines = lines_of(output)
    assert set(lines[-1]["stages_ms"]) == {"hash", "queue", "picture"}
    (broken,) = [line for line in lines if "exception" in line]
    assert broken["exception"].startswith("Traceback (most recent call last):\n")
    assert broken["exception"].endswith("ValueError: a broken kernel")


async def test_text_is_for_people(output: Output) -> None:
    configure_logging(Settings())
    async with serving() as served:
        await served.embed(picture(), "truck")
        await served.click("truck")
    last = output.text.splitlines()[-1]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d INFO    [0-9a-f]{32} POST /decode 200 [\d.]+ ms, "
        r"queue [\d.]+, device [\d.]+, masks [\d.]+",
        last,
    )


async def ask(served: Served, path: str, *, method: str = "GET", request_id: str = "job-1") -> None:
    """Send a request directly to the app: real clients and servers would reject it."""

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        pass

    headers = [(b"x-request-id", request_id.encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    await served.app(scope, receive, send)


FORGED = "x\n2026-01-01T00:00:00 INFO    job-1 GET /admin 200\r\x1b[2J\x00\x85\u2028\u202e"


@pytest.mark.parametrize("log_format", FORMATS)
async def test_a_client_cannot_forge_a_line(log_format: Any, output: Output) -> None:
    configure_logging(Settings(log_format=log_format))
    async with serving() as served:
        await ask(served, "/images", request_id=FORGED)
        await ask(served, "/images/a\nINFO forged\x1b[2J")
        await ask(served, f"/{FORGED}")
        await ask(served, "/images", method="GET\x1b")
    text = output.text
    requests = [line for line in text.split("\n") if "/images" in line or "admin" in line]
    assert len(requests) == 4
    assert all(c == "\n" or " " <= c <= "~" for c in text)
    if log_format == "json":
        assert lines_of(output)[-2]["path"] == f"/{FORGED}"
        assert re.fullmatch("[0-9a-f]{32}", lines_of(output)[-4]["request_id"])


@pytest.mark.parametrize("log_format", FORMATS)
async def test_no_key_and_no_picture_is_logged(
    log_format: Any, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(Settings(log_format=log_format, log_level="debug"))
    async with serving() as served:
        headers = {"Authorization": "Bearer s3cret", "X-API-Key": "s3cret", "Cookie": "k=s3cret"}
        picture_text = "UElDVFVSRQ" * 2000
        for path in ("/embed", "/decode", "/nowhere"):
            await served.client.post(
                f"{path}?key=s3cret", json={"image": picture_text, "api_key": "s3cret"}, headers=headers
            )

        def fail(*_: object, **__: object) -> None:
            raise ValueError(f"cannot read {picture_text}")

        monkeypatch.setattr("app.routes.embed_decode.parse_upload", fail)
        response = await served.client.post("/embed", json={"image": picture_text}, headers=headers)
        assert error(response) == (500, "internal_error")
    text = output.text
    assert "cannot read" in text
    assert "s3cret" not in text
    assert text.count("UElDVFVSRQ") < 150  # of 2000: messages are truncated


@pytest.mark.parametrize("log_format", FORMATS)
def test_all_loggers_write_in_one_form(log_format: Any, output: Output) -> None:
    configure_logging(Settings(log_format=log_format))
    logging.getLogger("uvicorn.error").warning("from uvicorn")
    logging.getLogger("asyncio").error("from asyncio")
    logging.getLogger("app").info("from us")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("from a library", stacklevel=1)
        logging.captureWarnings(capture=False)
    if log_format == "json":
        messages = [line["message"] for line in lines_of(output)]
    else:
        form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d [A-Z]{4,8} +- (.*)")
        messages = [form.fullmatch(line)[1] for line in output.text.splitlines()]  # type: ignore[index]
    assert messages[:3] == ["from uvicorn", "from asyncio", "from us"]
    assert len(messages) == 4
    assert "from a library" in messages[3]


def test_an_exception_is_indented_in_text_and_one_field_in_json() -> None:
    try:
        raise ValueError("two\nlines\x1b[2J")
    except ValueError:
        broken = record("It broke.", exc_info=sys.exc_info(), stack_info="Stack:\n  there")
    head, *rest = TextFormatter().format(broken).split("\n")
    assert head.endswith("WARNING - It broke.")
    assert all(line.startswith("  ") for line in rest)
    assert rest[-4:] == ["  ValueError: two", r"  lines\x1b[2J", "  Stack:", "    there"]
    line = JsonFormatter().format(broken)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["exception"].endswith("ValueError: two\nlines\x1b[2J")
    assert json.loads(line)["stack"] == "Stack:\n  there"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_what_is_endless_is_cut(formatter: logging.Formatter) -> None:
    text = formatter.format(record("x" * 100_000, stack_info="y\n" * 100_000))
    assert len(text) < 3000
    assert "99000 characters more" in text
    assert "lines left out" in text


@pytest.mark.parametrize("log_format", FORMATS)
async def test_a_path_of_60_kb_does_not_fill_the_log(log_format: Any, output: Output) -> None:
    """Anybody can send one, also without a key; JSON had the whole path in a field of its own."""
    configure_logging(Settings(log_format=log_format))
    async with serving() as served:
        assert error(await served.client.get("/" + "a" * 60_000)) == (404, "not_found")
    assert max(map(len, output.text.splitlines())) < 3000


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    line = JsonFormatter().format(record("\udc80 \x7f é", fields={"where": io.StringIO}))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == "\udc80 \x7f é"
    assert "StringIO" in json.loads(line)["where"]


async def test_health_checks_are_not_logged(output: Output) -> None:
    configure_logging(Settings(log_format="json"))
    async with serving(segmenter=FakeSegmenter()) as served:
        await quiet(served)
    assert not [line for line in lines_of(output) if "route" in line]


async def quiet(served: Served) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await served.client.get(path)).status_code == 200
