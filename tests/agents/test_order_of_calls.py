"""What one call of an answer means for the others."""

from collections.abc import Callable

import pytest

from convive.agents import (
    Abort,
    Agent,
    Answer,
    AnyRunEvent,
    Approve,
    Deny,
    HookContext,
    HookedCall,
    Middleware,
    NeedsAnswer,
    Place,
    Resolution,
    ToolContext,
    ToolUse,
    handoff,
    resume,
    tool,
)
from convive.agents.journal._journal import journal_event_of
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
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


def table(done: list[str]) -> list[Callable[..., object]]:
    """Tools: two that are asked about, one of which stands alone, one that stands alone, and a plain one."""

    @tool(needs_approval=True)
    async def ask() -> None:
        done.append("ask")

    @tool(needs_approval=True, sequential=True)
    async def ask_alone() -> None:
        done.append("ask_alone")

    @tool(sequential=True)
    async def alone() -> None:
        done.append("alone")

    @tool
    async def plain() -> None:
        done.append("plain")

    @tool
    async def finds_out(context: ToolContext) -> NeedsAnswer | None:
        if not context.approved:
            return NeedsAnswer("approval")
        done.append("finds_out")
        return None

    waits = Agent("waits", model=ScriptedModel([use("ask"), "asked"]), tools=[ask]).as_tool("below", "Ask below.")
    return [ask, ask_alone, alone, plain, finds_out, waits]


@pytest.mark.parametrize(
    ("asked", "first", "interrupts", "then"),
    [
        (["ask", "plain"], ["plain"], 1, ["ask"]),
        (["ask", "alone", "plain"], [], 1, ["ask", "alone", "plain"]),
        (["plain", "ask", "alone"], ["plain"], 1, ["ask", "alone"]),
        (["alone", "ask", "plain"], ["alone", "plain"], 1, ["ask"]),
        (["ask_alone", "plain"], [], 1, ["ask_alone", "plain"]),
        (["plain", "ask_alone", "ask", "plain"], ["plain"], 2, ["ask_alone", "ask", "plain"]),
        (["finds_out", "alone"], [], 1, ["finds_out", "alone"]),
        (["below", "plain", "alone"], ["plain"], 1, ["ask", "alone"]),
    ],
)
@pytest.mark.parametrize("answer", [Approve(), Deny()])
async def test_a_sequential_call_is_in_its_place_also_where_one_before_it_waits(
    asked: list[str], first: list[str], interrupts: int, then: list[str], answer: Resolution
) -> None:
    """G77, G81: a barrier. All that a trip waits for is asked at once."""
    done, place = list[str](), Place(MemoryLog(), "cv.00.test", live=False)
    parts = tuple(
        ToolUse(id=f"c{n}", name=name, arguments={"prompt": "x"} if name == "below" else {})
        for n, name in enumerate(asked)
    )
    model = ScriptedModel([Answer(parts=parts, stop_reason="tool_use"), "done"])
    ada = Agent("ada", model=model, tools=table(done))
    result = await ada.execute("x", place=place)
    assert (result.status, done, len(result.interrupts)) == ("suspended", first, interrupts)
    done.clear()
    result = await resume(place, result.run_id, {each.id: answer for each in result.interrupts}, agent=ada)
    assert result.text == "done"
    asks = () if isinstance(answer, Approve) else ("ask", "ask_alone", "finds_out")
    assert done == [each for each in then if each not in asks]


async def test_without_parallel_tools_every_call_waits_for_those_before_it() -> None:
    """G77"""
    done, place = list[str](), Place(MemoryLog(), "cv.00.test", live=False)
    ada = Agent(
        "ada",
        model=ScriptedModel([use("plain", "ask", "ask_alone", "alone"), "done"]),
        tools=table(done),
        parallel_tools=False,
    )
    result = await ada.execute("x", place=place)
    assert (done, [each.tool for each in result.interrupts]) == (["plain"], ["ask", "ask_alone"])
    # One of them is answered, and not the one that all wait for.
    result = await resume(place, result.run_id, {result.interrupts[1].id: Approve()}, agent=ada)
    assert (done, [each.tool for each in result.interrupts]) == (["plain"], ["ask"])
    result = await resume(place, result.run_id, {result.interrupts[0].id: Approve()}, agent=ada)
    assert (done, result.text) == (["plain", "ask", "ask_alone", "alone"], "done")
