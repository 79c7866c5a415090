"""Traces as OpenTelemetry spans: ids, names, attributes and parents, always the same for the same log."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace

import anyio
import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    BadModelRequest,
    ModelAnswerBroken,
    Place,
    Plan,
    Request,
    Text,
    ToolUse,
    Trace,
    Usage,
    host_seats,
    read_trace,
    supervise,
    tool,
)
from convive.agents.otel import _otel_content, _otel_names
from convive.agents.otel._otel import SpanMaker, resource
from convive.agents.otel._otel_content import wants_content
from convive.agents.otel._otel_receiver import decoded_spans
from convive.agents.testing import ReceivedSpan, ScriptedModel
from convive.agents.traces._finished import finished
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    MemoryLog,
    Record,
    RunContext,
    RunId,
    SeatName,
    fork,
    memory_bus,
    run_of,
)

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
SECRET = "the words of ada"  # noqa: S105 - a secret of hers, no password


def use(name: str) -> Answer:
    call = ToolUse(id="c1", name=name, arguments={"what": SECRET})
    usage = Usage(input_tokens=10, output_tokens=3, cache_read_tokens=5, cache_write_tokens=2)
    return Answer(parts=(call,), stop_reason="tool_use", usage=usage, model="big-1")


def once(name: str, then: str) -> Callable[[Request], Answer | str]:
    return lambda request: use(name) if request.messages[-1].text else then


@tool
async def look(what: str) -> str:
    """Look."""
    return f"seen: {what}"


helper = Agent("helper", model=ScriptedModel(once("look", "found"), name="scripted/big"), tools=[look])


@tool
async def ask(what: str) -> str:
    """Ask."""
    return (await helper.prompt(what)).text


guest = Agent("guest", model=ScriptedModel(once("ask", SECRET)), tools=[ask], instructions="be brief")


async def hold(bus: Bus, name: str = "evening", turns: int = 2, run: RunContext | None = None) -> Conversation:
    conversation, run = await bus.conversation(name), run or RunContext.root()
    await conversation.open(run, "why", [Chair(seat=ADA), Chair(seat=BOB)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, {ADA: AgentSeat(guest), BOB: AgentSeat(guest)})
        tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)
    return conversation


def encoded(trace: Trace, *, content: bool = False) -> bytes:
    maker = SpanMaker(resource(), content)
    return maker.request([*(span for node in finished(trace) for span in maker.spans(node)), *maker.missing(trace)])


def decoded(trace: Trace, *, content: bool = False) -> dict[str, ReceivedSpan]:
    """The spans of a trace by their ids, which are checked to be each one's own."""
    found = list(decoded_spans(encoded(trace, content=content)))
    assert len({span.span_id for span in found}) == len(found)
    return {span.span_id: span for span in found}


def named(spans: dict[str, ReceivedSpan], name: str) -> ReceivedSpan:
    (found,) = (span for span in spans.values() if span.name == name)
    return found


def path(spans: dict[str, ReceivedSpan], span: ReceivedSpan) -> list[str]:
    """The names from the root to a span."""
    above = [] if not span.parent_id else path(spans, spans[span.parent_id])
    return [*above, span.name]


async def records(log: MemoryLog) -> list[Record]:
    async with log.read(">") as found:
        return [record async for record in found]


def folded(records: Iterable[Record], *, keep_events: bool = False) -> Trace:
    trace = Trace(keep_events=keep_events)
    for record in records:
        trace.apply(record)
    return trace


