"""Tools behind one name keep what was said of each."""

import anyio
import pytest

from convive.agents import Agent, Answer, ToolUse, handoff, scoped_tool, tool
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel

pytestmark = pytest.mark.anyio


async def test_a_tool_behind_another_name_keeps_its_time_and_what_it_shows_of_its_result() -> None:
    """Rule 5 of the design"""

    @tool(timeout_s=0.05)
    async def slow() -> None:
        await anyio.sleep_forever()

    @tool(model_output=len)
    async def long() -> str:
        return "x" * 1000

    @tool(model_output=int)
    async def broken() -> str:
        return "no number"

    shop = scoped_tool("shop", "What a shop does.", {"slow": slow, "long": long, "broken": broken})
    names = ("slow", "long", "broken")
    calls = tuple(ToolUse(id=name, name="shop", arguments={"action": name}) for name in names)
    model = ScriptedModel([Answer(parts=calls, stop_reason="tool_use"), "Done."])
    with anyio.fail_after(5):
        result = await Agent("ada", model=model, tools=[shop]).execute("x")
    heard = [part.content for part in model.requests[1].messages[-1].parts if isinstance(part, ToolResult)]
    assert heard == ['{"error":"timeout","message":"slow was given up after 0.05 s."}', "1000", "no number"]
    kept = [call.returned.value for call in result.report.trips[0].calls if call.returned]
    assert kept == [None, "x" * 1000, None]


async def test_calls_behind_a_handoff_by_another_name_are_not_carried_out() -> None:
    """3.3: the conversation is another agent's from then on"""
    done: list[str] = []

    @tool
    async def note(text: str) -> str:
        done.append(text)
        return "noted"

    other = Agent("other", model=ScriptedModel(["I am the other."]))
    desk = scoped_tool("desk", "What the desk does.", {"note": note, "hand": handoff(other)})
    given = ({"action": "note", "text": "before"}, {"action": "hand"}, {"action": "note", "text": "behind"})
    calls = tuple(ToolUse(id=str(n), name="desk", arguments=dict(each)) for n, each in enumerate(given))
    model = ScriptedModel([Answer(parts=calls, stop_reason="tool_use")])
    result = await Agent("ada", model=model, tools=[desk]).prompt("x")
    assert (result.text, result.report.handoffs, done) == ("I am the other.", ("other",), ["before"])
