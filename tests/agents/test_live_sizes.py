"""Live text beside what no log takes."""

import pytest
from pydantic_core import from_json

from convive.agents import Agent, Answer, Place, ToolContext, ToolUse, tool
from convive.agents.journal._live import MOST_UPDATES, Live
from convive.agents.models._scripted import ScriptedModel
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio


async def test_an_update_that_is_too_large_is_not_shown_and_what_follows_is() -> None:
    """G73"""

    @tool
    async def work(context: ToolContext) -> str:
        await context.update("x" * 2_000_000)
        return "ready"

    where, run = Place(MemoryLog(), "cv.00.test"), RunContext.root()
    call = Answer(parts=(ToolUse(id="1", name="work", arguments={}),), stop_reason="tool_use")
    await Agent("ada", model=ScriptedModel([call, "done"]), tools=[work]).prompt("x", run=run, place=where)
    async with where.log.read(where.live_text(run)) as records:
        bodies = [from_json(record.body) async for record in records]
    assert [(body["type"], body["trip"], body.get("text")) for body in bodies] == [
        ("end", 0, None),
        ("delta", 1, "done"),
        ("end", 1, None),
    ]


async def test_of_updates_that_come_faster_than_they_are_posted_the_latest_are_kept() -> None:
    """A tool that shows progress in a tight loop must not fill the memory, nor hold up the text behind it."""
    where, run = Place(MemoryLog(), "cv.00.test"), RunContext.root()
    live = Live(where, run)
    for number in range(3 * MOST_UPDATES):
        live.update(0, "1", "count", number)
    live.begin(1, 1)
    live.text("done")
    await live.settle()
    async with where.log.read(where.live_text(run)) as records:
        bodies = [from_json(record.body) async for record in records]
    assert [body["value"] for body in bodies[:-2]] == list(range(2 * MOST_UPDATES, 3 * MOST_UPDATES))
    assert [body["type"] for body in bodies[-2:]] == ["delta", "end"]
