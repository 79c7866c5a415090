"""Limits of time and cost."""

from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest

from convive.agents import Agent, Answer, Approve, Limits, Place, RunFailed, Text, ToolUse, Usage, resume, tool
from convive.agents.journal._fold import Call, RunState, Trip
from convive.agents.journal._journal import ChildRun, RunStarted, ToolReturned
from convive.agents.models._model import Request
from convive.agents.models._scripted import Scripted, ScriptedModel
from convive.agents.runs._meter import Meter
from convive.agents.runs._steps import Ask, next_step
from convive.bus import MemoryLog, RunContext, RunId

pytestmark = pytest.mark.anyio

USE = Answer(
    parts=(Text(text="looking"), ToolUse(id="1", name="look", arguments={})),
    stop_reason="tool_use",
    usage=Usage(input_tokens=10),
)


@tool
async def look() -> str:
    return "nothing"


def euros(model: str, usage: Usage) -> float | None:
    return usage.input_tokens / 10 if model == "scripted/test" else None


async def test_the_cost_of_each_answer_is_kept_and_summed_with_that_of_runs_below() -> None:
    """W7, rule 12 of the design"""
    leaf = Agent("leaf", model=ScriptedModel([USE, "done"]), tools=[look], cost=euros)
    call = Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")
    script: list[Scripted] = [call.model_copy(update={"usage": Usage(input_tokens=20)}), "end"]
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    chief = Agent("chief", model=ScriptedModel(script), tools=[leaf.as_tool("ask", "Ask.")], cost=euros)
    result = await chief.prompt("x", place=place, run=run)
    assert (result.report.cost, result.report.children[0].cost) == (3.0, 1.0)
    assert (await chief.prompt("x", place=place, run=run)).report.cost == 3.0


async def test_a_cost_that_is_not_known_is_not_zero() -> None:
    """Deliverable 1 of the issue"""
    assert (
        await Agent("ada", model=ScriptedModel(["hi"], name="scripted/other"), cost=euros).prompt("x")
    ).report.cost is None
    assert (await Agent("ada", model=ScriptedModel(["hi"]), cost=None).prompt("x")).report.cost is None
    assert (await Agent("ada", model=ScriptedModel(["hi"]), cost=euros).prompt("x")).report.cost == 0


async def test_a_run_ends_when_it_has_cost_enough() -> None:
    """Rule 12 of the design"""
    ada = Agent("ada", model=ScriptedModel(lambda request: USE), tools=[look], cost=euros, limits=Limits(cost=3))
    result = await ada.prompt("x")
    assert (result.text, len(result.report.trips)) == ("looking", 3)
    assert result.report.warnings == ("the limit of 3 for the cost was reached",)


async def test_a_request_is_aborted_when_the_time_is_over() -> None:
    """Rule 12 of the design"""
    left: list[str] = []

    async def pause() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append("aborted")

    ada = Agent("ada", model=ScriptedModel(["never"], pause=pause), limits=Limits(seconds=0.02))
    result = await ada.prompt("x")
    assert (result.finish_reason, left) == ("limit", ["aborted"])
    assert result.report.warnings == ("the limit of 0.02 seconds was reached",)
    with pytest.raises(RunFailed, match="seconds was reached"):
        await Agent("ada", model=ScriptedModel(["never"], pause=pause)).prompt(
            "x", limits=Limits(seconds=0.02, on_limit="raise")
        )


