"""Tools that find out in the middle that they cannot go on alone (G84)."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest
from pydantic_core import from_json

from convive.agents import Agent, Approve, Deny, Final, NeedsAnswer, Result, Tool, ToolContext, peek, resume, tool
from convive.agents.mcp._served import call_served, served_tools
from convive.agents.testing import ScriptedModel
from tests.agents.runs import Given, place, told, types, use

pytestmark = pytest.mark.anyio


@tool
async def transfer(context: ToolContext, amount: int) -> object:
    """Send money, after having looked up whether somebody has to agree."""
    await context.update("looked up")
    if amount > 100 and not context.approved:
        return NeedsAnswer("approval", about={"limit": 100})
    return f"sent {amount}, attempt {context.attempt}"


async def test_a_tool_can_ask_for_an_approval_when_it_knows_more_and_is_called_again_with_it() -> None:
    """G84, G72: `approved`; what is asked for stands in the journal before anybody is told"""
    model, where = ScriptedModel([use(("transfer", {"amount": 5}), ("transfer", {"amount": 500})), "Done."]), place()
    agent = Agent("bank", model=model, tools=[transfer])
    result = await agent.prompt("x", place=where)
    (waiting,) = result.interrupts
    assert (result.status, waiting.kind, waiting.tool) == ("suspended", "approval", "transfer")
    assert (waiting.arguments, waiting.about) == ({"amount": 500}, {"limit": 100})
    assert (await peek(where, result.run_id)).interrupts == result.interrupts
    after = await resume(where, result.run_id, {waiting.id: Approve()}, token=result.resume_token, agent=agent)
    assert after.text == "Done."
    assert [part.content for part in told(model.requests[1])] == ["sent 5, attempt 1", "sent 500, attempt 2"]
    assert (await types(where, result.run_id)).count("tool_returned") == 2


async def test_a_refusal_ends_the_call_without_calling_it_again() -> None:
    """G84, G33"""
    model, where = ScriptedModel([use(("transfer", {"amount": 500})), "Sorry."]), place()
    agent = Agent("bank", model=model, tools=[transfer])
    result = await agent.prompt("x", place=where)
    after = await resume(where, result.run_id, {result.interrupts[0].id: Deny("no")}, agent=agent)
    assert after.text == "Sorry."
    assert from_json(told(model.requests[1])[0].content) == {"rejected": True, "reason": "no"}
    assert (await types(where, result.run_id)).count("tool_called") == 1


@tool
async def in_a_coroutine(context: ToolContext) -> object:
    """Pick."""
    return NeedsAnswer("client_tool", about="which file?")


@tool
async def in_an_async_generator() -> AsyncGenerator[object]:
    """Pick."""
    yield "looking"
    yield NeedsAnswer("client_tool", about="which file?")
    yield Final("never")


@tool
def in_a_generator() -> Generator[object]:
    """Pick."""
    yield "looking"
    yield NeedsAnswer("client_tool", about="which file?")
    yield "never"


@pytest.mark.parametrize("pick", [in_a_coroutine, in_an_async_generator, in_a_generator], ids=lambda pick: pick.name)
async def test_a_tool_can_leave_its_result_to_somebody_else(pick: Tool) -> None:
    """G84: any tool, a generator among them, which is left where it stands"""
    model, where = ScriptedModel([use((pick.name, {})), "Thanks."]), place()
    agent = Agent("files", model=model, tools=[pick])
    seen: list[Any] = []
    result = await agent.prompt("x", place=where, on={"tool_updated": lambda event: seen.append(event.value)})
    (waiting,) = result.interrupts
    assert (waiting.kind, waiting.about) == ("client_tool", "which file?")
    assert seen == ([] if pick is in_a_coroutine else ["looking"])
    after = await resume(where, result.run_id, {waiting.id: Result(["a.txt"])}, agent=agent)
    assert (after.text, told(model.requests[1])[0].content) == ("Thanks.", '["a.txt"]')
    assert (await types(where, result.run_id)).count("tool_called") == 1


async def test_each_time_it_waits_for_an_answer_of_its_own_also_below_another_agent() -> None:
    """G84, G34: an old approval is not taken for the next one"""
    where, approvals = place(), list[bool]()

    @tool
    async def delete(context: ToolContext) -> object:
        approvals.append(context.approved)
        return NeedsAnswer("approval", about=context.attempt) if context.attempt < 3 else "deleted"

    clerk = Agent("clerk", model=ScriptedModel([use(("delete", {})), "Gone."]), tools=[delete])
    ask: Given = {"prompt": "go"}
    chief = Agent("chief", model=ScriptedModel([use(("ask", ask)), "Done."]), tools=[clerk.as_tool("ask", "Ask.")])
    result, asked = await chief.prompt("x", place=where), list[object]()
    with anyio.fail_after(10):
        while result.interrupts:
            (waiting,) = result.interrupts
            asked.append((waiting.agent, waiting.about))
            result = await resume(where, result.run_id, {waiting.id: Approve()}, agent=chief)
    assert (result.text, asked, approvals) == ("Done.", [("clerk", 1), ("clerk", 2)], [False, True, True])


async def test_a_caller_who_cannot_wait_is_told_so() -> None:
    """G84, G99: a tool that is served without a run around it"""
    tools = served_tools(Agent("bank", model=ScriptedModel([]), tools=[transfer]), "tools", None, None)

    async def nowhere(value: object) -> None: ...

    outcome = await call_served(tools, "transfer", {"amount": 500}, place=None, deps=None, on_update=nowhere)
    assert outcome.is_error
    assert from_json(outcome.content)["error"] == "unavailable"


async def test_waiting_for_something_else_is_refused() -> None:
    """G84"""
    later: Any = "later"
    with pytest.raises(ValueError, match="cannot wait for 'later'"):
        NeedsAnswer(later)
