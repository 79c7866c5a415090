"""What is started in another system's trace joins it when asked to: one trace id everywhere, the same each time."""

from collections.abc import AsyncGenerator

import anyio
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from convive.agents import (
    Agent,
    AgentSeat,
    Place,
    Plan,
    export_trace,
    exporting,
    host_seats,
    join_trace,
    place_of,
    queued,
    supervise,
    tool,
    verify,
    work,
)
from convive.agents.testing import OtlpReceiver, ReceivedSpan
from convive.bus import Bus, Chair, Joined, MemoryLog, RunContext, SeatName, fork, memory_bus, run_of
from nested import guest, helper, once

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


async def hold(bus: Bus, run: RunContext, turns: int = 2) -> None:
    """A conversation whose supervisor and seat know nothing of each other but what the log says."""
    await (await bus.conversation("evening")).open(run, "why", [Chair(seat=ADA)])
    conversation = await bus.existing("evening")
    leads = conversation.run_of(await conversation.floor())
    assert leads is not None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, await bus.conversation("evening"), {ADA: AgentSeat(guest)})
        tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), leads)


def root_of(spans: list[ReceivedSpan]) -> ReceivedSpan:
    """The one span whose parent is not among them; all others hang below it."""
    known = {span.span_id for span in spans}
    (root,) = (span for span in spans if span.parent_id not in known)
    return root


async def test_a_conversation_is_part_of_the_trace_that_it_joins(bus: Bus, receiver: OtlpReceiver) -> None:
    run = join_trace({"TRACEPARENT": PARENT})
    await hold(bus, run)
    await export_trace(bus, "evening", receiver.environ)
    spans = receiver.spans
    assert len(spans) == 1 + 2 * 9
    assert {span.trace_id for span in spans} == {TRACE}
    root = root_of(spans)
    assert (root.name, root.parent_id, root.span_id) == ("invoke_workflow evening", SPAN, run.run_id[16:])
    assert [span.links for span in spans if span.links] == []
    assert root.attributes["convive.run.id"] == run.run_id
    await export_trace(bus, run.run_id, receiver.environ)
    (_, first), (_, second) = receiver.bodies
    assert first == second


async def test_what_arrives_live_is_the_same(bus: Bus, receiver: OtlpReceiver) -> None:
    run = join_trace({"TRACEPARENT": PARENT})
    conversation = await bus.conversation("evening")
    await conversation.open(run, "why", [Chair(seat=ADA)])
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail), anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, await bus.conversation("evening"), {ADA: AgentSeat(guest)})
        tasks.start_soon(supervise, conversation, Plan(2, opens=False, toasts=False), run)
    live = {span.span_id: span for span in receiver.spans}
    await export_trace(bus, "evening", receiver.environ)
    assert {span.span_id: span for span in receiver.spans[len(live) :]} == live
    assert {span.trace_id for span in live.values()} == {TRACE}


async def test_every_record_of_every_run_names_the_trace(bus: Bus) -> None:
    """For whoever reads `traceparent` and knows nothing of roots: links, memories and journals alike."""
    await hold(bus, join_trace({"TRACEPARENT": PARENT}))
    conversation = await bus.existing("evening")
    floor = await conversation.floor()
    own = conversation.run_of(floor)
    assert own is not None
    await conversation.aside(ADA, Joined(), own.child())
    async with conversation.log.read(">") as records:
        runs = [run_of(record.headers) async for record in records]
    assert len(runs) > 40
    assert {run.joined for run in runs if run is not None} == {TRACE}


async def test_nobody_finds_fault_with_a_conversation_that_joined(bus: Bus) -> None:
    """Its journals and links stand where their root says, whatever trace they are part of."""
    await hold(bus, join_trace({"TRACEPARENT": PARENT}))
    verdict = await verify(await bus.existing("evening"))
    assert verdict.findings == ()


async def test_a_run_joins_the_span_around_it(receiver: OtlpReceiver) -> None:
    """Rather than the trace that the process was started in."""
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    here = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with use_span(NonRecordingSpan(here)):
        result = await helper.prompt("go", place=place, run=join_trace({"TRACEPARENT": PARENT}))
    await export_trace(place, result.run_id, receiver.environ)
    assert {span.trace_id for span in receiver.spans} == {f"{0xABC:032x}"}
    root = root_of(receiver.spans)
    assert (root.name, root.parent_id) == ("invoke_agent helper", f"{0xDEF:016x}")


async def test_several_runs_join_one_span(receiver: OtlpReceiver) -> None:
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    for _ in range(2):
        result = await helper.prompt("go", place=place, run=join_trace({"TRACEPARENT": PARENT}))
        await export_trace(place, result.run_id, receiver.environ)
    assert len({span.span_id for span in receiver.spans}) == 8
    assert {span.parent_id for span in receiver.spans if span.name == "invoke_agent helper"} == {SPAN}


