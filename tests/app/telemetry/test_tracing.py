"""Traces: a request is a span with its stages if OTEL_* turns traces on; otherwise nothing is imported or sent."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import main
from app.settings import Settings, wants_traces
from app.telemetry.start_tracing import start_tracing
from tests import fakes
from tests.fakes import LONG_S, picture, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _no_telemetry_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Receives the spans instead of a collector. The environment names a collector to the server."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr(memory, "shutdown", lambda: None)  # a Front and its device share it
    monkeypatch.setattr("app.telemetry.tracing.OTLPSpanExporter", lambda: memory)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    return memory


def by_name(spans: Sequence[ReadableSpan], parent: ReadableSpan) -> dict[str, ReadableSpan]:
    """Return the direct child spans of a span, by name."""
    assert parent.context
    return {
        span.name: span for span in spans if span.parent and span.parent.span_id == parent.context.span_id
    }


async def test_a_request_is_a_span_with_its_stages_in_order(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as served:
        await served.embed(picture(), "truck")
        response = await served.client.post(
            "/decode",
            json={"image_id": "truck", "box": [1, 2, 30, 20]},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "job-1"},
        )
        assert response.status_code == 200
        await served.client.get("/healthz")
        await served.click("unknown")
    spans = exporter.get_finished_spans()  # all are sent when the server has stopped
    requests = [span for span in spans if span.kind.name == "SERVER"]
    assert [span.name for span in requests] == ["POST /embed", "POST /decode", "POST /decode"]
    embed, decode, unknown = requests
    assert decode.context
    assert decode.parent
    assert (f"{decode.context.trace_id:032x}", f"{decode.parent.span_id:016x}") == (TRACE, PARENT)
    assert decode.attributes
    assert decode.attributes["http.route"] == "/decode"
    assert decode.attributes["http.response.status_code"] == 200
    assert decode.resource.attributes["service.name"] == "sam2-service"
    stages = by_name(spans, decode)
    assert set(stages) == {"queue", "device", "masks"}
    order = [stages[name] for name in ("queue", "device", "masks")]
    ends = [decode.start_time, *(time for span in order for time in (span.start_time, span.end_time))]
    assert all(after >= before - 1_000_000 for before, after in pairwise(ends))  # type: ignore[operator]
    assert stages["device"].attributes == {"sam2.request_id": "job-1", "sam2.batch_size": 1}
    assert set(by_name(spans, embed)) == {"hash", "picture", "queue", "device"}
    assert by_name(spans, unknown) == {}
    (line,) = [r for r in caplog.records if getattr(r, "fields", {}).get("trace_id") == TRACE]
    assert "POST /decode 200" in line.getMessage()


@pytest.mark.parametrize("method", ["decode", "everything"])
async def test_a_device_continues_the_trace_of_its_front(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(fakes, "devices_are_elsewhere", True)
    async with serving() as served:
        await served.embed(picture(), "truck")
        body = (
            {"point_coords": [[3, 2]], "point_labels": [1]} if method == "decode" else {"points_per_side": 2}
        )
        reply = await served.client.post(
            f"/{method}",
            json={"image_id": "truck"} | body,
            headers={
                "traceparent": f"00-{TRACE}-{PARENT}-01",
                "X-Request-ID": "job-1",
                "tracestate": "rojo=1",
            },
        )
        assert reply.status_code == 200
    spans = [s for s in exporter.get_finished_spans() if s.context and f"{s.context.trace_id:032x}" == TRACE]
    assert len({span.context.span_id for span in spans if span.context}) == len(spans)
    (front,) = [span for span in spans if span.parent and f"{span.parent.span_id:016x}" == PARENT]
    assert (front.name, front.kind.name) == (f"POST /{method}", "SERVER")
    below = by_name(spans, front)
    assert set(below) == {"way", f"Device {method}"}
    device = below[f"Device {method}"]
    assert device.kind.name == "SERVER"
    assert device.attributes == {"sam2.request_id": "job-1", "sam2.device": "0"}
    assert device.context
    assert device.context.trace_state.get("rojo") == "1"
    stages = by_name(spans, device)
    assert {"queue", "device"} <= set(stages)
    assert (
        stages["device"].attributes == {"sam2.request_id": "job-1", "sam2.batch_size": 1}
        or method != "decode"
    )
    assert len(spans) == 3 + len([span for span in spans if span.parent == device.context])  # no stage twice
    slack = 1_000_000
    assert front.start_time - slack <= device.start_time <= device.end_time <= front.end_time + slack


async def test_a_key_in_a_query_is_not_sent_to_the_collector(exporter: InMemorySpanExporter) -> None:
    key = "0123456789abcdef"
    async with serving(Settings(workers=2, api_keys=f"anna:{key}")) as served:
        headers = {"Authorization": f"Bearer {key}"}
        await served.client.post(f"/sam2/embed_image?api_key={key}&image_id=a&v=", json={})
        await served.client.get("/images?limit=1", headers=headers)
    embed, images = (span.attributes for span in exporter.get_finished_spans() if span.kind.name == "SERVER")
    assert embed
    assert embed["url.path"] == "/sam2/embed_image"
    assert embed["url.query"] == "api_key=REDACTED&image_id=REDACTED&v=REDACTED"
    assert images
    assert images["url.query"] == "limit=REDACTED"
    assert key not in str([dict(embed), dict(images)])


async def test_without_a_trace_of_its_request_a_device_begins_none(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "devices_are_elsewhere", True)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with serving() as served:
        await served.embed(picture(), "truck")
        assert (await served.click("truck")).status_code == 200
    assert exporter.get_finished_spans() == ()


async def test_the_environment_names_the_service(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "masks")
    async with serving() as served:
        await served.client.get("/images")
    (span,) = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == "masks"


async def test_a_request_that_is_not_sampled_is_answered_all_the_same(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serving() as served:
        await served.embed(picture(), "truck")
        assert (await served.click("truck")).status_code == 200
    assert exporter.get_finished_spans() == ()


async def test_a_collector_that_does_not_answer_does_not_keep_the_server_from_stopping(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("app.telemetry.tracing._LAST_SPANS_S", 0.05)
    monkeypatch.setattr(exporter, "export", lambda spans: ended.wait(LONG_S) and SpanExportResult.FAILURE)
    monkeypatch.setattr(exporter, "shutdown", ended.set)
    async with serving() as served:
        await served.client.get("/images")
        assert not ended.is_set()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "masks"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
    ],
)
def test_traces_are_wanted_as_opentelemetry_says(
    variables: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_traces() is wanted


def test_without_the_extra_the_server_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "app.telemetry.tracing", None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    main.create_app()
    assert "pip install '.[otel]'" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "of_nobody"),
    ],
)
def test_a_wrong_variable_costs_the_traces_and_not_the_server(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    for module in ("opentelemetry.sdk.trace", "app.telemetry.tracing"):
        monkeypatch.delitem(
            sys.modules, module, raising=False
        )  # as in a new process: some are read on import
    assert start_tracing() is None
    assert "cannot be used, so none are sent" in caplog.text
