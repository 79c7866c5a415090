"""The trace of whoever calls: a run that is started inside of another system's span is linked to it, or joins it."""

import os
import sys
from collections.abc import Mapping

from convive.bus import RunContext

VARIABLE = "TRACEPARENT"
"""Where OpenTelemetry has a process find the trace of whoever started it."""


def incoming() -> str:
    """The `traceparent` of the OpenTelemetry span around this code, or an empty string.

    A process in which nothing has loaded OpenTelemetry has no spans: it pays for one look into a dictionary.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ""
    from opentelemetry.trace import get_current_span  # loaded already

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"


def join_trace(environ: Mapping[str, str] = os.environ) -> RunContext:
    """A new outermost run that is part of the trace around this code: for `run=`, and for `Conversation.open`.

    That is the trace of the OpenTelemetry span around it, or else the one that `TRACEPARENT` names: its spans go on
    below that span. Without either the run is a trace of its own; one that is not sampled is linked, not joined.
    """
    return RunContext.root(started_from=incoming() or environ.get(VARIABLE, "").strip(), join=True)
