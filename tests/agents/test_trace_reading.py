"""Finding a trace, reading it, and following it to its end."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents import Agent, Place, UnknownRun, find_trace, follow_trace, read_trace
from convive.agents.testing import ScriptedModel
from convive.agents.traces._trace_reading import _News, _States
from convive.bus import Bus, BusUnavailable, Conversation, Draft, LogAround, MemoryLog, RunContext, Tail, memory_bus
from tests.agents.test_trace import held
from tests.agents.traces import Writer, answered, began, called, ended, lines

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


async def write(conversation: Conversation, *writers: Writer) -> None:
    """What was written by hand, in a conversation's log."""
    for writer in writers:
        for record in writer.records:
            await conversation.log.append(Draft(record.subject, record.body, record.headers))


async def test_a_conversation_is_found_by_the_beginning_of_its_run_as_the_list_of_runs_shows_it(bus: Bus) -> None:
    conversation = await held(bus, "trace-a")
    opened = (await conversation.floor()).opened
    assert opened is not None
    for where in (bus, conversation):
        for which in (opened.run_id, opened.run_id[:14], "trace-a"):
            found = await find_trace(where, which)
            assert (found.root, found.asked, found.conversation) == (opened.run_id, opened.run_id, "trace-a")
        with pytest.raises(UnknownRun):
            await find_trace(where, opened.run_id[:3])


async def test_runs_in_a_name_space_where_nobody_speaks_are_found(bus: Bus) -> None:
    space = await bus.conversation("desk")
    place = Place(space.log, space.subjects.base, live=False)
    result = await Agent("clerk", model=ScriptedModel(["Done."])).prompt("go", place=place)
    for where in (bus, space, place):
        assert lines(await read_trace(where, result.run_id[:20])) == ["run clerk ok", "  trip answer 1 ok"]


async def test_what_stands_below_a_run_that_is_not_there_is_found_by_its_id(bus: Bus) -> None:
    space, lost = await bus.conversation("desk"), RunContext.root()
    writer = Writer(space.subjects.base)
    writer.journal(lost.child(), began(lost.child()), ended())
    await write(space, writer)
    found = await find_trace(bus, lost.run_id)
    assert (found.root, found.asked) == (lost.run_id, lost.run_id)


async def test_a_journal_of_which_nothing_can_be_read_is_told(bus: Bus) -> None:
    space = await bus.conversation("desk")
    await space.log.append(Draft(f"{space.subjects.base}.run.x.y", b"{}", {"Cv-Run": "nonsense"}))
    with pytest.raises(UnknownRun, match="none of it can be read"):
        await read_trace(bus, "y")


async def test_an_error_of_whoever_follows_comes_out_as_it_is(bus: Bus) -> None:
    await held(bus, "trace-a")
    with pytest.raises(ZeroDivisionError):
        async with follow_trace(bus, "trace-a"):
            raise ZeroDivisionError


async def test_following_can_be_left_at_any_time(bus: Bus) -> None:
    """With more to read than is handed over at once."""
    space, run = await bus.conversation("desk"), RunContext.root()
    writer = Writer(space.subjects.base)
    writer.journal(run, began(run), *answered("ask"), *[called()] * 600)
    await write(space, writer)
    with anyio.fail_after(20):
        async with follow_trace(bus, run.run_id):
            await anyio.wait_all_tasks_blocked()
        async with follow_trace(bus, run.run_id) as states:
            async for trace in states:
                assert trace.runs[run.run_id].children[1].attempts
                break


class Gone(LogAround):
    """A log that can be read and not followed."""

    @asynccontextmanager
    async def follow(self, *subjects: str, after: int = 0, since_s: float | None = None) -> AsyncGenerator[Tail]:
        raise BusUnavailable("nobody there")
        yield


async def test_a_bus_that_is_gone_is_told_to_whoever_follows(bus: Bus) -> None:
    place, run = Place(Gone(MemoryLog()), "cv.00.desk", live=False), RunContext.root()
    await Agent("clerk", model=ScriptedModel(["Done."])).prompt("go", place=place, run=run)
    with anyio.fail_after(5), pytest.raises(BusUnavailable):
        async with follow_trace(place, run.run_id) as states:
            await anext(states)


async def test_the_last_state_has_all_that_any_log_has() -> None:
    """One log tells of the end before another one tells of what was there long before it."""
    run = RunContext.root()
    queued, late = run.child(), MemoryLog()
    writer, other = Writer(), Writer("cv.01.queue-default")
    writer.journal(run, began(run), *answered("send"), called(), ended())
    other.journal(queued, began(queued, "later"), ended())
    for record in other.records:
        await late.append(Draft(record.subject, record.body, record.headers))
    send, receive = anyio.create_memory_object_stream[_News](20)
    with send, receive:
        for news in (None, *writer.records):
            send.send_nowait((0, news))
        send.send_nowait((1, None))
        states = _States(receive, ((MemoryLog(), (">",)), (late, (">",))))
        seen = [lines(trace) async for trace in states]
    assert len(seen) == 1
    assert seen[0][-1] == "  run later ok"
