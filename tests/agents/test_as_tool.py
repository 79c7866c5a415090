"""An agent as a tool of another one: input, output, progress, usage, limits."""

from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    Answer,
    Approve,
    Limits,
    Place,
    Request,
    Text,
    ToolUse,
    Usage,
    resume,
    tool,
)
from convive.agents.journal._journal import ToolReturned, journal_event_of
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._messages import ToolResult
from convive.agents.models._schema import BadTool
from convive.agents.models._scripted import Scripted, ScriptedModel
from convive.agents.runs._events import AnyRunEvent, RunSuspended, ToolUpdated, TripFinished
from convive.agents.runs._result import AgentResult
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

SPENT = Usage(input_tokens=10, output_tokens=5)


def use(name: str, count: int = 1, **arguments: Any) -> Answer:
    uses = tuple(ToolUse(id=f"c{n}", name=name, arguments=arguments) for n in range(count))
    return Answer(parts=uses, stop_reason="tool_use", usage=SPENT)


def say(text: str) -> Answer:
    return Answer(parts=(Text(text=text),), stop_reason="end", usage=SPENT)


def told(request: Request) -> list[ToolResult]:
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]


@tool
async def look() -> str:
    return "nothing"


class Research(BaseModel):
    """What to find out."""

    topic: str
    depth: Literal["quick", "deep"] = "quick"


def place() -> Place:
    return Place(MemoryLog(), "base", live=False)


async def updates(agent: Agent, where: Place, **options: Any) -> list[Any]:
    async with agent.stream("go", place=where, **options) as run:
        return [event.value async for event in run if isinstance(event, ToolUpdated)]


async def test_a_prompt_goes_down_and_the_text_comes_back() -> None:
    """G18, G19, G20"""
    helper = Agent("helper", model=ScriptedModel(["It is a model."]))
    ask = helper.as_tool("research", "Research a topic.")
    assert ask.spec.input_schema["required"] == ["prompt"]
    model = ScriptedModel([use("research", prompt="transformers"), "Summary."])
    where, run = place(), RunContext.root()
    result = await Agent("chief", model=model, tools=[ask]).prompt("go", place=where, run=run)
    assert (result.text, told(model.requests[1])[0].content) == ("Summary.", "It is a model.")
    async with where.log.read(where.journal(run)) as records:
        events = [journal_event_of(record) async for record in records]
    (returned,) = [event for event in events if isinstance(event, ToolReturned)]
    assert isinstance(returned.value, dict)
    assert (returned.value["agent"], returned.value["trips"]) == ("helper", 1)


async def shorten(result: AgentResult) -> str:
    await anyio.lowlevel.checkpoint()
    return f"{len(result.report.trips)} trips"


def research(given: Research) -> str:
    return f"Research {given.topic}, {given.depth}"


@pytest.mark.parametrize("prompt", ["Research {topic}, {depth}", research])
async def test_a_typed_input_is_mapped_and_the_model_reads_what_is_made_for_it(prompt: Any) -> None:
    """G21"""
    model = ScriptedModel(["A long story."])
    ask = Agent("helper", model=model).as_tool("ask", "Ask.", input=Research, prompt=prompt, model_output=shorten)
    chief = ScriptedModel([use("ask", topic="soup", depth="deep"), "Done."])
    await Agent("chief", model=chief, tools=[ask]).prompt("go")
    assert model.requests[0].messages[0].text == "Research soup, deep"
    assert told(chief.requests[1])[0].content == "1 trips"


async def test_bad_input_goes_back_to_the_calling_model() -> None:
    """G21, G74"""
    ask = Agent("helper", model=ScriptedModel([])).as_tool("ask", "Ask.", input=Research, prompt="{topic}")
    chief = ScriptedModel([use("ask", topic="soup", depth="bottomless"), "Sorry."])
    assert (await Agent("chief", model=chief, tools=[ask]).prompt("go")).text == "Sorry."
    assert "invalid_arguments" in told(chief.requests[1])[0].content


async def test_what_narrows_the_result_may_fail_without_harm() -> None:
    """G21"""

    def fail(result: AgentResult) -> str:
        raise ZeroDivisionError

    ask = Agent("helper", model=ScriptedModel(["The text."])).as_tool("ask", "Ask.", model_output=fail)
    chief = ScriptedModel([use("ask", prompt="x"), "Done."])
    await Agent("chief", model=chief, tools=[ask]).prompt("go")
    assert told(chief.requests[1])[0].content == "The text."


