"""A run as it is told by its journal: from its beginning, from any process, and on while it goes on."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.journal._fold import RunState, opening_of
from convive.agents.journal._folding import Folding
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    Resumed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
    ToolCalled,
    ToolReturned,
    TripStarted,
    journal_event_of,
)
from convive.agents.journal._waiting import Where, place_of_run
from convive.agents.runs import _events as shown
from convive.agents.runs._result import AgentResult, result_of
from convive.bus import BadRecord, Record, RunContext, RunId, Tail, run_of


@dataclass(frozen=True, slots=True)
class Followed:
    """An event, and the place in the log where it stands: `run_events(..., after=seq)` goes on behind it."""

    seq: int
    event: shown.AnyRunEvent


@asynccontextmanager
async def run_events(
    where: Where, run_id: str, *, after: int = 0, tree: bool = False
) -> AsyncGenerator[AsyncIterator[Followed]]:
    """The events of a run: those that were, then those that come, until its last: `async with ... as events`.

    A run that waits for answers is followed on; one that has not begun is waited for, but for a bus, which cannot know
    where that will be: UnknownRun. Text deltas and updates are
    there as long as the log keeps them (minutes), the text of a trip and of the run always. `after`: only what stands
    behind that place. `tree`: with the runs below it, for a run that is nobody's child. Iterating raises BadRecord for
    a damaged journal and BusUnavailable when the bus is gone for good.
    """
    place = await place_of_run(where, run_id)
    which = f"{run_id}.*" if tree else f"*.{run_id}"
    async with place.log.follow(f"{place.base}.run.{which}", f"{place.base}.live.{which}") as tail:
        yield _Events(tail, RunId(run_id), f"{place.base}.live.", after)


class _Events:
    """Folds what a tail brings and tells of it."""

    def __init__(self, tail: Tail, run_id: RunId, live: str, after: int) -> None:
        self._tail = tail
        self._run_id = run_id
        self._live = live
        self._after = after
        self._runs: dict[RunId, Folding] = {}
        self._ready: deque[Followed] = deque()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Followed:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            record = await self._tail.next()
            if record is not None:
                self._take(record)
        return self._ready.popleft()

    def _take(self, record: Record) -> None:
        run = run_of(record.headers)
        if record.subject.startswith(self._live):
            event = None if run is None else _live_event(run, record.body)
        elif run is None:
            raise BadRecord(record.subject, record.seq, "it names no run")
        else:
            event = self._journaled(run, record)
        if event is not None and record.seq > self._after:
            self._ready.append(Followed(record.seq, event))

    def _journaled(self, run: RunContext, record: Record) -> shown.AnyRunEvent | None:
        event = journal_event_of(record)
        folding = self._runs.setdefault(run.run_id, Folding())
        try:
            folding.take(event)
        except ValueError as error:
            raise BadRecord(record.subject, record.seq, str(error)) from None
        if run.run_id == self._run_id and folding.now.ended is not None:
            self._over = True
        return _event(run, folding, event)


def _event(run: RunContext, folding: Folding, event: JournalEvent) -> shown.AnyRunEvent | None:
    state = folding.now
    match event:
        case RunStarted():
            return shown.RunStarted(run, event.agent)
        case Resumed():
            return shown.RunStarted(run, state.started.agent if state.started else "", resumed=True)
        case TripStarted():
            return shown.TripStarted(run, event.trip, event.attempt)
        case ModelAnswered():
            trip, rejected = state.trips[-1], None if event.rejected is None else event.rejected.reason
            return shown.TripFinished(run, event.trip, trip.finish_reason, trip.text, trip.usage, rejected)
        case ToolCalled():
            arguments = state.trips[-1].calls[event.index].arguments
            return shown.ToolStarted(run, event.trip, event.call_id, event.name, arguments)
        case ToolReturned():
            return shown.ToolFinished(run, event.trip, event.call_id, event.name, event.content, event.is_error)
        case Suspended():
            return shown.RunSuspended(run, _result(run, folding.state))
        case RunFinished():
            return shown.RunFinished(run, _result(run, folding.state))
        case RunFailed():
            return shown.RunFailed(run, _result(run, folding.state))
        case RunCancelled():
            return shown.RunCancelled(run, event.reason)


def _result(run: RunContext, state: RunState) -> AgentResult:
    started = state.started
    return result_of(state, run, () if started is None else opening_of(started.history, started.input))


def _live_event(run: RunContext, body: bytes) -> shown.AnyRunEvent | None:
    """What a live record shows; None for the end of a text, and for what is not ours or of a newer version."""
    try:
        told: JsonValue = from_json(body)
    except ValueError:
        return None
    match told:
        case {"type": "delta", "trip": int(trip), "text": str(text)}:
            return shown.TextDelta(run, trip, text)
        case {"type": "update", "trip": int(trip), "call": str(call), "name": str(name), "value": value}:
            return shown.ToolUpdated(run, trip, call, name, value)
        case _:
            return None
