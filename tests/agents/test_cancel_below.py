"""What calling a run off means for the runs below it."""

import anyio
import pytest

from convive.agents import Agent, Answer, Place, ToolUse
from convive.agents._journal import JournalEvent, RunCancelled, journal_event_of
from convive.agents._scripted import ScriptedModel
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def place() -> Place:
    return Place(MemoryLog(), "cv.00.test", live=False)


def ask() -> Answer:
    return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")


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