def test_an_input_without_a_prompt_needs_a_mapper() -> None:
    """G21"""
    with pytest.raises(BadTool, match="no field 'prompt'"):
        Agent("helper", model=ScriptedModel([])).as_tool("ask", "Ask.", input=Research)


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("Research {topik}", r"names \['topik'\], and the input has: topic, depth"), ("{topic", "no format string")],
)
def test_a_format_string_that_does_not_fit_the_input_is_refused_when_the_tool_is_made(prompt: str, why: str) -> None:
    """G21"""
    with pytest.raises(BadTool, match=why):
        Agent("helper", model=ScriptedModel([])).as_tool("ask", "Ask.", input=Research, prompt=prompt)
    Agent("helper", model=ScriptedModel([])).as_tool("ask", "Ask.", input=Research, prompt="{topic!r:>{depth}} {{x}}")


async def test_progress_is_shown_with_a_first_and_a_last_update() -> None:
    """G22"""
    helper = Agent("helper", model=ScriptedModel([use("look", 2), say("Found.")]), tools=[look])
    ask = helper.as_tool("ask", "Ask.", streaming=True)
    seen = await updates(Agent("chief", model=ScriptedModel([use("ask", prompt="x"), "Done."]), tools=[ask]), place())
    assert [update["kind"] for update in seen] == ["agent_start", "tool_call", "tool_call", "agent_done"]
    assert (seen[1]["tool"], seen[1]["arguments"]) == ("look", {})
    assert (seen[-1]["status"], seen[-1]["steps"], seen[-1]["tokens"]) == ("completed", 2, 30)
    assert len({update["run_id"] for update in seen}) == 1


async def test_the_last_update_comes_once_also_when_the_agent_fails() -> None:
    """G22, C10"""
    helper = Agent("helper", model=ScriptedModel([BadModelRequest("too long")]))
    ask = helper.as_tool("ask", "Ask.", streaming=True)
    chief = ScriptedModel([use("ask", prompt="x"), "Sorry."])
    seen = await updates(Agent("chief", model=chief, tools=[ask]), place())
    assert [update["kind"] for update in seen] == ["agent_start", "agent_done"]
    assert (seen[-1]["status"], seen[-1]["error"]) == ("failed", "too long")
    assert told(chief.requests[1])[0].content == "agent 'helper' failed: too long"


async def test_without_streaming_nothing_is_shown() -> None:
    """G22"""
    ask = Agent("helper", model=ScriptedModel(["Found."])).as_tool("ask", "Ask.")
    assert await updates(Agent("chief", model=ScriptedModel([use("ask", prompt="x"), "D"]), tools=[ask]), place()) == []


def counting() -> Callable[[AnyRunEvent], object]:
    steps = 0

    def project(event: AnyRunEvent) -> object:
        nonlocal steps
        if not isinstance(event, TripFinished):
            return None
        steps += 1
        return {"kind": "agent_step", "step": steps, "tokens": event.usage.total_tokens}

    return project


async def test_a_projector_chooses_what_is_shown_and_keeps_its_count_to_itself() -> None:
    """G23, C11"""

    def answer(request: Request) -> Answer:
        return use("look") if len(request.messages) == 1 else say("Found.")

    ask = Agent("helper", model=ScriptedModel(answer), tools=[look]).as_tool("ask", "Ask.", streaming=counting)
    chief = Agent("chief", model=ScriptedModel([use("ask", 2, prompt="x"), "Done."]), tools=[ask])
    seen = await updates(chief, place())
    by_run: dict[str, list[str]] = {}
    for update in seen:
        by_run.setdefault(update["kind"], []).append(str(update.get("step", "")))
    assert sorted(by_run["agent_step"]) == ["1", "1", "2", "2"]
    assert (len(by_run["agent_start"]), len(by_run["agent_done"])) == (2, 2)
    plain = Agent("helper", model=ScriptedModel(["Found."])).as_tool("ask", "Ask.", streaming=lambda event: None)
    seen = await updates(Agent("chief", model=ScriptedModel([use("ask", prompt="x"), "D"]), tools=[plain]), place())
    assert [update["kind"] for update in seen] == ["agent_start", "agent_done"]


async def test_updates_of_two_agents_side_by_side_come_live_and_the_results_in_order() -> None:
    """D6, C9"""
    arrived, both = 0, anyio.Event()

    @tool
    async def meet() -> str:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both.set()
        await both.wait()
        return "met"

    def answer(request: Request) -> Answer:
        return use("meet") if len(request.messages) == 1 else say(request.messages[0].text)

    helper = Agent("helper", model=ScriptedModel(answer), tools=[meet])
    first, second = (helper.as_tool(name, "Ask.", streaming=True) for name in ("first", "second"))
    calls = Answer(
        parts=tuple(ToolUse(id=n, name=n, arguments={"prompt": n}) for n in ("first", "second")), stop_reason="tool_use"
    )
    chief = ScriptedModel([calls, "Done."])
    seen = await updates(Agent("chief", model=chief, tools=[first, second]), place())
    assert [update["kind"] for update in seen][:2] == ["agent_start", "agent_start"]
    assert [part.content for part in told(chief.requests[1])] == ["first", "second"]


