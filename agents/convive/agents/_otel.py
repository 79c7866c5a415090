"""A trace as OpenTelemetry spans: a pure function of finished nodes, so that live and late export give the same bytes.

No span lives in a process. A node that is over becomes a `ReadableSpan` with the times and ids of the log:

    trace id   root_run_id, or that of the trace which the root has joined
    span id    of a run: the last 8 bytes of run_id; of a part of one: blake2b-64 of `run_id/part`,
               where a part is `turn`, `llm/0`, `tool/0/1`, or one of these with `/attempt/2`

A span built so bypasses the checks and limits of the SDK, so what goes into it is checked and cut here.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from convive.agents import _otel_names as names
from convive.agents._node import Node
from convive.agents._otel_content import content_of
from convive.agents._trace import Trace

FLAGS = TraceFlags(TraceFlags.SAMPLED)
MAX_TEXT = 1_024
MAX_NAME = 128
_MOST = 2**63 - 1
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_BAD = {"failed", "interrupted", "revoked"}

Value = str | bool | int | float | list[str]
Attributes = dict[str, Value | None]
"""What is None, is not known, and is left out."""


def resource() -> Resource:
    """Whose spans these are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else the service `convive`.

    Nothing else, such as the random id of a process: the same log gives the same bytes everywhere.
    """
    return Resource({"service.name": "convive"}).merge(OTELResourceDetector().detect())


@dataclass(frozen=True, slots=True)
class SpanMaker:
    """Makes spans of nodes. `content`: whether they hold what was said, asked and answered."""

    resource: Resource
    content: bool = False
    scope: InstrumentationScope = field(
        default_factory=lambda: InstrumentationScope(names.SCOPE, version("convive"), names.SCHEMA_URL)
    )

    def spans(self, node: Node) -> list[ReadableSpan]:
        """The spans of one node that is over: its own, behind those of its attempts if there were several."""
        start_ns, end_ns = _ns(node.started_s), _ns(end_s(node))
        attributes = _clean(_attributes(node))
        if self.content:
            attributes |= content_of(node)
        span = ReadableSpan(
            _text(_name(node), MAX_NAME),
            _context(node, node.part),
            _parent(node),
            self.resource,
            attributes,
            (),
            tuple(_links(node)),
            SpanKind.CLIENT if node.kind == "trip" else SpanKind.INTERNAL,
            status=_status(node, content=self.content),
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=self.scope,
        )
        return [*self._attempts(node, max(start_ns, end_ns)), span]

    def _attempts(self, node: Node, end_ns: int) -> Iterator[ReadableSpan]:
        began = node.attempts_s
        if len(began) < 2:
            return
        for number, start_s in enumerate(began, 1):
            last = number == len(began)
            start_ns = _ns(start_s)
            why = "" if not last else error_type(node)
            yield ReadableSpan(
                f"attempt {number}",
                _context(node, f"{node.part}/attempt/{number}"),
                _context(node, node.part),
                self.resource,
                _clean({**_where(node), names.ATTEMPT: number, names.OI_KIND: "CHAIN"})
                | ({names.ERROR_TYPE: why or "interrupted"} if why or not last else {}),
                status=Status(StatusCode.ERROR) if why or not last else Status(StatusCode.UNSET),
                start_time=start_ns,
                end_time=max(start_ns, end_ns if last else _ns(began[number])),
                instrumentation_scope=self.scope,
            )

    def missing(self, trace: Trace) -> list[ReadableSpan]:
        """A span for each run that stands above others and is not in the log, so that those hang in the tree."""
        lost: dict[str, list[Node]] = {}
        for node in trace.runs.values():
            if node.orphan and node.run.parent_run_id is not None:
                lost.setdefault(node.run.parent_run_id, []).append(node)
        root = trace.root
        return [self._missing(run, below, root) for run, below in sorted(lost.items())]

    def _missing(self, run: str, below: Sequence[Node], root: Node | None) -> ReadableSpan:
        trace_id = _trace_of(below[0])
        is_root = run == below[0].run.root_run_id or root is None or root.orphan
        start_ns = min(_ns(node.started_s) for node in below)
        return ReadableSpan(
            f"missing {run[:8]}",
            SpanContext(trace_id, _span_id(run, ""), is_remote=False, trace_flags=FLAGS),
            None if is_root or root is None else _context(root, root.part),
            self.resource,
            {names.RUN: run, names.STATUS: "missing", names.ERROR_TYPE: "missing", names.OI_KIND: "CHAIN"},
            status=Status(StatusCode.ERROR, "this run is not in the log"),
            start_time=start_ns,
            end_time=max(start_ns, *(_ns(node.last_s) for node in below)),
            instrumentation_scope=self.scope,
        )


def end_s(node: Node) -> float:
    """When a node that is over ended: one that was interrupted, with what it was a part of."""
    above: Node | None = node
    while above is not None and above.ended_s is None:
        above = above.parent
    if above is node:
        return node.ended_s or 0.0
    return max(node.last_s, 0.0 if above is None or above.ended_s is None else above.ended_s)


def models_of(node: Node) -> tuple[str, str, str]:
    """Of an answer: the provider, the model that was asked, and the one that answered."""
    asked = node.parent.model if node.parent is not None and node.parent.model else node.model
    several = asked.split("|")
    answered = node.model if node.model != asked else ""
    chosen = next((one for one in several if answered and one.partition("/")[0] == answered.partition("/")[0]), asked)
    provider, slash, model = chosen.partition("/")
    if not slash:
        provider, model = "unknown", chosen
    return provider, model, answered.removeprefix(f"{provider}/") or model


def _name(node: Node) -> str:
    match node.kind:
        case "turn":
            return f"{node.name} {node.seat}"
        case "trip":
            return f"chat {models_of(node)[1]}"
        case _:
            return f"{names.OPERATIONS[node.kind]} {node.name}"


def _attributes(node: Node) -> Attributes:
    """What is worth a place: an attribute costs about two microseconds, and most nodes are tools and answers."""
    found: Attributes = {
        **_where(node),
        names.OPERATION: names.OPERATIONS.get(node.kind),
        names.OI_KIND: names.OI_KINDS[node.kind],
        names.STATUS: node.status if node.status != "ok" else None,
        names.ERROR_TYPE: error_type(node) or None,
        names.ATTEMPTS: len(node.attempts) if len(node.attempts) > 1 else None,
        names.DAMAGE: node.damage[:10] or None,
    }
    match node.kind:
        case "conversation":
            found[names.WORKFLOW] = node.name
        case "turn":
            found |= {names.TURN: node.turn, names.SEAT: node.seat}
        case "run":
            found |= _run(node)
        case "trip":
            found |= _answer(node)
        case "tool":
            found |= {names.TOOL_NAME: node.name, names.TOOL_TYPE: "function", names.TOOL_CALL: node.call_id or None}
    return found


def _where(node: Node) -> Attributes:
    found: Attributes = {names.RUN: node.run_id, names.FIRST_SEQ: node.seqs[0], names.LAST_SEQ: node.seqs[1]}
    if node.part:
        found[names.PART] = node.part
    if node.kind == "tool":
        return found
    conversation = _above(node, "conversation")
    session = node.session_id or (node.parent.session_id if node.part and node.parent is not None else None)
    # A session is what several traces may belong to: never the id of a run.
    found[names.CONVERSATION] = session if conversation is None else conversation.name
    if conversation is None or session:
        found[names.SESSION] = session
    return found


def _run(node: Node) -> Attributes:
    turn = _above(node, "turn")
    return {
        names.AGENT: node.name,
        names.REQUEST_MODEL: node.model.partition("/")[2] or node.model or None,
        names.REASON: node.reason or None,
        names.PARENT: node.run.parent_run_id,
        names.NAME_SPACE: node.conversation if turn is None else None,
        names.SEAT: None if turn is None else turn.seat,
    }


def _answer(node: Node) -> Attributes:
    provider, asked, answered = models_of(node)
    usage, cost = node.usage, node.cost
    found: Attributes = {names.PROVIDER: provider, names.REQUEST_MODEL: asked}
    if node.ended_s is None:
        return found
    found |= {
        names.RESPONSE_MODEL: answered,
        names.FIRST_CHUNK: node.first_chunk_s,
        names.FINISH_REASONS: [node.reason] if node.reason else None,
        # The conventions count what came from or went to a cache as input.
        names.INPUT_TOKENS: usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.CACHE_READ: usage.cache_read_tokens or None,
    }
    if usage.cache_write_tokens:
        found |= dict.fromkeys(names.CACHE_WRITE, usage.cache_write_tokens)
    if cost is not None and cost.complete and cost.currency == "USD":
        found[names.COST] = cost.known
    elif cost is not None:
        found |= {names.COST_KNOWN: cost.known, names.COST_COMPLETE: cost.complete, names.COST_CURRENCY: cost.currency}
    return found


def error_type(node: Node) -> str:
    """What went wrong with a node, in a word; empty when nothing did."""
    if node.status not in _BAD:
        return ""
    if node.status == "failed":
        return node.reason or ("tool_error" if node.kind == "tool" else "error")
    return node.status


def _status(node: Node, *, content: bool) -> Status:
    """An error's text is told, but for that of a tool: it is what the model reads, and may quote anything."""
    if node.status not in _BAD:
        return Status(StatusCode.UNSET)
    told = node.error if node.kind != "tool" or content else ""
    if node.kind == "turn":
        told = node.detail
    return Status(StatusCode.ERROR, _text(told, MAX_TEXT) or None)


