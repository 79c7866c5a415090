"""What a run may still use, while runs below it use it too."""

from dataclasses import replace

from convive.agents._fold import RunState
from convive.agents._limits import Limits
from convive.bus import RunId


class Meter:
    """The use of one run and of those below it. Those below are bound by what the runs above have left.

    Runs below that are over stand in the fold of the run's journal, with the tool call that made them; those under way
    stand here.
    """

    def __init__(self, run: RunId, limits: Limits, above: "Meter | None") -> None:
        self._run = run
        self._limits = limits
        self._above = above
        self._own: tuple[int, int] = (0, 0)
        self._below: dict[RunId, tuple[int, int]] = {}

    def limits(self, state: RunState) -> Limits:
        """The limits of the run as it stands, with what the runs above leave it."""
        for child in state.children:
            self._below.pop(child.run_id, None)
        self._own = (state.usage.total_tokens, state.tool_calls)
        self._tell()
        if self._above is None:
            return self._limits
        tokens, tool_calls = self._above.left()
        return replace(
            self._limits,
            tokens=_least(self._limits.tokens, None if tokens is None else self._used(0) + tokens),
            tool_calls=_least(self._limits.tool_calls, None if tool_calls is None else self._used(1) + tool_calls),
        )

    def left(self) -> tuple[int | None, int | None]:
        """Tokens and tool calls that are left here and above; None: no bound."""
        above = (None, None) if self._above is None else self._above.left()
        own = (self._limits.tokens, self._limits.tool_calls)
        tokens, tool_calls = (None if bound is None else max(0, bound - self._used(at)) for at, bound in enumerate(own))
        return _least(tokens, above[0]), _least(tool_calls, above[1])

    def _used(self, at: int) -> int:
        return self._own[at] + sum(used[at] for used in self._below.values())

    def _tell(self) -> None:
        if self._above is not None:
            self._above._below[self._run] = (self._used(0), self._used(1))
            self._above._tell()


def _least(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)
