"""OpenTelemetry: sends the stages of a request by OTLP, as child spans of the request's own span from FastAPI.

Imported only if OTEL_* turns traces on, because it needs the extra `otel`. The SDK reads its own variables:
endpoint, headers, sampler, service name. Does not know what a stage does.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.telemetry.stages import Stage
from app.version import VERSION

REQUEST_ID = "sam2.request_id"
_QUERY = "url.query"
_W3C = TraceContextTextMapPropagator()
_LAST_SPANS_S = 3.0
"""Longest wait at shutdown for a collector that does not answer. The exporter alone would try for 10 s."""


class _NoValuesOfQueries(SpanProcessor):
    """Leaves only names of what follows "?" in a URL. Roboflow's clients send their key there."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002  # OpenTelemetry's
        if query := (span.attributes or {}).get(_QUERY):
            span.set_attribute(
                _QUERY,
                "&".join(f"{name}=REDACTED" for name, _ in parse_qsl(str(query), keep_blank_values=True)),
            )


class Tracing:
    """Sends spans. Has its own provider, because nothing else in the process should be traced."""

    def __init__(self) -> None:
        ours = Resource.create({"service.name": "sam2-service", "service.version": VERSION})
        self._exporter: SpanExporter = OTLPSpanExporter()
        self.provider = TracerProvider(
            # The service's attributes in the environment override those given here.
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(_NoValuesOfQueries())
        self.provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self.provider.get_tracer("sam2", VERSION)

    def end_request(self, stages: Sequence[Stage], *, request_id: str, batch_size: int) -> str:
        """Add the stages of a finished request to its span. Returns the trace id, or "" without a span.

        The stages are added afterwards, with their own times, so that the device thread does no work for a trace.
        """
        request = trace.get_current_span()
        context = request.get_span_context()
        if not context.is_valid:
            return ""
        self._add(request, stages, request_id=request_id, batch_size=batch_size)
        return trace.format_trace_id(context.trace_id)

    def context(self) -> dict[str, str]:
        """Return the headers by which another process continues the trace of the current span; none without one."""
        headers: dict[str, str] = {}
        _W3C.inject(headers)
        return headers

    def end_call(
        self,
        context: Mapping[str, str],
        name: str,
        stages: Sequence[Stage],
        *,
        started_at: float,
        attributes: Mapping[str, str],
        batch_size: int,
    ) -> None:
        """Add what this process has done for another one, whose headers `context` has, with its stages."""
        call = self._tracer.start_span(
            name,
            _W3C.extract(context),
            kind=trace.SpanKind.SERVER,
            start_time=_ns(started_at),
            attributes=attributes,
        )
        self._add(call, stages, request_id=attributes.get(REQUEST_ID, ""), batch_size=batch_size)
        call.end()

    def _add(self, parent: trace.Span, stages: Sequence[Stage], *, request_id: str, batch_size: int) -> None:
        within = trace.set_span_in_context(parent)
        for stage in stages:
            if stage.is_traced:
                continue
            span = self._tracer.start_span(stage.name, within, start_time=_ns(stage.started_at))
            span.set_attribute(REQUEST_ID, request_id)
            if stage.name == "device":
                span.set_attribute("sam2.batch_size", batch_size)
            span.end(_ns(stage.ended_at))

    def close(self) -> None:
        """Send the remaining spans, if the collector accepts them in time."""
        sending = threading.Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)
        if sending.is_alive():
            self._exporter.shutdown()  # stops its retries


def _ns(at: float) -> int:
    """Return a value of time.perf_counter() as nanoseconds of the clock."""
    return time.time_ns() - round(1e9 * (time.perf_counter() - at))