def _parent(node: Node) -> SpanContext | None:
    """What stands above, by ids alone: the same whether that was read or not."""
    if node.part and node.kind != "turn":
        return _context(node, "")
    above = node.run.parent_run_id
    if node.kind == "run" and node.parent is not None and node.parent.kind == "turn":
        return _context(node.parent, node.parent.part)
    if above is None:
        return _started_from(node) if node.run.joined else None
    part = node.called_by or ""
    return SpanContext(_trace_of(node), _span_id(above, part), is_remote=False, trace_flags=FLAGS)


def _started_from(node: Node) -> SpanContext | None:
    """The span of another system that a run was started in."""
    found = _TRACEPARENT.fullmatch(node.run.started_from)
    if found is None:
        return None
    context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=FLAGS)
    return context if context.is_valid else None


def _links(node: Node) -> Iterator[Link]:
    started_from = _started_from(node) if node.kind in ("conversation", "run") and not node.run.joined else None
    if node.origin is not None:
        origin = node.origin
        kind: Attributes = {
            names.LINK_KIND: "forked_from",
            names.LINK_NAME: origin.conversation,
            names.LINK_SEQ: origin.seq,
        }
        run = origin.run_id
        there = SpanContext(_trace_id(run), _span_id(run, ""), is_remote=True, trace_flags=FLAGS)
        if started_from is not None and started_from.span_id == there.span_id:  # the origin had joined a trace
            there, started_from = started_from, None
        yield Link(there, _clean(kind))
    if started_from is not None:
        yield Link(started_from, {names.LINK_KIND: "started_from"})


