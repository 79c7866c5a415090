"""How long a run was executed, as its journal tells: what the limit in seconds goes on with after a suspension."""

import anyio
import pytest

from convive.agents import Agent, Approve, Limits, resume, tool
from convive.agents.journal._folding import fold_all
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    RunStarted,
    ToolCalled,
    ToolReturned,
    TripStarted,
)
from convive.agents.models._messages import ToolUse
from convive.agents.testing import ScriptedModel
from convive.bus import RunId
from tests.agents.runs import Given, place, use

pytestmark = pytest.mark.anyio


def asked(calls: int) -> list[JournalEvent]:
    uses = tuple(ToolUse(id=f"c{n}", name="look", arguments={}) for n in range(calls))
    return [
        RunStarted(agent="ada", model="m", root=RunId("0" * 32), input="x"),
        TripStarted(trip=0),
        ModelAnswered(trip=0, parts=uses, stop_reason="tool_use", took_s=1.0),
    ]


def called(*places: int) -> list[JournalEvent]:
    return [ToolCalled(trip=0, index=n, call_id=f"c{n}", name="look") for n in places]


def returned(n: int, took_s: float) -> JournalEvent:
    return ToolReturned(trip=0, index=n, call_id=f"c{n}", name="look", content="", took_s=took_s)


@pytest.mark.parametrize(
    ("events", "worked_s"),
    [
        ([*called(0, 1, 2), returned(1, 2.0), returned(0, 5.0), returned(2, 5.0)], 6.0),
        ([*called(0), returned(0, 5.0), *called(1), returned(1, 2.0)], 8.0),
        ([*called(0, 1), returned(0, 2.0), returned(1, 3.0), *called(2), returned(2, 4.0)], 8.0),
        ([returned(0, 0.0), *called(1, 2), returned(2, 4.0), returned(1, 1.0)], 5.0),
    ],
    ids=["side by side", "one after the other", "then another", "one was never begun"],
)
def test_calls_that_ran_side_by_side_count_once(events: list[JournalEvent], worked_s: float) -> None:
    assert fold_all([*asked(3), *events]).worked_s == worked_s


async def test_a_run_that_went_on_has_the_time_that_is_left() -> None:
    """D11: time is that of the execution, not that of each tool."""

    @tool
    async def look() -> str:
        await anyio.sleep(0.2)
        return "nothing"

    @tool(needs_approval=True)
    async def act() -> str:
        return "done"

    nothing: Given = {}
    calls = use(*[("look", nothing)] * 10, ("act", nothing))
    ada = Agent("ada", model=ScriptedModel([calls, "That is all."]), tools=[look, act], limits=Limits(seconds=2))
    where = place()
    waiting = await ada.prompt("x", place=where)
    result = await resume(where, waiting.run_id, {each.id: Approve() for each in waiting.interrupts}, agent=ada)
    assert (result.finish_reason, result.text) == ("answered", "That is all.")
