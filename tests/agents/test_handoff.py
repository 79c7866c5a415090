"""Handing a conversation over."""

from typing import Any

import pytest

from convive.agents import Agent, Answer, Approve, Place, Request, ToolUse, handoff, resume, tool
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._messages import ToolResult, user
from convive.agents.models._scripted import ScriptedModel
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def use(*names: str, **arguments: Any) -> Answer:
    uses = tuple(ToolUse(id=f"c{n}", name=name, arguments=arguments) for n, name in enumerate(names))
    return Answer(parts=uses, stop_reason="tool_use")


async def test_the_other_agent_sees_the_conversation_and_its_answer_is_the_runs() -> None:
    """Section 3.3 of the checklist"""
    model = ScriptedModel(["Your bill is paid."])
    billing = Agent("billing", model=model, instructions="You do bills.")
    desk = Agent("desk", model=ScriptedModel([use("handoff_to_billing")]), tools=[handoff(billing, "for bills")])
    result = await desk.prompt("My bill?", history=[user("Hello.")])
    assert (result.text, result.finish_reason, result.report.handoffs) == (
        "Your bill is paid.",
        "handoff",
        ("billing",),
    )
    assert model.requests[0].system == "You do bills."
    assert model.requests[0].messages[0].text == "Hello.My bill?Go on from here."
    assert (result.messages[-1].role, result.messages[-1].text) == ("assistant", "Your bill is paid.")
    assert [child.agent for child in result.report.children] == ["billing"]


async def test_of_two_handoffs_the_first_counts_and_calls_behind_it_are_skipped() -> None:
    """Section 3.3 of the checklist"""
    done: list[str] = []

    @tool
    async def work(message: str = "") -> None:
        done.append("work")

    one = Agent("one", model=ScriptedModel(["one here"]))
    two = Agent("two", model=ScriptedModel([]))
    model = ScriptedModel([use("handoff_to_one", "handoff_to_two", "work")])
    result = await Agent("desk", model=model, tools=[handoff(one), handoff(two), work]).prompt("x")
    assert (result.text, done) == ("one here", [])
    heard = [part.content for message in result.messages for part in message.parts if isinstance(part, ToolResult)]
    assert heard == ["one here", *["Skipped: the conversation was handed over."] * 2]


async def test_a_conversation_is_handed_on_at_most_five_times() -> None:
    """Section 3.3 of the checklist"""

    def answer(request: Request) -> Answer | str:
        last = request.messages[-1].parts[0]
        return "I do it" if isinstance(last, ToolResult) and last.is_error else use("on")

    agent = Agent("a9", model=ScriptedModel(answer), tools=[])
    for number in reversed(range(9)):
        agent = Agent(f"a{number}", model=ScriptedModel(answer), tools=[handoff(agent, name="on")])
    result = await agent.prompt("x")
    assert (result.text, result.report.handoffs) == ("I do it", ("a1", "a2", "a3", "a4", "a5"))


async def test_an_agent_that_fails_leaves_the_conversation_where_it_was() -> None:
    """Section 3.3 of the checklist"""
    broken = Agent("broken", model=ScriptedModel([BadModelRequest("no")]))
    desk = Agent("desk", model=ScriptedModel([use("handoff_to_broken"), "Then I do."]), tools=[handoff(broken)])
    result = await desk.prompt("x")
    assert (result.text, result.report.handoffs, result.finish_reason) == ("Then I do.", (), "answered")


async def test_the_agent_that_took_over_may_wait_for_somebody() -> None:
    """G28"""

    @tool(needs_approval=True)
    async def pay() -> str:
        return "paid"

    billing = Agent("billing", model=ScriptedModel([use("pay"), "Paid."]), tools=[pay])
    where = Place(MemoryLog(), "base", live=False)
    desk = Agent("desk", model=ScriptedModel([use("handoff_to_billing")]), tools=[handoff(billing)])
    result = await desk.prompt("x", place=where)
    after = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=desk)
    assert (after.text, after.report.handoffs) == ("Paid.", ("billing",))
