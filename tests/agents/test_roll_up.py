"""What runs below used counts above, whatever comes of them."""

import anyio
import pytest

from convive.agents import Agent, Answer, HookContext, HookedCall, Middleware, Place, Text, ToolUse, Usage, tool
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._events import RunFailed
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio


def use(*names: str) -> Answer:
    parts = tuple(ToolUse(id=name, name=name, arguments={}) for name in names)
    return Answer(parts=parts, stop_reason="tool_use", usage=Usage(output_tokens=9))


def ask() -> Answer:
    return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")


async def test_a_run_below_whose_answer_is_too_large_to_be_kept_above_counts() -> None:
    """D15, rule 12 of the design"""
    long = Answer(parts=(Text(text="x" * 700_000),), stop_reason="end", usage=Usage(output_tokens=99))
    clerk = Agent("clerk", model=ScriptedModel([long]))
    chief = Agent("chief", model=ScriptedModel([ask(), "Well."]), tools=[clerk.as_tool("ask", "Ask.")])
    result = await chief.execute("x")
    (call,) = result.report.trips[0].calls
    assert call.returned is not None
    assert "result_too_large" in call.returned.content
    assert (result.usage.output_tokens, [child.agent for child in result.report.children]) == (99, ["clerk"])


async def test_a_run_that_is_called_off_counts_what_the_runs_below_used_until_then() -> None:
    """W32, rule 12 of the design, conformance test 22"""
    reached, where, run = anyio.Event(), Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()

    @tool
    async def hang() -> None:
        reached.set()
        await anyio.sleep_forever()

    leaf = Agent("leaf", model=ScriptedModel([use("hang")]), tools=[hang])
    clerk = Agent("clerk", model=ScriptedModel([ask()]), tools=[leaf.as_tool("ask", "Ask.")])
    chief = Agent("chief", model=ScriptedModel([ask()]), tools=[clerk.as_tool("ask", "Ask.")])
    async with chief.stream("x", place=where, run=run) as stream:
        await reached.wait()
        stream.cancel("too slow")
    result = await stream.result()
    assert (result.status, result.usage.output_tokens) == ("cancelled", 9)
    assert [(child.agent, child.status) for child in result.report.children] == [("clerk", "cancelled")]
    found = await chief.execute(run=run, place=where)
    assert (found.status, found.usage, found.messages) == (result.status, result.usage, result.messages)


async def test_a_run_that_fails_beside_a_run_below_counts_what_that_used() -> None:
    """Rule 12 of the design, conformance test 22"""
    reached, refused = anyio.Event(), RuntimeError("no more")

    @tool
    async def hang() -> None:
        reached.set()
        await anyio.sleep_forever()

    leaf = Agent("leaf", model=ScriptedModel([use("hang")]), tools=[hang])

    @tool
    async def fail() -> None:
        await reached.wait()

    class Strict(Middleware):
        async def after_tool(self, ctx: HookContext, call: HookedCall, content: str, is_error: bool) -> None:
            raise refused

    calls = Answer(parts=(*ask().parts, *use("fail").parts), stop_reason="tool_use")
    tools = [leaf.as_tool("ask", "Ask."), fail]
    chief = Agent("chief", model=ScriptedModel([calls]), tools=tools, middleware=[Strict()])
    used: list[int] = []

    def note(event: RunFailed) -> None:
        used.append(event.result.usage.output_tokens)

    with pytest.raises(RuntimeError, match="no more"):
        await chief.execute("x", on={"run_failed": note})
    assert used == [9]


async def test_a_run_that_fails_after_its_tools_counts_the_runs_below_once() -> None:
    """Conformance test 22"""
    clerk = Agent("clerk", model=ScriptedModel([Answer(parts=(), stop_reason="end", usage=Usage(output_tokens=9))]))
    model = ScriptedModel([ask(), BadModelRequest("no")])
    result = await Agent("chief", model=model, tools=[clerk.as_tool("ask", "Ask.")]).execute("x")
    assert (result.status, result.usage.output_tokens, len(result.report.children)) == ("failed", 9, 1)
