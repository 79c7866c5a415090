"""Stop conditions: predicates over a run so far, looked at after each tool phase, combined with `|`, `&`, `~`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convive.agents._fold import RunState

Predicate = Callable[[RunState], bool]
"""Whether a run should stop. Has no side effects, clock or randomness: a resumed run evaluates it again."""


@dataclass(frozen=True, slots=True)
class StopCondition:
    """A stop condition. Combine it with others or with plain predicates: `step_count_is(8) | has_tool_call("done")`."""

    when: Predicate

    def __call__(self, state: RunState) -> bool:
        return self.when(state)

    def __or__(self, other: Predicate) -> "StopCondition":
        return StopCondition(lambda state: self(state) or other(state))

    def __ror__(self, other: Predicate) -> "StopCondition":
        return StopCondition(lambda state: other(state) or self(state))

    def __and__(self, other: Predicate) -> "StopCondition":
        return StopCondition(lambda state: self(state) and other(state))

    def __rand__(self, other: Predicate) -> "StopCondition":
        return StopCondition(lambda state: other(state) and self(state))

    def __invert__(self) -> "StopCondition":
        return StopCondition(lambda state: not self(state))


StopWhen = Predicate | Sequence[Predicate]
"""One condition, or several of which any stops the run."""


def step_count_is(count: int) -> StopCondition:
    """True from the trip number `count` on (counted from 1, the trip that asked for tools included)."""
    if count < 1:
        raise ValueError(f"a run makes at least one trip; step_count_is({count}) could never be meant")
    return StopCondition(lambda state: len(state.trips) >= count)


def has_tool_call(name: str) -> StopCondition:
    """True when the latest trip called the tool `name`; the call itself is carried out first."""
    return StopCondition(lambda state: bool(state.trips) and any(call.name == name for call in state.trips[-1].calls))


def any_of(conditions: StopWhen) -> Predicate:
    """One predicate for `stop_when`: a list stops as soon as any of its members does, an empty one never."""
    if callable(conditions):
        return conditions
    chosen = tuple(conditions)
    return lambda state: any(condition(state) for condition in chosen)
