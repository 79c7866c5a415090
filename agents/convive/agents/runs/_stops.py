"""Stop conditions: predicates over a run so far, looked at after each tool phase, combined with `|`, `&`, `~`."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from convive.agents.journal._fold import Call, RunState

Verdict = bool | Awaitable[bool]
Predicate = Callable[[RunState], Verdict]
"""Whether a run should stop; sync or async. A resumed run evaluates it again, so it should depend on the run alone."""


@dataclass(frozen=True, slots=True)
class StopCondition:
    """A stop condition. Combine it with others or with plain predicates: `step_count_is(8) | has_tool_call("done")`.

    `tools`: the names of the tools that it looks for.
    """

    when: Predicate
    tools: frozenset[str] = frozenset()

    def __call__(self, state: RunState) -> Verdict:
        return self.when(state)

    def __or__(self, other: Predicate) -> "StopCondition":
        return _either(self, other)

    def __ror__(self, other: Predicate) -> "StopCondition":
        return _either(other, self)

    def __and__(self, other: Predicate) -> "StopCondition":
        return _both(self, other)

    def __rand__(self, other: Predicate) -> "StopCondition":
        return _both(other, self)

    def __invert__(self) -> "StopCondition":
        return StopCondition(lambda state: _then(self(state), lambda held: not held), self.tools)


NEVER = StopCondition(lambda state: False)
"""The stop condition of a run without one."""

StopWhen = Predicate | Sequence[Predicate]
"""One condition, or several of which any stops the run."""


def step_count_is(count: int) -> StopCondition:
    """True from the trip number `count` on (counted from 1, the trip that asked for tools included)."""
    if count < 1:
        raise ValueError(f"a run makes at least one trip; step_count_is({count}) could never be meant")
    return StopCondition(lambda state: len(state.trips) >= count)


def has_tool_call(name: str) -> StopCondition:
    """True when the latest trip called the tool `name`; the call itself is carried out first."""
    return StopCondition(lambda state: any(call.name == name for call in _latest(state)), frozenset({name}))


def has_tool_result(name: str) -> StopCondition:
    """True when a call of the tool `name` in the latest trip came to a result that is no error."""

    def found(state: RunState) -> bool:
        returned = (call.returned for call in _latest(state) if call.name == name)
        return any(each is not None and not each.is_error for each in returned)

    return StopCondition(found, frozenset({name}))


def any_of(conditions: StopWhen) -> StopCondition:
    """One condition for `stop_when`: a list stops as soon as any of its members does, an empty one never."""
    if isinstance(conditions, StopCondition):
        return conditions
    if callable(conditions):
        return StopCondition(conditions)
    chosen = NEVER
    for condition in conditions:
        chosen |= condition
    return chosen


async def holds(condition: Predicate, state: RunState) -> bool:
    """The verdict of a condition, also of one that takes its time. Raises what it raises."""
    verdict = condition(state)
    return bool(await verdict if inspect.isawaitable(verdict) else verdict)


def _latest(state: RunState) -> Iterable[Call]:
    return state.trips[-1].calls if state.trips else ()


def _either(one: Predicate, other: Predicate) -> StopCondition:
    def when(state: RunState) -> Verdict:
        return _then(one(state), lambda held: True if held else other(state))

    return StopCondition(when, _tools(one) | _tools(other))


def _both(one: Predicate, other: Predicate) -> StopCondition:
    def when(state: RunState) -> Verdict:
        return _then(one(state), lambda held: other(state) if held else False)

    return StopCondition(when, _tools(one) | _tools(other))


def _then(first: Verdict, go_on: Callable[[bool], Verdict]) -> Verdict:
    """What follows from a verdict, at once where nothing has to be waited for."""
    if not inspect.isawaitable(first):
        return go_on(first)

    async def later() -> bool:
        second = go_on(await first)
        return await second if inspect.isawaitable(second) else second

    return later()


def _tools(condition: Predicate) -> frozenset[str]:
    return condition.tools if isinstance(condition, StopCondition) else frozenset()
