"""What calling a run off means for the runs below it."""

import anyio
import pytest

from convive.agents import Agent, Answer, Place, ToolUse, Usage, tool
from convive.agents.journal._journal import JournalEvent, RunCancelled, journal_event_of
from convive.agents.models._scripted import ScriptedModel
from convive.agents.tools._stopping import CancelMode
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio

SPENT = Usage(output_tokens=9)


def place() -> Place:
    return Place(MemoryLog(), "cv.00.test", live=False)


def ask() -> Answer:
    return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use", usage=SPENT)


async def journals(where: Place) -> list[JournalEvent]:
    async with where.log.read(f"{where.base}.run.>") as records:
        return [journal_event_of(record) async for record in records]


async def test_the_reason_reaches_runs_two_levels_down() -> None:
    """W32, rule 11 of the design"""
    reached, where = anyio.Event(), place()

    async def pause() -> None:
        reached.set()
        await anyio.sleep_forever()

    leaf = Agent("leaf", model=ScriptedModel(["never"], pause=pause))
    middle = Agent("middle", model=ScriptedModel([ask()]), tools=[leaf.as_tool("ask", "Ask.")])
    chief = Agent("chief", model=ScriptedModel([ask()]), tools=[middle.as_tool("ask", "Ask.")])
    async with chief.stream("x", place=where) as run:
        await reached.wait()
        run.cancel("too slow")
    reasons = [event.reason for event in await journals(where) if isinstance(event, RunCancelled)]
    assert reasons == ["too slow"] * 3


async def test_a_run_below_that_is_given_up_by_its_tool_ends_although_runs_are_left_on_cancellation() -> None:
    """D15: a worker leaves what it is cancelled in. A call that timed out is not made again, though, and what it
    called would stay open for good, its usage lost."""
    where = place()

    @tool
    async def hang() -> None:
        await anyio.sleep_forever()

    hanging = Answer(parts=(ToolUse(id="1", name="hang", arguments={}),), stop_reason="tool_use", usage=SPENT)
    leaf = Agent("leaf", model=ScriptedModel([hanging]), tools=[hang])
    clerk = Agent("clerk", model=ScriptedModel([ask()]), tools=[leaf.as_tool("ask", "Ask.")])
    tools = [clerk.as_tool("ask", "Ask.", timeout_s=0.1)]
    chief = Agent("chief", model=ScriptedModel([ask(), "Too bad."]), tools=tools)
    result = await chief.execute("x", place=where, on_cancel="leave")
    assert (result.text, result.usage.output_tokens) == ("Too bad.", 27)
    assert [(child.agent, child.status) for child in result.report.children] == [("clerk", "cancelled")]
    reasons = [event.reason for event in await journals(where) if isinstance(event, RunCancelled)]
    assert reasons == ["the tool call that it belongs to went on without it"] * 2


@pytest.mark.parametrize("mode", ["now", "after_tools"])
async def test_runs_below_that_wait_for_somebody_end_with_the_run_that_is_called_off(mode: CancelMode) -> None:
    """W32, rule 11 of the design: nobody could answer them any more, and nothing else would ever end them."""
    where, waits, go_on = place(), anyio.Event(), anyio.Event()

    @tool(needs_approval=True)
    async def pay() -> None: ...

    @tool
    async def work() -> None:
        await go_on.wait()

    def see(event: object) -> None:
        waits.set()

    paying = Answer(parts=(ToolUse(id="1", name="pay", arguments={}),), stop_reason="tool_use")
    working = Answer(parts=(*ask().parts, ToolUse(id="2", name="work", arguments={})), stop_reason="tool_use")
    leaf = Agent("leaf", model=ScriptedModel([paying]), tools=[pay])
    clerk = Agent("clerk", model=ScriptedModel([ask()]), tools=[leaf.as_tool("ask", "Ask.")], on={"run_suspended": see})
    chief = Agent("chief", model=ScriptedModel([working]), tools=[clerk.as_tool("ask", "Ask."), work])
    async with chief.stream("x", place=where) as run:
        await waits.wait()
        run.cancel("too slow", mode=mode)
        go_on.set()
    result = await run.result()
    assert result.status == "cancelled"
    reasons = [event.reason for event in await journals(where) if isinstance(event, RunCancelled)]
    assert reasons == ["too slow"] * 3
    assert mode == "after_tools" or [child.status for child in result.report.children] == ["cancelled"]
