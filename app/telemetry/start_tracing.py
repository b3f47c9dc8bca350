"""Starts traces if OTEL_* wants them and the extra is installed. Does not know what is traced."""

import logging
from typing import TYPE_CHECKING

from app.settings import wants_traces

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing

log = logging.getLogger(__name__)


def start_tracing() -> "Tracing | None":
    """Return what sends spans; None if nobody wants them, or if they cannot be had."""
    if not wants_traces():
        return None
    try:
        # Here, because the SDK is large and few need it. It reads some of its variables when it is imported.
        from app.telemetry.tracing import Tracing

        return Tracing()
    except ImportError as error:
        log.warning(
            "OTEL_* variables enable traces, but the extra 'otel' is not installed: pip install '.[otel]' (%s)",
            error,
        )
        return None
    # A number that is none or too small, or a plug-in that is not there.
    except (ValueError, RuntimeError) as error:
        log.error(
            "OTEL_* variables enable traces, and one of them cannot be used, so none are sent: %s", error
        )
        return None