async def test_usage_rolls_up_also_from_runs_that_fail() -> None:
    """D15, D11, C22"""
    script: list[Scripted] = [use("look"), BadModelRequest("no")]
    leaf = Agent("leaf", model=ScriptedModel(script), tools=[look])
    middle = Agent("middle", model=ScriptedModel([use("ask", prompt="x"), say("m")]), tools=[leaf.as_tool("ask", "A.")])
    chief = Agent("chief", model=ScriptedModel([use("ask", prompt="x"), say("c")]), tools=[middle.as_tool("ask", "A.")])
    where, run = place(), RunContext.root()
    result = await chief.prompt("go", place=where, run=run)
    own = sum((trip.usage for trip in result.report.trips), Usage())
    (child,) = result.report.children
    assert (child.agent, child.status) == ("middle", "completed")
    assert result.usage == own + child.usage
    assert result.usage.total_tokens == 15 * 5
    assert (await chief.prompt("go", place=where, run=run)).usage == result.usage


async def test_a_hand_written_tool_rolls_up_too() -> None:
    """G48"""
    helper = Agent("helper", model=ScriptedModel(lambda request: say("Found.")))

    @tool
    async def ask() -> str:
        return (await helper.prompt("one")).text + (await helper.prompt("two")).text

    result = await Agent("chief", model=ScriptedModel([use("ask"), say("c")]), tools=[ask]).prompt("go")
    assert [child.agent for child in result.report.children] == ["helper", "helper"]
    assert result.usage.total_tokens == 15 * 4


@pytest.mark.parametrize(("limits", "trips"), [(Limits(tokens=45), 2), (Limits(tool_calls=3), 2), (Limits(), 10)])
async def test_runs_below_are_bound_by_what_the_run_above_has_left(limits: Limits, trips: int) -> None:
    """Rule 12 of the design"""
    reports: list[AgentResult] = []

    def keep(result: AgentResult) -> str:
        reports.append(result)
        return result.text

    leaf = Agent("leaf", model=ScriptedModel(lambda request: use("look")), tools=[look])
    chief = Agent(
        "chief",
        model=ScriptedModel([use("ask", prompt="x"), say("c")]),
        tools=[leaf.as_tool("ask", "A.", model_output=keep)],
    )
    result = await chief.prompt("go", limits=limits)
    assert (reports[0].finish_reason, len(reports[0].report.trips)) == ("limit", trips)
    assert result.finish_reason == ("answered" if limits == Limits() else "limit")


async def test_an_agent_can_wait_also_where_nothing_of_it_is_streamed() -> None:
    """G27: the error at build time that the row asks for has no place here. A run waits in its journal, and needs
    neither a stream nor a store of its own for that, so that `streaming=False` contradicts nothing."""

    @tool(needs_approval=True)
    async def publish() -> str:
        return "published"

    writer = Agent("writer", model=ScriptedModel([use("publish"), say("Out.")]), tools=[publish])
    ask = writer.as_tool("write", "Write.", streaming=False)
    chief = Agent("chief", model=ScriptedModel([use("write", prompt="x"), "Done."]), tools=[ask])
    where = place()
    result = await chief.prompt("go", place=where)
    assert [each.tool for each in result.interrupts] == ["publish"]
    after = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=chief)
    assert after.text == "Done."


async def test_an_agent_that_waits_suspends_the_one_above_and_shows_it() -> None:
    """G22 (a resumed run begins no second time), G24, G25, G28"""
    done: list[str] = []

    @tool(needs_approval=True)
    async def publish() -> str:
        done.append("published")
        return "published"

    writer = Agent("writer", model=ScriptedModel([use("publish"), say("Out.")]), tools=[publish])
    ask = writer.as_tool("write", "Write.", streaming=True)
    chief = Agent("chief", model=ScriptedModel([use("write", prompt="x"), "Done."]), tools=[ask])
    where = place()
    async with chief.stream("go", place=where) as run:
        events = [event async for event in run]
    assert isinstance(events[-1], RunSuspended)
    shown: list[Any] = [event.value for event in events if isinstance(event, ToolUpdated)]
    kinds = [update["kind"] for update in shown]
    assert kinds == ["agent_start", "agent_suspended"]
    result = await run.result()
    seen: list[Any] = []
    after = await resume(
        where,
        result.run_id,
        {result.interrupts[0].id: Approve()},
        agent=chief,
        on={"tool_updated": lambda event: seen.append(event.value["kind"])},
    )
    assert (after.text, done, seen) == ("Done.", ["published"], ["tool_call", "agent_done"])
    assert after.usage.total_tokens == 15 * 3
