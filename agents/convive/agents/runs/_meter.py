"""What a run may still use, while runs below it use it too."""

import time
from dataclasses import dataclass, replace
from typing import TypeVar

from convive.agents.journal._fold import RunState
from convive.agents.runs._limits import Limits
from convive.bus import RunId


@dataclass(frozen=True, slots=True)
class Used:
    """What a run and those below it used. `cost` is the known part."""

    tokens: int = 0
    tool_calls: int = 0
    cost: float = 0.0

    def __add__(self, other: "Used") -> "Used":
        return Used(self.tokens + other.tokens, self.tool_calls + other.tool_calls, self.cost + other.cost)


Number = TypeVar("Number", int, float)


class Meter:
    """The use of one run and of those below it. Those below are bound by what the runs above have left.

    Runs below that are over stand in the fold of the run's journal, with the tool call that made them; those under way
    stand here. Time is that of executions, the time between a suspension and an answer left out.
    """

    def __init__(self, run: RunId, limits: Limits, above: "Meter | None") -> None:
        self._run = run
        self._limits = limits
        self._above = above
        self._own = Used()
        self._below: dict[RunId, Used] = {}
        self._began = time.monotonic()
        self._worked_s = 0.0
        self._over = False

    def begin(self, state: RunState) -> None:
        """Take over what earlier executions of the run did."""
        self._worked_s = state.worked_s

    def limits(self, state: RunState) -> Limits:
        """The limits of the run as it stands, with what the runs above leave it."""
        if self._below and state.trips:
            for call in state.trips[-1].calls:  # of the ones before it was heard then
                for child in call.returned.children if call.returned is not None else ():
                    self._below.pop(child.run_id, None)
        self._own = Used(state.usage.total_tokens, state.tool_calls, state.known_cost)
        if self._above is None:
            return self._limits
        self._tell()
        left, used = self._above.left(), self._used()
        return replace(
            self._limits,
            tokens=_least(self._limits.tokens, _plus(left.tokens, used.tokens)),
            tool_calls=_least(self._limits.tool_calls, _plus(left.tool_calls, used.tool_calls)),
            cost=_least(self._limits.cost, _plus(left.cost, used.cost)),
            seconds=_least(self._limits.seconds, _plus(left.seconds, self._by_the_clock_s)),
        )

    def left(self) -> Limits:
        """What is left here and above, as bounds; None: no bound."""
        limits, used = self._limits, self._used()
        above = Limits() if self._above is None else self._above.left()
        return Limits(
            tokens=_least(above.tokens, _minus(limits.tokens, used.tokens)),
            tool_calls=_least(above.tool_calls, _minus(limits.tool_calls, used.tool_calls)),
            cost=_least(above.cost, _minus(limits.cost, used.cost)),
            seconds=_least(above.seconds, _minus(limits.seconds, self.elapsed_s)),
        )

    @property
    def elapsed_s(self) -> float:
        """How long the run was executed, by this process and before."""
        return float("inf") if self._over else self._by_the_clock_s

    @property
    def _by_the_clock_s(self) -> float:
        return self._worked_s + time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """How long the run may go on; infinite without a bound."""
        own = self._limits.seconds
        own_s = float("inf") if own is None else own - self._worked_s - time.monotonic() + self._began
        return min(own_s, float("inf") if self._above is None else self._above.left_s)

    def time_is_up(self) -> None:
        """A deadline has cut the run, whatever the clock says to the microsecond."""
        self._over = True

    def _used(self) -> Used:
        return sum(self._below.values(), self._own)

    def _tell(self) -> None:
        if self._above is not None:
            self._above._below[self._run] = self._used()
            self._above._tell()


def _minus(bound: Number | None, used: Number) -> Number | None:
    return None if bound is None else max(bound - used, bound - bound)


def _least(one: Number | None, other: Number | None) -> Number | None:
    return one if other is None else other if one is None else min(one, other)


def _plus(left: Number | None, used: Number) -> Number | None:
    return None if left is None else left + used