async def test_a_party_is_one_tree_with_the_ids_of_its_runs() -> None:
    async with memory_bus() as bus:
        conversation = await hold(bus)
        opened = (await conversation.floor()).opened
        assert opened is not None
        spans = decoded(await read_trace(bus, "evening"))
    root = named(spans, "invoke_workflow evening")
    assert (root.trace_id, root.span_id, root.parent_id) == (opened.run_id, opened.run_id[16:], "")
    assert {span.trace_id for span in spans.values()} == {opened.run_id}
    assert [span for span in spans.values() if not span.parent_id] == [root]
    inner = [span for span in spans.values() if span.name == "execute_tool look"]
    turns = [["turn 1 ada"], ["turn 2 bob"]]
    middle = ["invoke_agent guest", "execute_tool ask", "invoke_agent helper", "execute_tool look"]
    assert sorted(path(spans, span)[1:] for span in inner) == [turn + middle for turn in turns]
    for span in spans.values():
        assert span.start_ns <= span.end_ns
        above = spans.get(span.parent_id, span)
        assert above.start_ns <= span.start_ns
        assert span.end_ns <= above.end_ns
        assert span.attributes["openinference.span.kind"] in ("CHAIN", "AGENT", "LLM", "TOOL")
        if span.attributes["openinference.span.kind"] != "TOOL":
            assert span.attributes["gen_ai.conversation.id"] == "evening"


async def test_the_ids_of_spans_are_those_of_the_documentation() -> None:
    async with memory_bus() as bus:
        await hold(bus, turns=1)
        trace = await read_trace(bus, "evening")
        spans = decoded(trace)
    for node in trace.roots[0].walk():
        digest = hashlib.blake2b(f"{node.run_id}/{node.part}".encode(), digest_size=8).hexdigest()
        span = spans[digest if node.part else node.run_id[16:]]
        assert (span.attributes["convive.run.id"], span.attributes.get("convive.part", "")) == (node.run_id, node.part)
        assert (span.attributes["convive.seq.first"], span.attributes["convive.seq.last"]) == node.seqs


async def test_an_answer_has_the_names_of_the_conventions() -> None:
    """Tokens that came from or went to a cache are input, whatever a provider counts."""
    async with memory_bus() as bus:
        await hold(bus, turns=1)
        spans = decoded(await read_trace(bus, "evening"))
    answer = next(span for span in spans.values() if span.attributes.get("gen_ai.usage.input_tokens"))
    assert answer.name == "chat big" or answer.name == "chat test"
    assert answer.kind == "CLIENT"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.response.model": "big-1",
        "gen_ai.response.finish_reasons": ["tool_use"],
        "gen_ai.usage.input_tokens": 17,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 2,
        "gen_ai.usage.cache_write.input_tokens": 2,
        "convive.part": "llm/0",
    }
    assert {name: answer.attributes.get(name) for name in expected} == expected
    call = next(span for span in spans.values() if span.name == "execute_tool look")
    assert call.attributes["gen_ai.tool.call.id"] == "c1"
    assert call.attributes["gen_ai.tool.type"] == "function"


