"""A collector for tests: it takes OTLP over HTTP, decodes it, and fails when told to."""

import gzip
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Attribute = str | bool | int | float | list[str]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it arrived. Ids are hex; `parent_id` is empty for a root. Times in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    attributes: dict[str, Attribute]
    start_ns: int
    end_ns: int
    failed: bool
    message: str
    links: tuple[tuple[str, str, dict[str, Attribute]], ...]
    """Trace id, span id and attributes of each."""
    resource: dict[str, Attribute]


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One series of a histogram or of a counter as it arrived; of a counter, `count` and `total` are the same."""

    name: str
    unit: str
    attributes: dict[str, Attribute]
    count: int
    total: float


class OtlpReceiver:
    """What arrived at `url`. `answers` are statuses for the next requests, then 200; see also `hang`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: deque[int] = deque()
        self.bodies: list[tuple[str, bytes]] = []
        """The path and the body of each request that was answered with 200."""
        self.asked = 0
        """How many requests came."""
        self._news = threading.Condition()
        self._free = threading.Event()
        self._free.set()

    def hang(self) -> None:
        """Answer nothing more, until `go_on`."""
        self._free.clear()

    def go_on(self) -> None:
        """Answer what waits, and what comes."""
        self._free.set()

    @property
    def environ(self) -> dict[str, str]:
        """What has a process export to here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans in the order of arrival, those that came twice as well."""
        return [span for path, body in self.bodies if path == "/v1/traces" for span in decoded_spans(body)]

    @property
    def points(self) -> list[ReceivedPoint]:
        """The last that arrived of the metrics."""
        bodies = [body for path, body in self.bodies if path == "/v1/metrics"]
        return list(_points(bodies[-1])) if bodies else []

    async def until(self, holds: Callable[["OtlpReceiver"], bool], timeout_s: float = 30.0) -> None:
        """Wait until something holds, looked at whenever a request comes or is answered. Raises TimeoutError."""

        def wait() -> bool:
            with self._news:
                return self._news.wait_for(lambda: holds(self), timeout_s)

        if not await anyio.to_thread.run_sync(wait):
            raise TimeoutError(f"{self.asked} requests came, {len(self.bodies)} were taken")

    def take(self, path: str, body: bytes) -> int:
        """A request: the status to answer with, once it may be answered."""
        with self._news:
            self.asked += 1
            status = self.answers.popleft() if self.answers else 200
            self._news.notify_all()
        self._free.wait()
        with self._news:
            if status == 200:
                self.bodies.append((path, body))
            self._news.notify_all()
        return status


@contextmanager
def otlp_receiver() -> Generator[OtlpReceiver]:
    """A collector on loopback that keeps and decodes what it gets: `with otlp_receiver() as receiver`."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        receiver = OtlpReceiver(f"http://127.0.0.1:{server.server_address[1]}")
        server.receiver = receiver
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.go_on()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: OtlpReceiver


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, _Server)  # noqa: S101 - for the type checker
        status = self.server.receiver.take(self.path, body)
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            self.close_connection = True  # whoever asked has given up

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read what arrived."""


def decoded_spans(body: bytes) -> Iterator[ReceivedSpan]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # slow to load
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    _attributes(span.attributes),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.status.message,
                    tuple(
                        (link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links
                    ),
                    resource,
                )


def _points(body: bytes) -> Iterator[ReceivedPoint]:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest  # the same

    for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in of_resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.histogram.data_points:
                    yield ReceivedPoint(metric.name, metric.unit, _attributes(point.attributes), point.count, point.sum)
                for each in metric.sum.data_points:
                    attributes = _attributes(each.attributes)
                    yield ReceivedPoint(metric.name, metric.unit, attributes, each.as_int, each.as_int)


def _attributes(pairs: "Iterable[KeyValue]") -> dict[str, Attribute]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: "AnyValue") -> Attribute:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [str(_value(one)) for one in value.array_value.values]
        case other:
            raise ValueError(f"an attribute of the kind {other}")
