"""Events in three tiers, and observers."""

import logging
from typing import Any, Unpack

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, Observers, Place, RunFailed, Tool, ToolUse, handoff, resume, tool
from convive.agents.journal._interrupts import Approve
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._scripted import Scripted, ScriptedModel
from convive.agents.runs._audience import EventHandler
from convive.agents.runs._events import AnyRunEvent, RunStarted
from convive.agents.runs._options import AgentOptions
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

TERMINAL = {"run_finished", "run_failed", "run_cancelled", "run_suspended"}


def use(name: str) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments={}),), stop_reason="tool_use")


def _ask(agent: Agent, how: str) -> Tool:
    if how == "handoff":
        return handoff(agent, name="ask")
    if how == "as_tool":
        return agent.as_tool("ask", "Ask.", input=Nothing, prompt="x")

    @tool
    async def ask() -> str:
        return (await agent.prompt("x")).text

    return ask


class Nothing(BaseModel):
    pass


def greeter(**options: Unpack[AgentOptions]) -> Agent:
    options["model"] = ScriptedModel(lambda request: "good evening")
    return Agent("ada", **options)


async def test_handlers_are_told_in_the_order_agent_instance_call() -> None:
    """W26, W27, W28, W29, C20"""
    told: list[str] = []
    ada = greeter(on={"run_finished": lambda event: told.append("agent"), "*": [lambda event: told.append(event.type)]})
    ada.on("run_finished", lambda event: told.append("instance"))

    async def call(event: AnyRunEvent) -> None:
        await anyio.lowlevel.checkpoint()
        told.append("call")

    await ada.prompt("x", on={"run_finished": call})
    assert told[-4:] == ["agent", "run_finished", "instance", "call"]
    assert told[:3] == ["run_started", "trip_started", "text_delta"]
    told.clear()
    await ada.prompt("x")
    assert "call" not in told


async def test_handlers_on_a_class_are_the_first_tier_until_the_constructor_brings_others() -> None:
    """W26, W27, W28, W29, G9, G10"""
    told: list[str] = []

    def tells(tier: str) -> EventHandler:
        return lambda event: told.append(tier)

    class Greeter(Agent):
        model = ScriptedModel(lambda request: "good evening")
        on: Any = {"run_finished": tells("class")}  # noqa: RUF012 - a method of that name stays

    class Below(Greeter):
        pass

    for kind in (Greeter, Below):
        ada = kind()
        ada.on("run_finished", tells("instance"))
        await ada.prompt("x", on={"run_finished": tells("call")})
    assert told == ["class", "instance", "call"] * 2
    told.clear()
    await Greeter(on={"run_finished": tells("constructor")}).prompt("x", on={"run_finished": tells("call")})
    assert told == ["constructor", "call"]


async def test_a_handler_can_be_taken_away_also_while_events_are_told() -> None:
    """W27, C20"""
    ada, told = greeter(), list[str]()

    def once(event: AnyRunEvent) -> None:
        told.append(event.type)
        off()

    off = ada.on("*", once)
    ada.on("run_finished", lambda event: told.append("still here"))
    await ada.prompt("x")
    assert told == ["run_started", "still here"]
    off()


