"""OpenTelemetry: sends the stages of a request by OTLP, as child spans of the request's own span from FastAPI.

Imported only if OTEL_* turns traces on, because it needs the extra `otel`. The SDK reads its own variables:
endpoint, headers, sampler, service name. Does not know what a stage does.
"""

import threading
import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from app.telemetry.stages import Stage
from app.version import VERSION

_LAST_SPANS_S = 3.0
"""Longest wait at shutdown for a collector that does not answer. The exporter alone would try for 10 s."""


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
        parent = trace.set_span_in_context(request)
        now, now_ns = time.perf_counter(), time.time_ns()
        for stage in stages:
            span = self._tracer.start_span(
                stage.name, parent, start_time=now_ns - round(1e9 * (now - stage.started_at))
            )
            span.set_attribute("sam2.request_id", request_id)
            if stage.name == "device":
                span.set_attribute("sam2.batch_size", batch_size)
            span.end(now_ns - round(1e9 * (now - stage.ended_at)))
        return trace.format_trace_id(context.trace_id)

    def close(self) -> None:
        """Send the remaining spans, if the collector accepts them in time."""
        sending = threading.Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)
        if sending.is_alive():
            self._exporter.shutdown()  # stops its retries
