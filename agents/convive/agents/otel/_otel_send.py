"""Handing spans and metrics to a collector over OTLP/HTTP, and what came of it in words. Blocks: for threads."""

import gzip
import logging
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from convive.agents.otel._otel_metrics import Meters

BATCH = 512
"""A request costs as much as fifty spans, and a batch of this size takes milliseconds to encode."""
MOST_BYTES = 4_000_000
"""Of the spans in a request: with what was said and asked they are large, and collectors refuse what is larger."""
_LOGGERS = ("trace_exporter", "metric_exporter")
_MOST_WORDS = 200
_PACKED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a collector made of a batch. `why` is empty when it took all; `lasting`: the same again would fail again."""

    why: str = ""
    lasting: bool = False
    rejected: int = 0
    status: int | None = None


def batch_of(spans: deque[bytes]) -> list[bytes]:
    """Take as many spans as go into one request, one at least where there is one."""
    taken: list[bytes] = []
    size = 0
    while spans and len(taken) < BATCH and (not taken or size + len(spans[0]) <= MOST_BYTES):
        size += len(spans[0])
        taken.append(spans.popleft())
    return taken


class Collector:
    """Where spans go, by URL. Headers, TLS and compression: by the standard's variables."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._session = _Session()
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=timeout_s, session=self._session)

    def send(self, body: bytes) -> Outcome:
        """Send spans. Those that the collector has already are sent again without harm. Raises nothing but bugs."""
        self._session.begin(body)
        with _quiet():
            done = self._exporter.export(()) is SpanExportResult.SUCCESS
        return self._session.outcome(done=done)

    def close(self) -> None:
        """Break off what waits to try again. From any thread, once."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class MetricsCollector:
    """Where metrics go."""

    def __init__(self, url: str, timeout_s: float, resource: Resource) -> None:
        self._session = _Session()
        self._exporter = OTLPMetricExporter(endpoint=url, timeout=timeout_s, session=self._session)
        self.meters = Meters(self._exporter, resource)

    def flush(self) -> Outcome:
        """Send what was counted. Raises nothing but bugs."""
        self._session.begin()
        with _quiet():
            self.meters.flush()
        return self._session.outcome(done=True)

    def close(self) -> None:
        """As for spans."""
        self._exporter.shutdown()


class _Away(Exception):
    """Nobody is there, a second time: not worth the exporter's patience."""


class _Session(requests.Session):
    """Remembers what the exporter does not tell: why something failed.

    A `body` goes out in place of what the exporter has, which knows where to, how often and for how long.
    """

    def begin(self, body: bytes | None = None) -> None:
        self._outcome, self._away, self._body = Outcome(), 0, body

    def outcome(self, *, done: bool) -> Outcome:
        if done or self._outcome.why:
            return self._outcome
        return Outcome("they could not be put into a request", lasting=True)

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        if self._body is not None:
            pack = _PACKED.get(kwargs["headers"].get("Content-Encoding", ""), bytes)
            kwargs["data"] = pack(self._body)
        try:
            response = super().request(*args, **kwargs)
        except requests.Timeout:
            self._outcome = Outcome("it did not answer in time")
            raise
        except requests.exceptions.SSLError as error:
            self._outcome = Outcome(f"TLS failed ({type(error).__name__})", lasting=True)
            raise _Away from error
        except requests.ConnectionError as error:
            self._outcome = Outcome("nobody answers there")
            self._away += 1
            if self._away > 1:
                raise _Away from error
            raise
        except requests.exceptions.ChunkedEncodingError:
            self._outcome = Outcome("it broke off its answer")
            raise
        except Exception as error:
            self._outcome = Outcome(f"{type(error).__name__}: {_words(str(error))}", lasting=True)
            raise
        self._outcome = _judged(response)
        return response


def _judged(response: requests.Response) -> Outcome:
    status = response.status_code
    if status >= 300:
        why = f"it answered {status} {_words(response.reason or '')}".strip()
        return Outcome(why, lasting=status not in (408, 429) and status < 500, status=status)
    if "protobuf" not in response.headers.get("content-type", "") or not response.content:
        return Outcome(status=status)
    try:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    except DecodeError:
        return Outcome(status=status)  # it took them, and says something else beside it
    if partial.rejected_spans:
        return Outcome(
            f"it refused {partial.rejected_spans} of them: {_words(partial.error_message)}",
            True,
            partial.rejected_spans,
            status,
        )
    return Outcome(status=status)


def _words(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[:_MOST_WORDS]).split())


@contextmanager
def _quiet() -> Generator[None]:
    """Keeps the exporters from logging each failure of this thread: it is told once, in our words."""
    own = threading.get_ident()
    loggers = [logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{name}") for name in _LOGGERS]

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != own

    for logger in loggers:
        logger.addFilter(is_of_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_others)
