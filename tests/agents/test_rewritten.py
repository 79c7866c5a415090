"""Arguments that a hook rewrote: the journal and all that reads it tell what the tool was called with."""

from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    AnyRunEvent,
    Approve,
    Edit,
    HookContext,
    HookedCall,
    Middleware,
    Place,
    Plan,
    ReplaceArgs,
    ToolUse,
    host_seats,
    read_trace,
    redrive,
    resume,
    run_events,
    supervise,
    tool,
)
from convive.agents.journal._journal import ToolCalled, journal_event_of
from convive.agents.testing import ScriptedModel, crash_before
from convive.bus import Chair, MemoryLog, RunContext, SeatName, memory_bus

pytestmark = pytest.mark.anyio


class Suffix(Middleware):
    """Adds to one argument, each time that it is asked."""

    def __init__(self, suffix: str = "!") -> None:
        self.suffix = suffix
        self.asked = 0

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> ReplaceArgs:
        self.asked += 1
        assert isinstance(call.arguments, dict)
        return ReplaceArgs({**call.arguments, "to": f"{call.arguments['to']}{self.suffix}"})


def use(name: str, **arguments: Any) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments=arguments),), stop_reason="tool_use")


async def called(place: Place) -> list[ToolCalled]:
    async with place.log.read(f"{place.base}.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    return [event for event in events if isinstance(event, ToolCalled)]


async def told(place: Place, run_id: str) -> tuple[Any, str]:
    """What whoever follows the run, and the trace, say that the tool was called with."""
    async with run_events(place, run_id) as events:
        shown = [each.event async for each in events]
    starts = [event.arguments for event in shown if event.type == "tool_started"]
    trace = await read_trace(place, run_id)
    return starts[-1], next(node.detail for root in trace.roots for node in root.walk() if node.kind == "tool")


async def test_the_journal_the_trace_and_the_report_say_what_the_tool_was_called_with() -> None:
    done: list[tuple[str, str | None]] = []

    @tool
    async def send(to: str, note: str | None) -> str:
        done.append((to, note))
        return "sent"

    place, seen = Place(MemoryLog(), "cv.00.test", live=False), list[Any]()

    def see(event: AnyRunEvent) -> None:
        if event.type == "tool_started":
            seen.append(event.arguments)

    model = ScriptedModel([use("send", to="ada", note=None), "done"])
    result = await Agent("ada", model=model, tools=[send], middleware=[Suffix()]).prompt(
        "x", place=place, on={"*": see}
    )
    real = {"to": "ada!", "note": None}
    assert done == [("ada!", None)]
    assert [event.arguments for event in await called(place)] == [real]
    assert await told(place, result.run_id) == (real, '{"to":"ada!","note":null}')
    assert (result.report.trips[0].calls[0].arguments, seen) == (real, [real])
    # The model reads its own words again.
    assert isinstance(part := model.requests[1].messages[1].parts[0], ToolUse)
    assert part.arguments == {"to": "ada", "note": None}


@pytest.mark.parametrize("middleware", [[], [Suffix("")]], ids=["no hook", "a hook that changes nothing"])
async def test_the_journal_does_not_say_twice_what_the_model_asked_for(middleware: list[Middleware]) -> None:
    place = Place(MemoryLog(), "cv.00.test", live=False)

    @tool
    async def send(to: str) -> str:
        return f"sent to {to}"

    model = ScriptedModel([use("send", to="ada"), "done"])
    await Agent("ada", model=model, tools=[send], middleware=middleware).prompt("x", place=place)
    async with place.log.read(f"{place.base}.run.>") as records:
        bodies = [record.body async for record in records]
    assert [b'"arguments"' in body for body in bodies if b'"tool_called"' in body] == [False]


@pytest.mark.parametrize("answer", [Approve(), Edit({"to": "bob"})])
async def test_an_approved_call_is_told_of_with_the_arguments_that_ran(answer: Approve | Edit) -> None:
    """G62, G85"""
    done, place = list[str](), Place(MemoryLog(), "cv.00.test", live=False)

    @tool(needs_approval=True)
    async def send(to: str) -> str:
        done.append(to)
        return "sent"

    agent = Agent("ada", model=ScriptedModel([use("send", to="ada"), "done"]), tools=[send], middleware=[Suffix()])
    result = await agent.prompt("x", place=place)
    await resume(place, result.run_id, {result.interrupts[0].id: answer}, agent=agent)
    real = "ada!" if isinstance(answer, Approve) else "bob"
    assert done == [real]
    assert await told(place, result.run_id) == ({"to": real}, f'{{"to":"{real}"}}')


async def test_a_call_that_is_made_again_after_a_crash_is_not_rewritten_again() -> None:
    """The same idempotency key goes with the same arguments."""
    done, place, run = list[str](), Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()

    @tool
    async def send(to: str) -> str:
        done.append(to)
        return "sent"

    hook = Suffix()
    agent = Agent("ada", model=ScriptedModel([use("send", to="ada"), "done"]), tools=[send], middleware=[hook])
    with crash_before("tool_returned").on(place) as dying:
        await agent.execute("x", run=run, place=dying)
    await agent.execute("x", run=run, place=place)
    assert (done, hook.asked) == (["ada!", "ada!"], 1)


@pytest.mark.parametrize(("suffix", "differs"), [("!", None), ("?", "call 1 of answer 1 is made with other arguments")])
async def test_a_redrive_notes_a_hook_that_rewrites_in_another_way(suffix: str, differs: str | None) -> None:
    @tool
    async def send(to: str) -> str:
        return "sent"

    def seated(suffix: str) -> dict[SeatName, Any]:
        model = ScriptedModel([use("send", to="ada"), "Sent."])
        return {SeatName("ada"): AgentSeat(Agent("ada", model=model, tools=[send], middleware=[Suffix(suffix)]))}

    plan, run = Plan(turns=1, opens=False, toasts=False), RunContext.root()
    async with memory_bus() as bus:
        conversation = await bus.conversation("supper")
        await conversation.open(run, "figs", [Chair(seat=SeatName("ada"))])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, seated("!"))
            tasks.start_soon(supervise, conversation, plan, run)
        found = await redrive(conversation, seated(suffix), plan)
    what = None if found.deviation is None else found.deviation.what
    assert (what is None) if differs is None else (what is not None and differs in what)
