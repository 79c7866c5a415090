"""Collectors that answer in ways of their own: what was taken is not called lost, nor what was lost taken."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from convive.agents.otel._otel import SpanMaker, resource
from convive.agents.otel._otel_send import Collector, Outcome
from convive.agents.traces._finished import finished
from convive.bus import RunContext
from tests.agents.traces import Writer, answered, began, ended, folded


@contextmanager
def answering(*answers: tuple[int, dict[str, str], bytes]) -> Generator[str]:
    """A server that gives these answers, then the last one over and over; its URL."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody wants to know."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def sent(*answers: tuple[int, dict[str, str], bytes]) -> Generator[Outcome]:
    """What comes of sending a trace to such a server."""
    writer, run = Writer(), RunContext.root()
    writer.journal(run, began(run), *answered(), ended())
    maker = SpanMaker(resource())
    spans = [span for node in finished(folded(writer.records)) for span in maker.spans(node)]
    with answering(*answers) as url:
        collector = Collector(url, 5.0)
        try:
            yield collector.send(maker.request(spans))
        finally:
            collector.close()


PROTOBUF = {"Content-Type": "application/x-protobuf"}
PARTIAL = ExportTracePartialSuccess(rejected_spans=2, error_message="\x1b[31mfull")
REFUSED = ExportTraceServiceResponse(partial_success=PARTIAL).SerializeToString()
ADVICE = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(error_message="use fewer attributes")
).SerializeToString()


@pytest.mark.parametrize(
    "answer",
    [
        (200, PROTOBUF, b""),
        (200, PROTOBUF, ADVICE),
        (200, PROTOBUF, b"\xff\xff\xff"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (202, {}, b""),
    ],
)
def test_what_was_taken_is_taken_whatever_is_said_beside_it(answer: tuple[int, dict[str, str], bytes]) -> None:
    with sent(answer) as outcome:
        assert (outcome.why, outcome.rejected) == ("", 0)


def test_an_answer_that_is_broken_off_is_no_reason_to_give_up() -> None:
    with sent((200, {"Content-Length": "100"}, b"abc")) as outcome:
        assert (outcome.why, outcome.lasting) == ("it broke off its answer", False)


def test_a_part_that_was_refused_is_told_without_what_a_terminal_obeys() -> None:
    with sent((200, PROTOBUF, REFUSED)) as outcome:
        assert (outcome.why, outcome.rejected, outcome.lasting) == ("it refused 2 of them: [31mfull", 2, True)


@pytest.mark.parametrize(("wait", "why"), [("1", ""), ("soon", ""), ("99999", "it answered 429 Too Many Requests")])
def test_a_collector_may_ask_for_patience_in_measure(wait: str, why: str) -> None:
    with sent((429, {"Retry-After": wait}, b""), (200, {}, b"")) as outcome:
        assert (outcome.why, outcome.lasting) == (why, False)


def test_another_address_is_not_followed() -> None:
    """It would be told the headers, which hold the keys of the one that was named."""
    with sent((301, {"Location": "http://127.0.0.1:1/"}, b"")) as outcome:
        assert (outcome.why, outcome.lasting) == ("it answered 301 Moved Permanently", True)
