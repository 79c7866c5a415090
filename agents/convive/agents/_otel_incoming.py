"""The trace of whoever calls: a run that is started inside of another system's span is linked to it."""

import sys


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
