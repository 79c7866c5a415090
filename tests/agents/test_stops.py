"""Stop conditions and limits."""

import logging
from itertools import product
from typing import Any

import anyio.lowlevel
import pytest

from convive.agents import Agent, Answer, Observers, Text, ToolUse, tool
from convive.agents.journal._fold import Call, RunState, Trip
from convive.agents.journal._journal import ToolReturned
from convive.agents.models._model import Request
from convive.agents.runs._limits import Limits
from convive.agents.runs._stops import (
    Predicate,
    StopCondition,
    StopWhen,
    any_of,
    has_tool_call,
    has_tool_result,
    holds,
    step_count_is,
)
from convive.agents.testing import ScriptedModel


def state(*calls: str) -> RunState:
    """A run whose trips called these tools, one a trip."""
    return RunState(trips=tuple(Trip(n, calls=(Call(0, "id", name, {}),)) for n, name in enumerate(calls)))


def two_trips(state: RunState) -> bool:
    """A plain predicate."""
    return len(state.trips) == 2


def test_step_count_counts_the_trip_that_asked_for_tools() -> None:
    """G13"""
    assert not step_count_is(2)(state("a"))
    assert step_count_is(2)(state("a", "b"))
    assert step_count_is(2)(state("a", "b", "c"))


def test_a_step_count_below_one_is_refused() -> None:
    """G13"""
    with pytest.raises(ValueError, match="at least one"):
        step_count_is(0)


def test_has_tool_call_looks_at_the_latest_trip_only() -> None:
    """G14"""
    assert has_tool_call("done")(state("look", "done"))
    assert not has_tool_call("done")(state("done", "look"))
    assert not has_tool_call("done")(RunState())


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (step_count_is(1) & has_tool_call("b"), [False, True]),
        (step_count_is(2) | has_tool_call("a"), [True, True]),
        (~has_tool_call("a"), [False, True]),
        (has_tool_call("a") & two_trips, [False, False]),
        (two_trips & has_tool_call("b"), [False, True]),
        (two_trips | has_tool_call("c"), [False, True]),
    ],
)
def test_conditions_combine(condition: StopCondition, expected: list[bool]) -> None:
    """G16"""
    assert [condition(state("a")), condition(state("a", "b"))] == expected


def test_a_list_stops_when_any_member_does_and_an_empty_one_never() -> None:
    """G16"""
    either = any_of([step_count_is(9), has_tool_call("b"), lambda state: False])
    assert not either(state("a"))
    assert either(state("a", "b"))
    assert not any_of([])(state("a"))


def returned(name: str, *, is_error: bool) -> RunState:
    result = ToolReturned(trip=0, index=0, call_id="id", name=name, content="x", is_error=is_error)
    return RunState(trips=(Trip(0, calls=(Call(0, "id", name, {}, returned=result),)),))


def test_has_tool_result_takes_a_result_and_no_error_of_the_latest_trip() -> None:
    """G14"""
    assert has_tool_result("done")(returned("done", is_error=False))
    assert not has_tool_result("done")(returned("done", is_error=True))
    assert not has_tool_result("done")(returned("look", is_error=False))
    assert not has_tool_result("done")(state("done"))
    assert not has_tool_result("done")(RunState())


def fixed(verdict: bool, later: bool) -> Predicate:
    async def async_one(state: RunState) -> bool:
        await anyio.lowlevel.checkpoint()
        return verdict

    return async_one if later else lambda state: verdict


@pytest.mark.anyio
@pytest.mark.parametrize("one", [*product([True, False], repeat=2)])
@pytest.mark.parametrize("other", [*product([True, False], repeat=2)])
async def test_predicates_may_be_async_and_combine(one: tuple[bool, bool], other: tuple[bool, bool]) -> None:
    """G15, G16"""
    a, b = StopCondition(fixed(*one)), fixed(*other)
    for condition, expected in (
        (a | b, one[0] or other[0]),
        (b | a, one[0] or other[0]),
        (a & b, one[0] and other[0]),
        (b & a, one[0] and other[0]),
        (~a, not one[0]),
        (any_of([a, b]), one[0] or other[0]),
        (any_of(b), other[0]),
    ):
        assert await holds(condition, RunState()) is expected


def use(name: str) -> Answer:
    return Answer(parts=(Text(text="hm"), ToolUse(id="1", name=name, arguments={})), stop_reason="tool_use")


@tool
async def look() -> str:
    return "nothing"


async def second_trip(run: RunState) -> bool:
    await anyio.lowlevel.checkpoint()
    return len(run.trips) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stop_when", "trips"),
    [(second_trip, 2), (StopCondition(second_trip) & step_count_is(3), 10), ([second_trip, step_count_is(1)], 1)],
)
async def test_a_run_waits_for_an_async_predicate(stop_when: StopWhen, trips: int) -> None:
    """G12, G15, G16"""
    result = await Agent("ada", model=ScriptedModel(lambda request: use("look")), tools=[look]).prompt(
        "x", stop_when=stop_when
    )
    assert len(result.report.trips) == trips
    assert result.finish_reason == ("limit" if trips == 10 else "stop_condition")


@pytest.mark.anyio
async def test_a_predicate_that_raises_fails_the_run_and_comes_out() -> None:
    """G15"""

    async def broken(run: RunState) -> bool:
        raise ZeroDivisionError

    seen: list[str] = []
    observers = Observers()
    observers.subscribe(lambda event: seen.append(event.type))
    ada = Agent("ada", model=ScriptedModel([use("look")]), tools=[look], stop_when=broken, observers=observers)
    with pytest.raises(ZeroDivisionError):
        await ada.prompt("x")
    assert seen[-1] == "run_failed"


@pytest.mark.anyio
async def test_a_condition_on_a_tool_that_the_agent_does_not_have_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """G14: when a run begins, because a call may bring the tools"""

    def hello(request: Request) -> str:
        return "hello"

    condition = ~(step_count_is(3) | has_tool_call("dnoe")) & has_tool_result("look")
    ada = Agent("ada", model=ScriptedModel(hello), stop_when=[condition, has_tool_call("look")])
    with caplog.at_level(logging.WARNING):
        await ada.prompt("x", tools=[look])
    assert "stop_when looks for tools that it does not have: dnoe" in caplog.text
    caplog.clear()
    options: dict[str, Any] = {"tools": [look], "stop_when": has_tool_call("look")}
    await ada.prompt("x", **options)
    assert caplog.text == ""


@pytest.mark.parametrize("wrong", [{"trips": 0}, {"tokens": -1}, {"reasks": -1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="="):
        Limits(**wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
