"""Runs that are watched: typed events, and a result whatever the watcher does."""

import json

import anyio
import pytest

from convive.agents.journal._chain import RunTaken
from convive.agents.journal._journal import Place, journal_event_of
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._messages import Text, Thinking, ToolUse
from convive.agents.models._model import Answer
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs import _events as shown
from convive.agents.runs._agent import Agent
from convive.agents.runs._events import AnyRunEvent
from convive.agents.runs._frame import OnCancel
from convive.agents.runs._result import RunUnfinished
from convive.agents.runs._stream import RunStream
from convive.agents.tools._tools import ToolContext, tool
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

USE = Answer(
    parts=(Thinking(thinking="hm"), Text(text="let me see"), ToolUse(id="1", name="look", arguments={"where": "here"})),
    stop_reason="tool_use",
)


@tool
async def look(context: ToolContext, where: str) -> str:
    """Look somewhere."""
    await context.update("half-way")
    return f"nothing in {where}"


def names(events: list[AnyRunEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


async def test_events_come_in_order_and_each_names_its_run() -> None:
    """G3, W22, W23, W24, W30"""
    run_ids = RunContext.root().child()
    ada = Agent("ada", model=ScriptedModel([USE, "It is gone."]), tools=[look])
    async with ada.stream("x", run=run_ids) as run:
        events = [event async for event in run]
    deltas = (shown.TextDelta, shown.ThinkingDelta, shown.ArgumentsDelta)
    assert names([event for event in events if not isinstance(event, deltas)]) == [
        "RunStarted",
        "TripStarted",
        "TripFinished",
        "ToolStarted",
        "ToolUpdated",
        "ToolFinished",
        "TripStarted",
        "TripFinished",
        "RunFinished",
    ]
    assert "".join(event.text for event in events if isinstance(event, shown.TextDelta)) == "let me seeIt is gone."
    assert [event.text for event in events if isinstance(event, shown.ThinkingDelta)] == ["hm"]
    written = [event for event in events if isinstance(event, shown.ArgumentsDelta)]
    assert json.loads("".join(event.text for event in written)) == {"where": "here"}
    assert {(event.trip, event.index, event.call_id, event.name) for event in written} == {(0, 0, "1", "look")}
    ids = {(event.run_id, event.root_run_id, event.parent_run_id) for event in events}
    assert ids == {(run_ids.run_id, run_ids.root_run_id, run_ids.parent_run_id)}
    assert isinstance(events[-1], shown.RunFinished)
    assert events[-1].result == await run.result()


async def test_the_result_needs_no_watching_and_outlives_the_block() -> None:
    """G64, C12"""
    ada = Agent("ada", model=ScriptedModel(["one two three"] * 3))
    async with ada.stream("x") as run:
        assert (await run.result()).text == "one two three"
    async with ada.stream("x") as run:
        async for event in run:
            if isinstance(event, shown.TextDelta):
                break
    assert (await run.result()).text == "one two three"
    async with ada.stream("x") as run:
        pass
    assert (await run.result()).text == "one two three"


async def test_each_of_two_watchers_sees_every_event() -> None:
    """D21, C12"""
    ada = Agent("ada", model=ScriptedModel(["one two three"]))
    seen: list[list[AnyRunEvent]] = []
    async with ada.stream("x") as run, anyio.create_task_group() as group:

        async def watch() -> None:
            seen.append([event async for event in run])

        group.start_soon(watch)
        group.start_soon(watch)
    late = [event async for event in run]
    assert seen == [late, late]


async def test_a_failed_run_ends_with_one_terminal_event_and_has_a_result() -> None:
    """W31"""
    async with Agent("ada", model=ScriptedModel([BadModelRequest("no")])).stream("x") as run:
        events = [event async for event in run]
    assert names(events) == ["RunStarted", "TripStarted", "RunFailed"]
    assert (await run.result()).status == "failed"


async def test_what_breaks_the_execution_itself_reaches_the_watcher_and_the_result() -> None:
    place, run_ids = Place(MemoryLog(), "base"), RunContext.root()
    ada = Agent("ada", model=ScriptedModel(["one"]))
    await ada.prompt("x", run=run_ids, place=place)
    async with ada.stream("x", run=run_ids, place=place, fresh=True) as run:
        with pytest.raises(RunTaken):
            _ = [event async for event in run]
        with pytest.raises(RunTaken):
            await run.result()


def hanging() -> tuple[Agent, anyio.Event]:
    """An agent whose model never gets beyond its first word, and when it is there."""
    reached = anyio.Event()

    async def pause() -> None:
        reached.set()
        await anyio.sleep_forever()

    return Agent("ada", model=ScriptedModel(["never heard"], pause=pause)), reached


async def last_type(place: Place, run: RunContext) -> str:
    record = await place.log.last(place.journal(run))
    assert record is not None
    return journal_event_of(record).type


@pytest.mark.parametrize("on_cancel", ["record", "leave"])
async def test_calling_a_run_off_gives_a_cancelled_result_with_the_reason(on_cancel: OnCancel) -> None:
    """W32"""
    place, run_ids = Place(MemoryLog(), "base"), RunContext.root()
    ada, reached = hanging()
    async with ada.stream("x", run=run_ids, place=place, on_cancel=on_cancel) as run:
        await reached.wait()
        run.cancel("too slow")
        events = [event async for event in run]
    result = await run.result()
    assert (result.status, result.error and result.error.message) == ("cancelled", "too slow")
    assert names(events)[-1] == "RunCancelled"
    assert await last_type(place, run_ids) == "run_cancelled"


async def test_a_run_that_is_called_off_before_it_starts_asks_nobody() -> None:
    """C23"""
    model = ScriptedModel([])
    async with Agent("ada", model=model).stream("x") as run:
        run.cancel("never mind")
    assert ((await run.result()).status, model.requests) == ("cancelled", [])


async def test_an_error_in_the_block_cancels_the_run_and_comes_out_as_it_is() -> None:
    place, run_ids = Place(MemoryLog(), "base"), RunContext.root()
    ada, reached = hanging()
    runs: list[RunStream] = []

    async def fail() -> None:
        async with ada.stream("x", run=run_ids, place=place) as run:
            runs.append(run)
            await reached.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await last_type(place, run_ids) == "run_cancelled"
    assert (await runs[0].result()).status == "cancelled"


@pytest.mark.parametrize("on_cancel", ["record", "leave"])
async def test_cancelling_the_watchers_task_cancels_the_run_or_leaves_it(on_cancel: OnCancel) -> None:
    """W33"""
    place, run_ids = Place(MemoryLog(), "base"), RunContext.root()
    ada, reached = hanging()
    runs: list[RunStream] = []
    with anyio.CancelScope() as scope:
        async with ada.stream("x", run=run_ids, place=place, on_cancel=on_cancel) as run:
            runs.append(run)
            await reached.wait()
            scope.cancel()
            await run.result()
    assert await last_type(place, run_ids) == ("trip_started" if on_cancel == "leave" else "run_cancelled")
    if on_cancel == "leave":
        with pytest.raises(RunUnfinished):
            await runs[0].result()
    else:
        assert (await runs[0].result()).status == "cancelled"
