"""Stop conditions and limits."""

import pytest

from convive.agents._fold import Call, RunState, Trip
from convive.agents._limits import Limits
from convive.agents._stops import StopCondition, any_of, has_tool_call, step_count_is


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


@pytest.mark.parametrize("wrong", [{"trips": 0}, {"tokens": -1}, {"reasks": -1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="="):
        Limits(**wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
