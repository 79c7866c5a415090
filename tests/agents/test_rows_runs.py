"""Rows on whole runs: one trace for what belongs together, stop conditions, ends that come once, hand-overs."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    AnyRunEvent,
    AskContext,
    BadTool,
    Message,
    Observers,
    Place,
    ToolContext,
    ToolResult,
    assistant,
    handoff,
    step_count_is,
    tool,
    user,
)
from convive.agents.journal._fold import RunState
from convive.agents.runs._stops import StopWhen
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog, RunContext, derive_run_id
from tests.agents.runs import Given, place, use

pytestmark = pytest.mark.anyio


async def test_a_workflow_is_plain_code_in_one_trace_and_begins_again_where_it_stopped() -> None:
    """W37, C21: workflow, agent, tool, agent below; a step that is done is not asked for again"""
    where, root, observers = place(), RunContext.root(), Observers()
    heard: list[AnyRunEvent] = []
    observers.subscribe(heard.append)

    async def briefing(context: AskContext) -> str:
        return f"You are {context.agent}, for {context.deps}."

    helper = Agent("helper", model=ScriptedModel(["a fact"]), observers=observers)

    @tool
    async def research(context: ToolContext, topic: str) -> str:
        """Find facts."""
        return (await helper.prompt(topic)).text

    model = ScriptedModel([use(("research", {"topic": "soup"})), "A draft."])
    writer = Agent(
        "writer",
        model=model,
        tools=[research],
        instructions=briefing,
        observers=observers,
    )
    critic = ScriptedModel([OSError("no network"), "Good."])
    editor = Agent("editor", model=critic, observers=observers)

    async def workflow() -> str:
        async def step(name: str, agent: Agent, text: str) -> str:
            run = root.child(derive_run_id(root.run_id, name))
            given: dict[str, Any] = {"run": run, "place": where, "session_id": "u42", "deps": "the editor"}
            return (await agent.prompt(text, on_cancel="leave", **given)).text

        draft = await step("draft", writer, "Write about soup.")
        return await step("edit", editor, draft)

    with pytest.raises(OSError, match="no network"):
        await workflow()
    assert await workflow() == "Good."
    assert (len(model.requests), len(critic.requests)) == (2, 2)
    assert model.requests[0].system == "You are writer, for the editor."
    assert {event.root_run_id for event in heard} == {root.run_id}
    above = {event.run_id: event.parent_run_id for event in heard}
    agents = {event.agent: event.run_id for event in heard if event.type == "run_started"}
    assert above[agents["helper"]] == agents["writer"]
    assert above[agents["writer"]] == above[agents["editor"]] == root.run_id
    async with where.log.read(f"{where.base}.run.{root.run_id}.*") as records:
        assert {record.subject.rpartition(".")[2] async for record in records} == set(agents.values())


async def test_the_session_is_stamped_on_every_run_of_a_tree_and_may_be_another_below() -> None:
    """W34"""
    where, sessions = place(), dict[str, str | None]()
    helper = Agent("helper", model=ScriptedModel(["a fact", "a fact"]))

    @tool
    async def ask(context: ToolContext) -> str:
        sessions["tool"] = context.session_id
        sessions["below"] = (await helper.prompt("x")).report.session_id
        sessions["of its own"] = (await helper.prompt("x", session_id="other")).report.session_id
        return "asked"

    chief = Agent("chief", model=ScriptedModel([use(("ask", {})), "Done."]), tools=[ask])
    result = await chief.prompt("go", session_id="u42", place=where)
    assert result.report.session_id == "u42"
    assert sessions == {"tool": "u42", "below": "u42", "of its own": "other"}


def after_two(state: RunState) -> bool:
    return state.usage.total_tokens >= 0 and len(state.trips) == 2


def enough(state: RunState) -> bool:
    return "enough" in state.latest_text


def four_calls(state: RunState) -> bool:
    return state.tool_calls == 4


@pytest.mark.parametrize(("stop", "trips"), [(after_two, 2), (enough, 3), ([four_calls, step_count_is(9)], 4)])
async def test_a_plain_function_of_the_run_so_far_can_stop_it(stop: StopWhen, trips: int) -> None:
    """G15, G12: it sees trips, usage, text and calls, and the tools of the trip were carried out"""
    ran: list[int] = []

    @tool
    async def look() -> None:
        ran.append(1)

    texts = ["go on", "go on", "enough", "more", "more"]
    model = ScriptedModel([use(("look", {}), text=text) for text in texts])
    result = await Agent("ada", model=model, tools=[look], stop_when=stop).prompt("x")
    assert (result.finish_reason, len(model.requests), len(ran)) == ("stop_condition", trips, trips)


async def test_the_last_update_of_an_agent_below_comes_once_also_when_all_is_called_off() -> None:
    """C10, G22"""
    reached = anyio.Event()

    @tool
    async def hang() -> None:
        reached.set()
        await anyio.sleep_forever()

    helper = Agent("helper", model=ScriptedModel([use(("hang", {}))]), tools=[hang])
    ask: Given = {"prompt": "x"}
    tools = [helper.as_tool("ask", "Ask.", streaming=True)]
    async with Agent("chief", model=ScriptedModel([use(("ask", ask))]), tools=tools).stream("go") as run:
        with anyio.fail_after(10):
            await reached.wait()
        run.cancel("enough")
        updates: list[Any] = [event.value async for event in run if event.type == "tool_updated"]
    assert [update["kind"] for update in updates] == ["agent_start", "tool_call", "agent_done"]
    assert (updates[-1]["status"], updates[-1]["error"]) == ("cancelled", "enough")


class Case(BaseModel):
    """What the next desk needs to know."""

    order: str
    urgent: bool = False


async def test_a_handover_can_take_a_typed_input_and_choose_what_of_the_history_goes_along() -> None:
    """3.3: input, a mapper as a function or a format string, and a filter of the history"""

    def recent(messages: Sequence[Message]) -> Sequence[Message]:
        return messages[-1:]

    def spoken(case: Case) -> str:
        return f"Order {case.order}, urgent: {case.urgent}."

    for prompt in ("Order {order}, urgent: {urgent}.", spoken):
        model = ScriptedModel(["Refunded."])
        billing = Agent("billing", model=model)
        over = handoff(billing, "for refunds", input=Case, prompt=prompt, history=recent)
        desk = Agent("desk", model=ScriptedModel([use(("handoff_to_billing", {"order": "A7"}))]), tools=[over])
        result = await desk.prompt("My money!", history=[user("Hello."), assistant("Good evening.")])
        assert (result.text, result.report.handoffs) == ("Refunded.", ("billing",))
        (message,) = model.requests[0].messages
        assert message.text == "My money!Order A7, urgent: False."
    schema: Any = over.spec.input_schema
    assert schema["required"] == ["order"]
    with pytest.raises(BadTool, match="no field 'message'"):
        handoff(billing, input=Case)


async def test_bad_input_of_a_handover_leaves_the_conversation_where_it_is() -> None:
    """3.3, W17"""
    billing = ScriptedModel([])
    tools = [handoff(Agent("billing", model=billing), input=Case, prompt="{order}")]
    desk = Agent("desk", model=ScriptedModel([use(("handoff_to_billing", {})), "I do it."]), tools=tools)
    result = await desk.prompt("x", place=Place(MemoryLog(), "cv.00.test", live=False))
    (heard,) = (part for message in result.messages for part in message.parts if isinstance(part, ToolResult))
    assert "invalid_arguments" in heard.content
    assert (result.text, result.report.handoffs, billing.requests) == ("I do it.", (), [])
