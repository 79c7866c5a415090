"""Where traces go, by the standard's environment variables. Reads no clock, opens nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from convive.agents.otel._otel_content import wants_content
from convive.bus import ConviveError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
DEFAULT_ENDPOINT = "http://localhost:4318"
_PROTOCOLS = ("", "http/protobuf")


class BadCollector(ConviveError):
    """The environment names a collector that cannot be spoken to. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported: `traces` and `metrics` are whole URLs, None: not at all. `content`: words as well.

    `timeout_s` is how long one request may take, with all that it is tried again.
    """

    traces: str | None
    metrics: str | None
    content: bool
    timeout_s: float = 10.0


def export_of(environ: Mapping[str, str], *, asked: bool = False) -> Export | None:
    """What the environment says is to be exported; None for nothing. `asked`: a person wants it, whatever the default.

    Raises BadCollector for a URL, or a protocol, that is none of ours; and, when it was asked for, for an environment
    that forbids it.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        if asked:
            raise BadCollector("OTEL_SDK_DISABLED=true forbids it: nothing was sent. Unset it to export.")
        return None
    traces, metrics = _url(environ, "traces"), _url(environ, "metrics")
    if asked:
        traces = traces or f"{DEFAULT_ENDPOINT}/v1/traces"
    elif environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        traces = None
    if environ.get("OTEL_METRICS_EXPORTER", "otlp") == "none":
        metrics = None
    if traces is None and metrics is None:
        return None
    return Export(traces, metrics, wants_content(environ), _timeout_s(environ))


def _timeout_s(environ: Mapping[str, str]) -> float:
    """In seconds, as OpenTelemetry's own exporters for Python read it."""
    given = environ.get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") or environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") or "10"
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = 0.0
    return timeout_s if 0 < timeout_s <= 3_600 else 10.0


def shown_url(url: str) -> str:
    """A URL as a person may see it: without the name, password and query that it may hold."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _url(environ: Mapping[str, str], signal: str) -> str | None:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    name = own if environ.get(own, "").strip() else ENDPOINT
    given = environ.get(name, "").strip()
    if not given:
        return None
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    if protocol.strip().lower() not in _PROTOCOLS:
        raise BadCollector(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol[:40]}: only http/protobuf is spoken here. Nothing is sent; name "
            "the collector's HTTP port (4318 as a rule) and leave the protocol out."
        )
    try:
        parts = urlsplit(given)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise BadCollector(f"{name} is not the URL of a collector, such as {DEFAULT_ENDPOINT}. Nothing is sent.")
    return given if name == own else f"{given.removesuffix('/')}/v1/{signal}"