def test_our_names_are_those_of_the_package_where_it_has_them() -> None:
    """The conventions move, the package of their last numbered version does not."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {value for value in vars(_otel_names).values() if isinstance(value, str) and value.startswith("gen_ai.")}
    assert ours - known == {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)} & ours
    assert len(ours - known) == 3
    assert _otel_names.CACHE_WRITE[0] in known


async def test_the_same_log_gives_the_same_bytes() -> None:
    async with memory_bus() as bus:
        await hold(bus)
        first = encoded(await read_trace(bus, "evening"))
        assert encoded(await read_trace(bus, "evening")) == first


async def test_words_are_exported_only_for_those_who_ask_for_them() -> None:
    async with memory_bus() as bus:
        await hold(bus, turns=1)
        trace = await read_trace(bus, "evening", keep_events=True)
        without, spans = encoded(trace), decoded(trace, content=True)
    assert SECRET.encode() not in without
    call = next(span for span in spans.values() if span.name == "execute_tool look")
    assert call.attributes["gen_ai.tool.call.arguments"] == f'{{"what":"{SECRET}"}}'
    assert call.attributes["gen_ai.tool.call.result"] == f"seen: {SECRET}"
    second = next(span for span in spans.values() if path(spans, span)[-2:] == ["invoke_agent helper", "chat big"])
    answers = [span for span in spans.values() if span.parent_id == second.parent_id and span.name == "chat big"]
    told = {str(span.attributes["convive.part"]): span.attributes for span in answers}
    assert json.loads(str(told["llm/0"]["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    ]
    assert json.loads(str(told["llm/1"]["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "c1", "response": f"seen: {SECRET}"}]}
    ]
    assert json.loads(str(told["llm/0"]["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"what": SECRET}}],
            "finish_reason": "tool_use",
        }
    ]
    assert named(spans, "turn 1 ada").attributes["output.value"] == SECRET
    assert [wants_content({_otel_content.VARIABLE: value}) for value in ("true", "SPAN_ONLY", "NO_CONTENT", "")] == [
        True,
        True,
        False,
        False,
    ]


async def test_a_fork_is_a_trace_of_its_own_with_a_link_to_its_origin() -> None:
    async with memory_bus() as bus:
        source = await hold(bus)
        origin = (await source.floor()).opened
        copy = await fork(bus, source, "again")
        floor = await copy.floor()
        run = copy.run_of(floor)
        assert run is not None
        await copy.close(floor, run, "enough")
        spans, before = decoded(await read_trace(bus, "again")), decoded(await read_trace(bus, "evening"))
    assert origin is not None
    first, original = named(spans, "turn 1 ada"), named(before, "turn 1 ada")
    assert first.start_ns == original.start_ns  # when it happened, not when it was copied
    root = named(spans, "invoke_workflow again")
    ((trace_id, span_id, attributes),) = root.links
    assert (trace_id, span_id) == (origin.run_id, origin.run_id[16:])
    assert trace_id not in {span.trace_id for span in spans.values()}
    assert attributes["convive.link.kind"] == "forked_from"
    assert attributes["convive.link.conversation"] == "evening"


async def test_a_run_that_starts_in_a_span_of_another_system_is_linked_to_it() -> None:
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    with use_span(NonRecordingSpan(context)):
        result = await helper.prompt("go", place=place)
    spans = decoded(await read_trace(place, result.run_id))
    run = named(spans, "invoke_agent helper")
    assert run.parent_id == ""
    assert run.links == ((f"{0xABC:032x}", f"{0xDEF:016x}", {"convive.link.kind": "started_from"}),)
    assert [span.name for span in spans.values() if span.links] == ["invoke_agent helper"]
    result = await helper.prompt("go", place=place)
    assert not named(decoded(await read_trace(place, result.run_id)), "invoke_agent helper").links


def test_a_link_to_another_trace_is_kept_only_when_it_is_one() -> None:
    link = f"00-{'a' * 32}-{'b' * 16}-01"
    run = RunContext.root(started_from=link)
    known = run_of(run.headers())
    assert known == run
    assert known is not None
    assert known.started_from == link
    assert run.child().headers().keys() == {"Cv-Run", "traceparent"}
    assert RunContext.root(started_from="words").started_from == ""
    broken = run_of({**run.headers(), "Cv-Link": "words"})
    assert broken is not None
    assert broken.started_from == ""


async def test_what_was_begun_twice_has_a_span_for_each_attempt() -> None:
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    answers: list[str | Exception] = [ModelAnswerBroken("cut off"), "whole"]
    result = await Agent("guest", model=ScriptedModel(answers)).prompt("go", place=place)
    spans = decoded(await read_trace(place, result.run_id))
    answer = named(spans, "chat test")
    first, second = named(spans, "attempt 1"), named(spans, "attempt 2")
    assert {first.parent_id, second.parent_id} == {answer.span_id}
    assert (first.failed, first.attributes["error.type"], second.failed) == (True, "interrupted", False)
    assert first.end_ns == second.start_ns
    assert second.end_ns == answer.end_ns
    assert answer.attributes["convive.attempts"] == 2
    assert not answer.failed


async def test_failures_are_errors_with_a_type() -> None:
    @tool
    async def fall(what: str) -> str:
        raise ValueError(f"not {what}")

    place = Place(MemoryLog(), "cv.00.desk", live=False)
    model = ScriptedModel([use("fall"), BadModelRequest("no more answers")])
    result = await Agent("guest", model=model, tools=[fall]).execute("go", place=place)
    spans = decoded(await read_trace(place, result.run_id))
    call, run = named(spans, "execute_tool fall"), named(spans, "invoke_agent guest")
    assert (call.failed, call.attributes["error.type"], call.message) == (True, "tool_error", "")
    assert (run.failed, run.message) == (True, "BadModelRequest: no more answers")
    assert run.attributes["error.type"] == "BadModelRequest"
    unanswered = next(span for span in spans.values() if span.attributes["convive.status"] == "interrupted")
    assert unanswered.failed
    assert unanswered.end_ns == run.end_ns


async def test_open_nodes_are_not_exported_and_later_only_they_are_new() -> None:
    log = MemoryLog()
    await helper.prompt("go", place=Place(log, "cv.00.desk", live=False))
    whole = await records(log)
    before: dict[str, ReceivedSpan] = {}
    for end in range(len(whole) + 1):
        now = decoded(folded(whole[:end])) if end else {}
        assert now.items() >= before.items()
        before = now
    assert len(before) == 4


async def test_a_run_above_others_that_is_not_in_the_log_is_shown_as_missing() -> None:
    async with memory_bus() as bus:
        conversation = await hold(bus, turns=1)
        place = Place(conversation.log, conversation.subjects.base, live=False)
        opened = (await conversation.floor()).opened
        assert opened is not None
        lost = RunContext.root(opened.run_id).child()
        await helper.prompt("go", place=place, run=lost.child())
        spans = decoded(await read_trace(bus, "evening"))
    missing = named(spans, f"missing {lost.run_id[:8]}")
    assert (missing.span_id, missing.failed) == (lost.run_id[16:], True)
    assert all(not span.parent_id or span.parent_id in spans for span in spans.values())
    below = [span for span in spans.values() if span.parent_id == missing.span_id]
    assert [span.name for span in below] == ["invoke_agent helper"]
    assert missing.start_ns <= below[0].start_ns
    assert missing.parent_id == opened.run_id[16:]


async def test_nothing_in_a_log_breaks_an_export() -> None:
    """Ids that are none, times that are none, words without end: a log has other writers, too."""
    log = MemoryLog()
    huge = Usage(input_tokens=2**70, output_tokens=1)
    odd = Answer(parts=(Text(text="x" * 100_000),), stop_reason="end", usage=huge, model="m" * 5_000)
    place = Place(log, "cv.00.desk", live=False)
    result = await Agent("g\n" * 3_000, model=ScriptedModel([odd])).prompt("go " * 50_000, place=place)
    whole = await records(log)
    for time_s in (float("nan"), float("inf"), -1.0, 1e300):
        trace = folded([replace(record, time_s=time_s) for record in whole], keep_events=True)
        spans = decoded(trace, content=True)
        assert all(0 <= span.start_ns <= span.end_ns < 2**63 for span in spans.values())
    answer = next(span for span in spans.values() if span.kind == "CLIENT")
    assert answer.attributes["gen_ai.usage.input_tokens"] == 2**63 - 1
    assert all(
        len(value) < 40_000 for span in spans.values() for value in span.attributes.values() if isinstance(value, str)
    )
    assert all(len(span.name) <= 160 for span in spans.values())
    for run in ("", "0" * 32, "not a run id", "\ud800" * 32):
        node = folded(whole).runs[result.run_id]
        node.run = RunContext(RunId(run), RunId(run), RunId(run))
        (span,) = SpanMaker(resource()).spans(node)
        (sent,) = decoded_spans(SpanMaker(resource()).request([span]))
        assert int(sent.trace_id, 16)
        assert int(sent.span_id, 16)
