"""What one call of an answer means for the others."""

import pytest

from convive.agents import (
    Abort,
    Agent,
    Answer,
    AnyRunEvent,
    HookContext,
    HookedCall,
    Middleware,
    Place,
    ToolUse,
    handoff,
    tool,
)
from convive.agents._errors import BadModelRequest
from convive.agents._journal import journal_event_of
from convive.agents._messages import ToolResult
from convive.agents._scripted import ScriptedModel
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def use(*names: str) -> Answer:
    return Answer(parts=tuple(ToolUse(id=name, name=name, arguments={}) for name in names), stop_reason="tool_use")


async def test_an_abort_leaves_no_call_beside_it_begun() -> None:
    """D3: a call that the journal says was begun, and never was, would be one that may have had its effect."""
    where, seen = Place(MemoryLog(), "cv.00.test", live=False), list[str]()

    @tool
    async def one() -> None: ...

    @tool
    async def two() -> None: ...

    class Guard(Middleware):
        async def before_tool(self, ctx: HookContext, call: HookedCall) -> Abort | None:
            return Abort("not that one") if call.name == "two" else None

    def see(event: AnyRunEvent) -> None:
        seen.append(event.type)

    ada = Agent("ada", model=ScriptedModel([use("one", "two")]), tools=[one, two], middleware=[Guard()])
    result = await ada.execute("x", place=where, on={"*": see})
    async with where.log.read(f"{where.base}.run.>") as records:
        journal = [journal_event_of(record).type async for record in records]
    assert result.status == "cancelled"
    assert journal == ["run_started", "trip_started", "model_answered", "run_cancelled"]
    assert "tool_started" not in seen


async def test_calls_behind_a_handoff_that_failed_are_carried_out() -> None:
    """Section 3.3 of the checklist: the conversation was not handed over."""

    @tool
    async def work() -> str:
        return "worked"

    broken = Agent("broken", model=ScriptedModel([BadModelRequest("no")]))
    model = ScriptedModel([use("handoff_to_broken", "work"), "Then I do."])
    result = await Agent("desk", model=model, tools=[handoff(broken), work]).execute("x")
    heard = [part.content for part in model.requests[1].messages[-1].parts if isinstance(part, ToolResult)]
    assert (result.text, heard) == ("Then I do.", ["agent 'broken' could not take over: no", "worked"])