async def test_a_run_below_has_the_time_that_the_one_above_has_left() -> None:
    """Rule 12 of the design"""
    leaf = Agent("leaf", model=ScriptedModel(["never"], pause=anyio.sleep_forever))

    def answer(request: Request) -> Answer:
        return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")

    chief = Agent("chief", model=ScriptedModel(answer), tools=[leaf.as_tool("ask", "Ask.")])
    result = await chief.prompt("x", limits=Limits(seconds=0.05))
    assert (result.finish_reason, len(result.report.trips)) == ("limit", 1)


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        (Limits(tokens=20), (0, 0)),
        (Limits(tokens=30), (1, 0)),
        (Limits(tokens=31), (1, 1)),
        (Limits(tool_calls=2), (0, 0)),
        (Limits(tool_calls=3), (1, 1)),
        (Limits(cost=2), (0, 0)),
        (Limits(cost=3), (1, 0)),
        (Limits(cost=3.5), (1, 1)),
        (Limits(seconds=0), (0, 0)),
    ],
)
async def test_limits_hold_below_and_go_on_counting_after_a_suspension(limits: Limits, asked: tuple[int, int]) -> None:
    """Deliverable 4 of the issue, conformance test 5: in a process that knows nothing but the journals"""

    @tool(needs_approval=True)
    async def publish() -> str:
        return "published"

    def agents(chief: list[Scripted], leaf: list[Scripted]) -> tuple[Agent, list[ScriptedModel]]:
        models = [ScriptedModel(leaf), ScriptedModel(chief)]
        below = Agent("leaf", model=models[0], tools=[publish], cost=euros)
        top = Agent("chief", model=models[1], tools=[below.as_tool("ask", "Ask.")], cost=euros, limits=limits)
        return top, models

    def use(name: str, **arguments: str) -> Answer:
        return USE.model_copy(update={"parts": (ToolUse(id="1", name=name, arguments={**arguments}),)})

    place = Place(MemoryLog(), "base", live=False)
    begun, _ = agents([use("ask", prompt="x")], [use("publish")])
    result = await begun.prompt("go", place=place, limits=Limits(seconds=60))
    assert result.status == "suspended"
    later, models = agents([USE] * 9, [Answer(parts=(Text(text="out"),), stop_reason="end", usage=USE.usage)])
    after = await resume(place, result.run_id, {result.interrupts[0].id: Approve()}, agent=later)
    assert tuple(bool(model.requests) for model in models) == tuple(map(bool, asked))
    assert after.usage.input_tokens >= 20
    assert after.status == "completed"


def test_the_decision_takes_the_time_as_an_argument() -> None:
    """Rule 3 of the design"""
    started = RunState(started=RunStarted(agent="ada", model="m", root=RunId("0" * 32), input="x"))
    assert next_step(started, Limits(seconds=5), elapsed_s=9) == Ask(0, 1)


@pytest.mark.parametrize("bounds", [{"seconds": -1}, {"cost": -0.1}])
def test_a_bound_below_zero_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="below zero"):
        Limits(**bounds)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_time_that_earlier_executions_took_counts() -> None:
    """D11"""
    meter = Meter(RunId("0" * 32), Limits(seconds=10), None)
    assert 9 < meter.left_s <= 10
    meter.begin(RunState())
    assert meter.elapsed_s < 1
    meter.time_is_up()
    assert meter.elapsed_s > 10


def test_what_is_left_costs_no_look_at_the_trips_before_the_latest() -> None:
    """A run that calls an agent in each trip would take time that is quadratic in its trips."""

    class Trips(tuple[Trip, ...]):
        def __iter__(self) -> Iterator[Trip]:
            raise AssertionError("each trip is looked at")

    below = RunId("1" * 32)
    over = ChildRun(run_id=below, agent="b", status="completed", usage=Usage(input_tokens=7))
    returned = ToolReturned(trip=1, index=0, call_id="c", name="ask", content="", children=(over,))
    state = RunState(trips=Trips((Trip(0), Trip(1, calls=(Call(0, "c", "ask", {}, returned=returned),)))))
    above = Meter(RunId("0" * 32), Limits(tokens=100), None)
    meter = Meter(below, Limits(), above)
    counted = RunState(usage=Usage(input_tokens=7))
    assert meter.limits(counted).tokens == 100
    assert above.left().tokens == 93
    above.limits(replace(state, usage=Usage(input_tokens=7)))
    assert above.left().tokens == 93