async def test_a_handler_that_is_added_during_a_run_is_told_from_then_on() -> None:
    """W27"""
    told: list[str] = []

    @tool
    async def look() -> None:
        ada.on("*", lambda event: told.append(event.type))

    ada = Agent("ada", model=ScriptedModel([use("look"), "done"]), tools=[look])
    await ada.prompt("x")
    assert told[0] == "tool_finished"
    assert told[-1] == "run_finished"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_is_logged_once_and_changes_nothing(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """W29, D22, C20"""

    def fail(event: AnyRunEvent) -> None:
        raise ZeroDivisionError

    async def fail_later(event: AnyRunEvent) -> None:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    told: list[str] = []
    ada = greeter(on={"text_delta": [fail_later if asynchronous else fail, lambda event: told.append(event.text)]})
    with caplog.at_level(logging.ERROR):
        assert (await ada.prompt("x")).text == "good evening"
    assert "".join(told) == "good evening"
    assert caplog.text.count("a handler of text_delta failed") == 1


async def test_every_event_names_the_three_runs_from_the_first_on() -> None:
    """W30, D12, C21"""
    seen: list[AnyRunEvent] = []
    observers = Observers()
    child = greeter()

    @tool
    async def ask() -> str:
        return (await child.prompt("x")).text

    parent = Agent("parent", model=ScriptedModel([use("ask"), "done"]), tools=[ask], observers=observers)
    off = observers.subscribe(seen.append)
    run = RunContext.root()
    await parent.prompt("x", run=run)
    assert {event.root_run_id for event in seen} == {run.run_id}
    below = {(event.run_id, event.parent_run_id) for event in seen if event.run_id != run.run_id}
    assert [parent_id for _, parent_id in below] == [run.run_id]
    off()
    seen.clear()
    await greeter(observers=observers).prompt("x")
    assert seen == []


async def test_observers_hear_of_all_runs_but_not_of_deltas() -> None:
    """G65, G95, W25"""
    seen: list[str] = []
    observers = Observers()
    observers.subscribe(lambda event: seen.append(event.type))
    await greeter(observers=observers).prompt("x")
    assert seen == ["run_started", "trip_started", "trip_finished", "run_finished"]


@pytest.mark.parametrize("how", ["as_tool", "handoff", "in a tool"])
async def test_observers_hear_of_the_runs_below_however_these_are_made(how: str) -> None:
    """G65, G95: those of the root, and from where they are those of an agent in between"""
    heard: dict[str, list[str]] = {"chief": [], "middle": []}

    def observers(name: str) -> Observers:
        made = Observers()

        def hear(event: AnyRunEvent) -> None:
            if isinstance(event, RunStarted):
                heard[name].append(event.agent)

        made.subscribe(hear)
        return made

    def asking(name: str, below: Agent) -> Agent:
        return Agent(name, model=ScriptedModel([use("ask"), "ok"]), tools=[_ask(below, how)], observers=observers(name))

    chief = asking("chief", asking("middle", Agent("leaf", model=ScriptedModel(["found"]))))
    await chief.prompt("x")
    assert heard == {"chief": ["chief", "middle", "leaf"], "middle": ["middle", "leaf"]}


async def test_observers_that_are_given_at_each_level_hear_everything_once() -> None:
    """G65"""
    heard: list[str] = []
    observers = Observers()
    observers.subscribe(lambda event: heard.append(event.type))
    leaf = Agent("leaf", model=ScriptedModel(["found"]), observers=observers)
    tools = [_ask(leaf, "as_tool")]
    await Agent("chief", model=ScriptedModel([use("ask"), "ok"]), tools=tools, observers=observers).prompt("x")
    assert (heard.count("run_started"), heard.count("run_finished")) == (2, 2)


async def test_a_run_has_exactly_one_terminal_event_however_it_ends() -> None:
    """W31, C20"""

    @tool(needs_approval=True)
    async def look() -> str:
        return "nothing"

    where = Place(MemoryLog(), "base", live=False)
    seen: list[AnyRunEvent] = []
    script: list[Scripted] = [BadModelRequest("no"), use("look"), "done"]
    ada = Agent("ada", model=ScriptedModel(script), tools=[look], on={"*": seen.append})
    with pytest.raises(RunFailed):
        await ada.prompt("x", place=where)
    assert [event.type for event in seen if event.type in TERMINAL] == ["run_failed"]
    seen.clear()
    waiting = await ada.prompt("x", place=where)
    assert [event.type for event in seen if event.type in TERMINAL] == ["run_suspended"]
    await resume(where, waiting.run_id, {waiting.interrupts[0].id: Approve()}, agent=ada)
    assert [event.type for event in seen if event.type in TERMINAL] == ["run_suspended", "run_finished"]
    seen.clear()
    slow = Agent("ada", model=ScriptedModel(["hi"], pause=anyio.sleep_forever), on={"*": seen.append})
    with anyio.move_on_after(0.01):
        await slow.prompt("x")
    assert [event.type for event in seen if event.type in TERMINAL] == ["run_cancelled"]


async def test_execute_and_stream_tell_the_same() -> None:
    """W24"""
    told: dict[str, list[str]] = {"execute": [], "stream": []}
    ada = greeter()
    await ada.execute("x", on={"*": lambda event: told["execute"].append(event.type)})
    async with ada.stream("x", on={"*": lambda event: told["stream"].append(event.type)}) as run:
        streamed = [event.type async for event in run]
    assert told["execute"] == told["stream"] == streamed
