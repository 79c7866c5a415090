"""A trace as OpenTelemetry spans: a pure function of finished nodes, so that live and late export give the same bytes.

No span lives in a process. A node that is over becomes an encoded span with the times and ids of the log:

    trace id   root_run_id, or that of the trace which the root has joined
    span id    of a run: the last 8 bytes of run_id; of a part of one: blake2b-64 of `run_id/part`,
               where a part is `turn`, `llm/0`, `tool/0/1`, or one of these with `/attempt/2`
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from convive.agents.otel import _otel_names as names
from convive.agents.otel._otel_content import content_of
from convive.agents.otel._otel_encode import Ids, Scope, Shared, Value, clean, encoded_request, encoded_span
from convive.agents.traces._node import Node
from convive.agents.traces._trace import Trace

MAX_NAME = 128
_MOST = 2**63 - 1
_CERTAIN_S = 9e9
"""Seconds of which nanoseconds surely fit."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_BAD = {"failed", "interrupted", "revoked"}

Attributes = dict[str, Value | None]


def resource() -> Resource:
    """Whose spans these are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else the service `convive`.

    Nothing else, such as the random id of a process: the same log gives the same bytes everywhere.
    """
    return Resource({"service.name": "convive"}).merge(OTELResourceDetector().detect())


@dataclass(frozen=True, slots=True)
class SpanMaker:
    """Makes encoded spans of nodes. `content`: whether they hold what was said, asked and answered."""

    resource: Resource
    content: bool = False
    scope: Scope = field(default_factory=lambda: Scope(names.SCOPE, version("convive"), names.SCHEMA_URL))

    def request(self, spans: Iterable[bytes]) -> bytes:
        """The body of a request that hands over these spans."""
        return encoded_request(self.resource, self.scope, spans)

    def spans(self, node: Node) -> list[bytes]:
        """The spans of one node that is over: its own, behind those of its attempts if there were several."""
        start_ns = _ns(node.started_s)
        end_ns = max(start_ns, _ns(end_s(node)))
        trace = _trace_of(node)
        span = encoded_span(
            _ids_of(trace, node.run.run_id, node.part),
            _parent(node, trace),
            clean(_name(node), MAX_NAME),
            (start_ns, end_ns),
            _attributes(node),
            shared=_shared(node),
            content=content_of(node) if self.content else None,
            links=_links(node),
            error=_error(node, content=self.content),
            client=node.kind == "trip",
        )
        return [span] if len(node.attempts_s) < 2 else [*_attempts(node, end_ns), span]

    def missing(self, trace: Trace) -> list[bytes]:
        """A span for each run that stands above others and is not in the log, so that those hang in the tree."""
        lost: dict[str, list[Node]] = {}
        for node in trace.runs.values():
            if node.orphan and node.run.parent_run_id is not None:
                lost.setdefault(node.run.parent_run_id, []).append(node)
        return [_missing(run, below, trace.root) for run, below in sorted(lost.items())]


def _attempts(node: Node, end_ns: int) -> Iterator[bytes]:
    for number, start_s in enumerate(node.attempts_s, 1):
        last = number == len(node.attempts_s)
        start_ns = _ns(start_s)
        failed = error_type(node) if last else "interrupted"
        yield encoded_span(
            _ids(node, f"{node.part}/attempt/{number}"),
            _ids(node, node.part),
            f"attempt {number}",
            (start_ns, max(start_ns, end_ns if last else _ns(node.attempts_s[number]))),
            {**_where(node), names.ATTEMPT: number, names.OI_KIND: "CHAIN", names.ERROR_TYPE: failed or None},
            shared=_belongs_to(node),
            error="" if failed else None,
        )


