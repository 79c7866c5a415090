"""A whole journal folded, in time that is linear in its records.

A state never changes, so that the fold of each record copies what the state holds of the run so far. Whoever folds one
record after the other therefore keeps what is settled beside a small state, and puts both together in the end.
"""

from collections.abc import Iterable
from dataclasses import replace

from convive.agents.journal._fold import RunState, Trip, fold, latest_alone
from convive.agents.journal._interrupts import Resolution
from convive.agents.journal._journal import JournalEvent
from convive.agents.models._messages import Message


class Folding:
    """A journal that is folded record by record. `now` is a state with the latest trip alone, `state` the whole one."""

    def __init__(self) -> None:
        self.now = RunState()
        self._trips: list[Trip] = []
        self._messages: list[Message] = []
        self._resolutions: dict[str, Resolution] = {}
        self._used_tokens: list[str] = []

    def take(self, event: JournalEvent) -> RunState:
        """Fold the next event, and give `now`. Raises ValueError for one that cannot follow; then nothing changed."""
        state = fold(self.now, event)
        if len(state.trips) > 1 or state.used_tokens:
            self._trips += state.trips[:-1]
            self._messages += state.messages
            self._resolutions |= state.resolutions
            self._used_tokens += state.used_tokens
            state = latest_alone(state)
        self.now = state
        return state

    @property
    def state(self) -> RunState:
        """The state after all events so far. Costs what the run is long."""
        now = self.now
        return replace(
            now,
            trips=(*self._trips, *now.trips),
            messages=(*self._messages, *now.messages),
            resolutions={**self._resolutions, **now.resolutions},
            used_tokens=(*self._used_tokens, *now.used_tokens),
        )


def fold_all(events: Iterable[JournalEvent]) -> RunState:
    """The state after a whole journal or any prefix of one. Raises ValueError for a damaged one."""
    folding = Folding()
    for event in events:
        folding.take(event)
    return folding.state
