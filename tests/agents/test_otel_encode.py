"""Spans in bytes: those that the SDK's own encoder gives for the same spans, whatever is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from convive.agents.otel._otel import models_of
from convive.agents.otel._otel_encode import MAX_TEXT, Attributes, Ids, Scope, clean, encoded_request, encoded_span
from convive.agents.traces._node import Node
from convive.bus import RunContext

ids = st.builds(
    Ids,
    st.binary(min_size=16, max_size=16).filter(any),
    st.binary(min_size=8, max_size=8).filter(any),
    st.booleans(),
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
longs = st.integers(-(2**63) + 1, 2**63 - 1)
values = words | st.booleans() | longs | st.floats(allow_nan=False, allow_infinity=False) | st.lists(words, max_size=3)
attributes = st.dictionaries(words.filter(bool), values, max_size=12)
times = st.integers(0, 2**63 - 1)


def context(of: Ids) -> SpanContext:
    return SpanContext(int.from_bytes(of.trace_id), int.from_bytes(of.span_id), of.is_remote)


def of_the_sdk(
    own: Ids,
    parent: Ids | None,
    name: str,
    times_ns: tuple[int, int],
    told: dict[str, str | bool | int | float | list[str]],
    links: list[tuple[Ids, dict[str, str | bool | int | float | list[str]]]],
    error: str | None,
    *,
    client: bool,
) -> bytes:
    span = ReadableSpan(
        name,
        context(own),
        None if parent is None else context(parent),
        Resource({"service.name": "a service", "other": "of it"}),
        told,
        (),
        [Link(context(to), of_link) for to, of_link in links],
        SpanKind.CLIENT if client else SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error or None),
        start_time=times_ns[0],
        end_time=times_ns[1],
        instrumentation_scope=InstrumentationScope("here", "0.1", "https://schema"),
    )
    body: bytes = encode_spans([span, span]).SerializeToString()
    return body


@given(
    ids,
    st.none() | ids,
    words.filter(bool),
    st.tuples(times, times),
    attributes,
    st.lists(st.tuples(ids, attributes), max_size=2),
    st.none() | words,
    st.booleans(),
)
def test_the_bytes_are_those_of_the_sdk(
    own: Ids,
    parent: Ids | None,
    name: str,
    times_ns: tuple[int, int],
    told: dict[str, str | bool | int | float | list[str]],
    links: list[tuple[Ids, dict[str, str | bool | int | float | list[str]]]],
    error: str | None,
    client: bool,
) -> None:
    span = encoded_span(own, parent, name, times_ns, told, links=links, error=error, client=client)
    resource = Resource({"service.name": "a service", "other": "of it"})
    body = encoded_request(resource, Scope("here", "0.1", "https://schema"), [span, span])
    assert body == of_the_sdk(own, parent, name, times_ns, told, links, error, client=client)


@given(ids, st.dictionaries(words.filter(bool), words | st.none()), attributes)
def test_what_many_spans_have_alike_comes_first(own: Ids, alike: dict[str, str | None], told: Attributes) -> None:
    apart = {key: value for key, value in told.items() if key not in alike}
    span = encoded_span(own, None, "a", (1, 2), apart, shared=tuple(alike.items()))
    assert span == encoded_span(own, None, "a", (1, 2), {**alike, **apart})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"gone": None, "nan": float("nan"), "endless": float("inf")}, {}),
        ({"large": 2**70, "small": -(2**70)}, {"large": 2**63 - 1, "small": -(2**63) + 1}),
        ({"long": "x" * 5_000}, {"long": clean("x" * 5_000)}),
        ({"bad": "\ud800", "some": ["\udfff" * 2_000]}, {"bad": "?", "some": ["?" * (MAX_TEXT - 1) + "…"]}),
    ],
)
def test_what_no_encoder_takes_is_left_out_or_cut(given: Attributes, sent: Attributes) -> None:
    own = Ids(b"t" * 16, b"s" * 8)
    assert encoded_span(own, None, "a", (1, 2), given) == encoded_span(own, None, "a", (1, 2), sent)
    assert len(clean("é" * 5_000)) == MAX_TEXT


def test_names_of_models_are_cut_before_they_are_kept() -> None:
    """What many spans have is kept encoded, under what it was made of: that must not be of any size."""
    node = Node(
        "trip", "chat", RunContext.root(), "llm/0", 1.0, (1, 2), ended_s=2.0, model=f"p{'x' * 9_000}/m{'y' * 9_000}"
    )
    assert all(len(text) <= MAX_TEXT for text in models_of(node))