def _context(node: Node, part: str) -> SpanContext:
    return SpanContext(_trace_of(node), _span_id(node.run_id, part), is_remote=False, trace_flags=FLAGS)


def _trace_of(node: Node) -> int:
    """The id of the trace: its own records say whether the run joined one, or else those of a run above do.

    Who goes on with a run, or sits in a seat, may know no more of it than its id.
    """
    above: Node | None = node
    while above is not None and not above.run.joined:
        above = above.parent
    return _trace_id(node.run.root_run_id if above is None else above.run.joined)


def _trace_id(run: str) -> int:
    return int(_hex(run), 16) or 1


def _span_id(run: str, part: str) -> int:
    if not part:
        return int(_hex(run)[16:], 16) or 1
    return int.from_bytes(hashlib.blake2b(f"{run}/{part}".encode(), digest_size=8).digest()) or 1


def _hex(run: str) -> str:
    """Any writer may put any text where the id of a run belongs."""
    return (
        run if _RUN_ID.fullmatch(run) else hashlib.blake2b(run.encode("utf-8", "replace"), digest_size=16).hexdigest()
    )


def _above(node: Node, kind: str) -> Node | None:
    """The node of that kind above, in the same conversation: a run that was queued elsewhere is told of without it."""
    above: Node | None = node
    while above is not None and above.kind != kind:
        above = above.parent
    return above if above is not None and above.conversation == node.conversation else None


def _ns(seconds: float) -> int:
    """Nanoseconds of a time on record, in whole microseconds, which is what a float can tell apart."""
    return min(max(round(seconds * 1e6), 0), _MOST // 1_000) * 1_000 if math.isfinite(seconds) else 0


def _clean(attributes: Attributes) -> dict[str, Value]:
    """The attributes that are known, each of a size and kind that every encoder takes."""
    found: dict[str, Value] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, str):
            found[name] = value if len(value) <= MAX_TEXT and value.isascii() else _text(value, MAX_TEXT)
        elif isinstance(value, int):
            found[name] = value if -_MOST <= value <= _MOST else max(-_MOST, min(value, _MOST))
        elif isinstance(value, float):
            if math.isfinite(value):
                found[name] = value
        else:
            found[name] = [_text(one, MAX_TEXT) for one in value]
    return found


def _text(text: str, most: int) -> str:
    """A text that every encoder takes, of at most so many characters."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
