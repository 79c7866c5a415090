"""One run's journal as a chain of guarded appends, folded as it grows.

Each append names the sequence number of the record before it (the guard), so a second process that executes
the same run is refused by the log at its first append.
"""

import secrets
from typing import cast

import anyio
from pydantic import BaseModel

from convive.agents.journal._fold import RunState, fold
from convive.agents.journal._folding import Folding
from convive.agents.journal._journal import JournalEvent, Place, journal_event_of
from convive.agents.models._schema import cleaned
from convive.bus import (
    BadRecord,
    BusUnavailable,
    Conflict,
    ConviveError,
    Draft,
    Guard,
    MaybeAppended,
    NotAppended,
    RunContext,
)

_DEEP = 150
_TRIES = 2
"""A log is patient itself, and tries again before it gives up."""


class RunTaken(ConviveError):
    """Another process executes this run, or has started it: its journal moved on. Nothing was appended."""

    def __init__(self, run: RunContext, conflict: Conflict) -> None:
        self.run_id = run.run_id
        super().__init__(
            f"run {run.run_id} is executed elsewhere: its journal was at record {conflict.expected} for this process "
            f"and is at {conflict.actual}. This process stopped; the other one goes on. Read the run to see its result."
        )


LEAVE_RUN = (RunTaken, MaybeAppended, BusUnavailable)
"""Errors that say nothing of a run, only of this process's hold on it: they end the execution, not the run."""


def _written(event: JournalEvent) -> tuple[JournalEvent, bytes]:
    """An event and its body; with `?` in place of what no UTF-8 carries, such as half of a pair that a model split."""
    try:
        return event, event.body()
    except (ValueError, NotAppended):
        plain = type(event).model_validate(cleaned(event.model_dump(by_alias=True)))
        return plain, plain.body()


class _Anything(BaseModel):
    """Any JSON object: parsed to its end like a record that is read, and nothing is made of it."""


def lost_hold(error: BaseException) -> Exception | None:
    """What in an error says only that this process lost its hold on a run, if anything."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return next((found for each in group.exceptions if (found := lost_hold(each)) is not None), None)
    return error if isinstance(error, LEAVE_RUN) else None


def check_depth(run: RunContext, body: bytes) -> None:
    """Refuse what could be written down and not be read back: a reader's JSON parser goes 200 levels deep."""
    if body.count(b"{") + body.count(b"[") < _DEEP:
        return
    try:
        _Anything.model_validate_json(body)
    except ValueError:
        raise NotAppended(
            f"run {run.run_id}: a record is nested too deeply to be read back. Nothing was appended; use flatter data."
        ) from None


class Chain:
    """The journal of one run. `state` is the fold of what is certainly stored."""

    def __init__(self, place: Place, run: RunContext) -> None:
        self.state = RunState()
        self.lost = False
        """Whether this process lost touch with the journal: it can write nothing more, and may not go on."""
        self._log = place.log
        self._run = run
        self._subject = place.journal(run)
        self._headers = run.headers()
        self._last = 0
        self._count = 0
        # Two processes that append the same bytes must not be taken for one process that tries again.
        self._process = secrets.token_hex(4)
        self._turn = anyio.Lock(fast_acquire=True)
        self._unsettled: tuple[JournalEvent, Draft] | None = None

    async def read(self) -> None:
        """Fold what the journal holds. One request. Raises BadRecord for a damaged journal."""
        self.lost = True  # until it is known whole
        folding = Folding()
        async with self._log.read(self._subject) as records:
            async for record in records:
                event = journal_event_of(record)
                try:
                    folding.take(event)
                except ValueError as error:
                    raise BadRecord(record.subject, record.seq, str(error)) from None
                self._last, self._count = record.seq, self._count + 1
        self.state = folding.state
        self.lost = False

    async def start(self, event: JournalEvent) -> bool:
        """Append the first event, or read the journal if there is one; says whether the run is new.

        Costs a new run nothing beyond its append. Raises as `read` and `append`.
        """
        try:
            await self.append(event)
        except RunTaken:
            self._unsettled = None
            await self.read()
            if self.state.started is None:
                raise  # refused, and still there is nothing
            return False
        return True

    async def append(self, event: JournalEvent) -> None:
        """Append one event and fold it.

        Raises RunTaken, NotAppended (too large: the journal is as it was) or another error of the bus. A
        cancelled append may be stored or not; the next one settles that first.
        """
        async with self._turn:
            await self._settle()
            guard = Guard(self._subject, self._last)
            key = f"{self._run.run_id}-{self._count}-{self._process}"
            event, body = _written(event)
            check_depth(self._run, body)
            self._unsettled = event, Draft(self._subject, body, self._headers, key, guard)
            await self._settle()

    async def keep(self, event: JournalEvent) -> None:
        """Append what was paid for, an answer or a tool's effect, even while the run is being cancelled."""
        with anyio.CancelScope(shield=True):
            await self.append(event)

    async def settle(self) -> None:
        """Make sure of an append that was cancelled on its way. Raises as `append`."""
        async with self._turn:
            await self._settle()

    async def _settle(self) -> None:
        if self._unsettled is None:
            return
        event, draft = self._unsettled
        try:
            seq = await self._store(draft)
        except Conflict as conflict:
            self.lost = True
            raise RunTaken(self._run, conflict) from conflict
        except NotAppended:
            self._unsettled = None
            raise
        except ConviveError:
            self.lost = True
            raise
        self._unsettled = None
        self._last, self._count = seq, self._count + 1
        self.state = fold(self.state, event)

    async def _store(self, draft: Draft) -> int:
        for _ in range(_TRIES - 1):
            try:
                return await self._log.append(draft)
            except MaybeAppended:
                continue  # the same draft again is stored at most once
        return await self._log.append(draft)