def _missing(run: str, below: Sequence[Node], root: Node | None) -> bytes:
    trace = below[0].run.root_run_id
    is_root = run == trace or root is None or root.orphan
    start_ns = min(_ns(node.started_s) for node in below)
    return encoded_span(
        _ids_of(_trace_of(below[0]), run, ""),
        None if is_root or root is None else _ids(root, root.part),
        f"missing {run[:8]}",
        (start_ns, max(start_ns, *(_ns(node.last_s) for node in below))),
        {names.RUN: run, names.STATUS: "missing", names.ERROR_TYPE: "missing", names.OI_KIND: "CHAIN"},
        error="this run is not in the log",
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
    return _models(node.parent.model if node.parent is not None and node.parent.model else node.model, node.model)


@lru_cache(maxsize=64)
def _models(asked: str, model: str) -> tuple[str, str, str]:
    several = asked.split("|")
    answered = model if model != asked else ""
    chosen = next((one for one in several if answered and one.partition("/")[0] == answered.partition("/")[0]), asked)
    provider, slash, model = chosen.partition("/")
    if not slash:
        provider, model = "unknown", chosen
    return clean(provider), clean(model), clean(answered.removeprefix(f"{provider}/") or model)


def _name(node: Node) -> str:
    match node.kind:
        case "turn":
            return f"{node.name} {node.seat}"
        case "trip":
            return f"chat {models_of(node)[1]}"
        case _:
            return f"{names.OPERATIONS[node.kind]} {node.name}"


def _attributes(node: Node) -> Attributes:
    """What is told of this node alone. What is worth a place: most nodes are tools and answers."""
    found = _where(node)
    if node.status != "ok":
        found |= {names.STATUS: node.status, names.ERROR_TYPE: error_type(node) or None}
    if len(node.attempts) > 1:
        found[names.ATTEMPTS] = len(node.attempts)
    if node.damage:
        found[names.DAMAGE] = node.damage[:10]
    match node.kind:
        case "turn":
            found[names.TURN] = node.turn
        case "run":
            found[names.PARENT] = node.run.parent_run_id
        case "trip" if node.ended_s is not None:
            _add_answer(found, node)
        case "tool":
            found[names.TOOL_CALL] = node.call_id or None
        case _:
            pass
    return found


def _where(node: Node) -> Attributes:
    found: Attributes = {names.RUN: node.run_id, names.FIRST_SEQ: node.seqs[0], names.LAST_SEQ: node.seqs[1]}
    if node.part:
        found[names.PART] = node.part
    return found


def _add_answer(found: Attributes, node: Node) -> None:
    usage, cost = node.usage, node.cost
    found[names.FIRST_CHUNK] = node.first_chunk_s
    # The conventions count what came from or went to a cache as input.
    found[names.INPUT_TOKENS] = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    found[names.OUTPUT_TOKENS] = usage.output_tokens
    found[names.CACHE_READ] = usage.cache_read_tokens or None
    if node.reason:
        found[names.FINISH_REASONS] = [node.reason]
    if usage.cache_write_tokens:
        found |= dict.fromkeys(names.CACHE_WRITE, usage.cache_write_tokens)
    if cost is not None and cost.complete and cost.currency == "USD":
        found[names.COST] = cost.known
    elif cost is not None:
        found |= {names.COST_KNOWN: cost.known, names.COST_COMPLETE: cost.complete, names.COST_CURRENCY: cost.currency}


def _shared(node: Node) -> Shared:
    """What is told of many nodes alike."""
    match node.kind:
        case "conversation":
            own: Shared = ((names.WORKFLOW, clean(node.name)),)
        case "turn":
            own = ((names.SEAT, clean(node.seat)),)
        case "run":
            turn = _above(node, "turn")
            own = (
                (names.AGENT, clean(node.name)),
                (names.REQUEST_MODEL, clean(node.model.partition("/")[2] or node.model) or None),
                (names.REASON, clean(node.reason) or None),
                (names.NAME_SPACE, clean(node.conversation) if turn is None else None),
                (names.SEAT, None if turn is None else clean(turn.seat)),
            )
        case "trip":
            provider, asked, answered = models_of(node)
            if node.ended_s is None:
                own = ((names.PROVIDER, provider), (names.REQUEST_MODEL, asked))
            else:
                own = ((names.PROVIDER, provider), (names.REQUEST_MODEL, asked), (names.RESPONSE_MODEL, answered))
        case "tool":
            return (*_KINDS["tool"], (names.TOOL_NAME, clean(node.name)), _FUNCTION)
    return (*_KINDS[node.kind], *own, *_belongs_to(node))


def _belongs_to(node: Node) -> Shared:
    """The conversation and the session. A session is what several traces may belong to: never the id of a run."""
    if node.kind == "tool":
        return ()
    conversation = _above(node, "conversation")
    session = node.session_id or (node.parent.session_id if node.part and node.parent is not None else None)
    session = clean(session) if session else session
    if conversation is None:
        return ((names.CONVERSATION, session), (names.SESSION, session))
    return ((names.CONVERSATION, clean(conversation.name)), (names.SESSION, session or None))


_KINDS: dict[str, Shared] = {
    kind: ((names.OPERATION, names.OPERATIONS.get(kind)), (names.OI_KIND, names.OI_KINDS[kind]))
    for kind in names.OI_KINDS
}
_FUNCTION = (names.TOOL_TYPE, "function")


def error_type(node: Node) -> str:
    """What went wrong with a node, in a word; empty when nothing did."""
    if node.status not in _BAD:
        return ""
    if node.status == "failed":
        return node.reason or ("tool_error" if node.kind == "tool" else "error")
    return node.status


def _error(node: Node, *, content: bool) -> str | None:
    """An error's text is told, but for that of a tool: it is what the model reads, and may quote anything."""
    if node.status not in _BAD:
        return None
    if node.kind == "turn":
        return node.detail
    return node.error if node.kind != "tool" or content else ""


def _parent(node: Node, trace: str) -> Ids | None:
    """What stands above, by ids alone: the same whether that was read or not. `trace` is that of the node."""
    if node.part and node.kind != "turn":
        return _ids_of(trace, node.run.run_id, "")
    above = node.run.parent_run_id
    if node.kind == "run" and node.parent is not None and node.parent.kind == "turn":
        return _ids(node.parent, node.parent.part)
    if above is None:
        return _started_from(node) if node.run.joined else None
    return _ids_of(trace, above, node.called_by or "")


def _started_from(node: Node) -> Ids | None:
    """The span of another system that a run was started in."""
    found = _TRACEPARENT.fullmatch(node.run.started_from)
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return Ids(bytes.fromhex(found[1]), bytes.fromhex(found[2]), is_remote=True)


def _links(node: Node) -> Iterator[tuple[Ids, Attributes]]:
    started_from = _started_from(node) if node.kind in ("conversation", "run") and not node.run.joined else None
    if node.origin is not None:
        origin = node.origin
        told: Attributes = {
            names.LINK_KIND: "forked_from",
            names.LINK_NAME: origin.conversation,
            names.LINK_SEQ: origin.seq,
        }
        there = _ids_of(origin.run_id, origin.run_id, "")._replace(is_remote=True)
        if started_from is not None and started_from.span_id == there.span_id:  # the origin had joined a trace
            there, started_from = started_from, None
        yield there, told
    if started_from is not None:
        yield started_from, {names.LINK_KIND: "started_from"}


def _ids(node: Node, part: str) -> Ids:
    return _ids_of(_trace_of(node), node.run.run_id, part)


def _trace_of(node: Node) -> str:
    """The id of the trace: its own records say whether the run joined one, or else those of a run above do.

    Who goes on with a run, or sits in a seat, may know no more of it than its id.
    """
    above: Node | None = node
    while above is not None and not above.run.joined:
        above = above.parent
    return node.run.root_run_id if above is None else above.run.joined


@lru_cache(maxsize=1_024)  # each is asked for by all that stands below it
def _ids_of(root: str, run: str, part: str) -> Ids:
    if part:
        own = hashlib.blake2b(f"{run}/{part}".encode("utf-8", "replace"), digest_size=8).digest()
    else:
        own = _bytes(run)[8:]
    return Ids(_or_one(_bytes(root)), _or_one(own))


def _or_one(id: bytes) -> bytes:
    """An id of zeros is none."""
    return id if any(id) else (1).to_bytes(len(id))


def _bytes(run: str) -> bytes:
    """Any writer may put any text where the id of a run belongs."""
    if _RUN_ID.fullmatch(run):
        return bytes.fromhex(run)
    return hashlib.blake2b(run.encode("utf-8", "replace"), digest_size=16).digest()


def _above(node: Node, kind: str) -> Node | None:
    """The node of that kind above, in the same conversation: a run that was queued elsewhere is told of without it."""
    above: Node | None = node
    while above is not None and above.kind != kind:
        above = above.parent
    return above if above is not None and above.conversation == node.conversation else None


def _ns(seconds: float) -> int:
    """Nanoseconds of a time on record, in whole microseconds, which is what a float can tell apart."""
    if 0 <= seconds < _CERTAIN_S:
        return round(seconds * 1e6) * 1_000
    return min(max(round(seconds * 1e6), 0), _MOST // 1_000) * 1_000 if math.isfinite(seconds) else 0