async def test_who_goes_on_with_a_run_need_not_know_of_the_trace(receiver: OtlpReceiver) -> None:
    """What it calls afterwards says nothing of it: what stands above does."""
    place, run = Place(MemoryLog(), "cv.00.desk", live=False), join_trace({"TRACEPARENT": PARENT})
    reached = anyio.Event()

    @tool(name="ask")
    async def wait() -> str:
        """Wait."""
        reached.set()
        await anyio.sleep_forever()
        return ""

    async def begin() -> None:
        await Agent("guest", model=once("ask"), tools=[wait]).execute("go", run=run, place=place, on_cancel="leave")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await reached.wait()
        tasks.cancel_scope.cancel()
    await guest.prompt("go", run=RunContext.root(run.run_id), place=place)
    await export_trace(place, run.run_id, receiver.environ)
    assert {span.trace_id for span in receiver.spans} == {TRACE}
    assert len(receiver.spans) == 8 + 2
    assert root_of(receiver.spans).parent_id == SPAN


async def test_a_run_that_is_queued_elsewhere_is_part_of_it_too(bus: Bus, receiver: OtlpReceiver) -> None:
    """The worker sees nothing of the run that queued it."""

    @tool(name="ask")
    async def pass_on() -> str:
        """Pass on."""
        return (await queued("helper", "go").send(bus)).run_id

    desk = Place(MemoryLog(), "cv.00.desk", live=False)
    boss = Agent("boss", model=once("ask"), tools=[pass_on])
    result = await boss.prompt("go", place=desk, run=join_trace({"TRACEPARENT": PARENT}))
    place = await place_of(bus, "default")

    async def keep_working() -> None:
        async with exporting(place, only_taken=True, environ=receiver.environ, warn=pytest.fail) as export:
            await work(bus, {"helper": helper}, begun=export.take)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_working)
        await receiver.until(lambda there: len(there.spans) == 4)
        tasks.cancel_scope.cancel()
    assert {span.trace_id for span in receiver.spans} == {TRACE}
    assert root_of(receiver.spans).parent_id == result.run_id[16:]


async def test_a_fork_joins_nothing_and_is_linked_to_where_its_origin_is(bus: Bus, receiver: OtlpReceiver) -> None:
    run = join_trace({"TRACEPARENT": PARENT})
    await hold(bus, run)
    copy = await fork(bus, await bus.existing("evening"), "again")
    floor = await copy.floor()
    own = copy.run_of(floor)
    assert own is not None
    await copy.close(floor, own, "enough")
    await export_trace(bus, "again", receiver.environ)
    assert {span.trace_id for span in receiver.spans} == {own.run_id}
    root = root_of(receiver.spans)
    ((trace_id, span_id, attributes),) = root.links
    assert (trace_id, span_id, attributes["convive.link.kind"]) == (TRACE, run.run_id[16:], "forked_from")
    assert (await verify(copy)).findings == ()


@pytest.mark.parametrize(
    ("given", "linked"),
    [
        ("", False),
        ("words", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE}-{SPAN}-00", True),
    ],
)
async def test_a_trace_that_is_none_or_is_recorded_nowhere_is_not_joined(
    given: str, linked: bool, receiver: OtlpReceiver
) -> None:
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    result = await helper.prompt("go", place=place, run=join_trace({"TRACEPARENT": given}))
    await export_trace(place, result.run_id, receiver.environ)
    root = root_of(receiver.spans)
    assert (root.trace_id, root.parent_id) == (result.run_id, "")
    assert [link[:2] for link in root.links] == ([(TRACE, SPAN)] if linked else [])


def test_the_headers_of_every_record_say_which_trace_was_joined() -> None:
    """Any other program reads the trace in `traceparent`, and the root in `Cv-Root`."""
    run = RunContext.root(started_from=PARENT, join=True)
    for each in (run, run.child(), run.child().child()):
        headers = each.headers()
        known = run_of(headers)
        assert known == each
        assert known is not None
        assert (known.joined, known.trace_id, known.root_run_id) == (TRACE, TRACE, run.run_id)
        assert headers["traceparent"] == f"00-{TRACE}-{each.run_id[16:]}-01"
        assert headers["Cv-Root"] == run.run_id
        assert ("Cv-Link" in headers) == (each is run)
    linked = RunContext.root(started_from=PARENT)
    assert (linked.joined, linked.trace_id, "Cv-Root" in linked.headers()) == ("", linked.run_id, False)


def test_a_writer_that_traces_in_its_own_way_joins_nothing() -> None:
    """Its `traceparent` names a span of its own; the tree goes by the root."""
    run = RunContext.root().child()
    known = run_of({**run.headers(), "Cv-Root": run.root_run_id, "traceparent": PARENT})
    assert known == run
    assert known is not None
    assert known.joined == ""
