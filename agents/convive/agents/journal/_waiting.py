"""Runs that wait for answers: where they are, what they wait for, and whose turn it is in which they do."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.journal._fold import RunState
from convive.agents.journal._folding import Folding
from convive.agents.journal._interrupts import Interrupt
from convive.agents.journal._journal import JournalEvent, Place, RunCancelled, RunFailed, RunFinished, Suspended
from convive.agents.journal._journal import journal_event_of as event_of
from convive.agents.journal._refusals import AlreadyResumed, NotSuspended, UnknownRun
from convive.bus import (
    BadRecord,
    Bus,
    Conversation,
    ConviveError,
    Floor,
    Record,
    RunContext,
    RunId,
    SeatName,
    fold_floor,
    run_of,
)
from convive.bus import run_id as checked_id

Where = Place | Conversation | Bus
"""Where a run has its journal: a place, the conversation beside which it is kept, or a bus on which to look for it."""

_AT_ONCE = 64
"""Journals that are read with one request."""

_log = logging.getLogger("convive.agents")


@dataclass(frozen=True, slots=True)
class Suspension:
    """A suspended run, looked at without changing it.

    `since_s` is when it was suspended, in seconds since 1970; `seat` whose turn it is, for the run of a turn.
    """

    run: RunContext
    agent: str
    interrupts: tuple[Interrupt, ...]
    token: str
    expires_at: float | None
    session_id: str | None
    trips: int
    place: Place
    since_s: float
    seat: SeatName | None = None
    meta: JsonValue = None

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.run.run_id

    @property
    def conversation(self) -> str:
        """The conversation, or name space, beside which the run is kept."""
        return self.place.base.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Found:
    """A run whose journal was read. `at_s` is when its last record was stored."""

    place: Place
    run: RunContext
    state: RunState
    at_s: float


@dataclass(frozen=True, slots=True)
class Turns:
    """Which runs were turns of a conversation, and which of them has the floor."""

    seats: Mapping[RunId, SeatName]
    open_run: RunId | None

    def over(self, run: RunId) -> bool:
        """Whether this run was a turn, and has the floor no more."""
        return run in self.seats and run != self.open_run


NO_TURNS = Turns({}, None)
_OVER = ("run_finished", "run_failed", "run_cancelled")


async def place_of_run(where: Where, run_id: str) -> Place:
    """Where a run has its journal. Raises BadName, or UnknownRun when no journal on the bus is this run's."""
    checked_id(run_id)
    if not isinstance(where, Place | Conversation | Bus):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a run is looked for at a Place, in a conversation or on a bus, not in {type(where).__name__}")
    if isinstance(where, Place):
        return where
    if isinstance(where, Conversation):
        return Place(where.log, where.subjects.base)
    found = await where.run_place(run_id)
    if found is None:
        raise UnknownRun(f"there is no run {run_id} on the bus at {where.where}, or it has not begun.")
    return Place(found.log, found.subjects.base)


async def find_run(where: Where, run_id: str) -> Found:
    """A run that can be answered, also when it is below another run that does not wait for the same. Two requests, and
    more for a run that has others above.

    Raises UnknownRun, and errors of the bus.
    """
    place = await place_of_run(where, run_id)
    reading = None
    async with place.log.read(f"{place.base}.run.*.{run_id}") as records:
        async for record in records:
            reading = reading or _Reading(place, record)
            reading.take(record)
    if reading is None:
        raise UnknownRun(f"there is no run {run_id} at {place.base}.")
    found = reading.found
    above = await _above(found)
    if above is not None:
        raise UnknownRun(
            f"run {run_id} is a part of run {above.run_id}. Resume that one: it waits for the same answers, or will."
        )
    return found


async def peek(where: Where, run_id: str) -> Suspension:
    """What a suspended run waits for. Raises UnknownRun, NotSuspended, and errors of the bus."""
    found = await find_run(where, run_id)
    waiting_for(found)
    turns = await turns_around(found)
    return _suspension(found, turns)


async def pending(where: Where) -> list[Suspension]:
    """All suspended runs that can be answered, the longest waiting first: of a place, of a conversation, or of a bus.

    Left out are runs below a run that waits for the same, and runs of turns that are over. Costs two requests a log,
    and one a conversation with a turn that waits, however many runs there are. Raises errors of the bus; a journal that
    cannot be read is left out, and logged.
    """
    found = [each for place in await _everywhere(where) for each in await _pending(place)]
    return sorted(found, key=lambda each: each.since_s)


def waiting_for(found: Found) -> Suspended:
    """What the run waits for. Raises NotSuspended or AlreadyResumed."""
    run, state = found.run, found.state
    if state.suspended is not None and state.ended is None:
        return state.suspended
    kind = AlreadyResumed if state.used_tokens else NotSuspended
    now = "under way" if state.ended is None else f"over ({state.ended.type})"
    raise kind(f"run {run.run_id} does not wait for an answer{' any more' if state.used_tokens else ''}: it is {now}.")


async def turns_around(found: Found) -> Turns:
    """The turns of the conversation that this run may be a turn of; nothing is asked for a run that cannot be one."""
    return await _turns(found.place) if _may_be_a_turn(found.run) else NO_TURNS


def _may_be_a_turn(run: RunContext) -> bool:
    return run.parent_run_id is not None and run.parent_run_id == run.root_run_id


async def until_answered(place: Place, run: RunContext) -> bool:
    """Wait until a suspended run is not suspended any more; False when the time to answer was over first.

    For whoever goes on with it. Raises BusUnavailable when the bus is gone for good, BadRecord for a damaged journal.
    """
    async with place.log.follow(place.journal(run)) as tail:
        suspended: Suspended | None = None
        while True:
            while (record := await tail.catch_up()) is not None:
                event = event_of(record)
                suspended = event if isinstance(event, Suspended) else None
            if suspended is None:
                return True
            left_s = None if suspended.expires_at is None else suspended.expires_at - time.time()
            if left_s is not None and left_s <= 0:
                return False
            if (record := await tail.next(left_s)) is not None:
                event = event_of(record)
                suspended = event if isinstance(event, Suspended) else None


async def _above(found: Found) -> RunContext | None:
    """The topmost run that this one is a part of: it waits for the same answers, or is under way and will."""
    mine = _ids(found.state.suspended)
    above, run = None, found.run
    while run.parent_run_id is not None:
        subject = found.place.journal(RunContext(run.parent_run_id, run.root_run_id))
        last = await found.place.log.last(subject)
        if last is None or not _includes(event_of(last), mine):
            break
        above = run = run_of(last.headers) or RunContext(run.parent_run_id, run.root_run_id)
    return above


def _includes(above: JournalEvent, mine: set[str]) -> bool:
    """Whether a run whose last record this is goes on with the one below it that waits for `mine`."""
    if isinstance(above, RunFinished | RunFailed | RunCancelled):
        return False
    return not isinstance(above, Suspended) or not mine or bool(mine & _ids(above))


def _ids(suspended: Suspended | None) -> set[str]:
    return set() if suspended is None else {each.id for each in suspended.everything}


def suspension_json(waiting: Suspension) -> dict[str, JsonValue]:
    """What waits, as JSON data. Without the token, which a process that answers looks up itself."""
    return {
        "run_id": waiting.run_id,
        "conversation": waiting.conversation,
        "seat": waiting.seat,
        "agent": waiting.agent,
        "since_s": round(waiting.since_s, 3),
        "expires_at": waiting.expires_at,
        "interrupts": [each.model_dump(mode="json") for each in waiting.interrupts],
    }


class _Reading:
    """A journal that is being read, from its first record on."""

    def __init__(self, place: Place, first: Record) -> None:
        self._place = place
        self._run = _run(first)
        self._folding = Folding()
        self._at_s = 0.0

    def take(self, record: Record) -> None:
        """One more record. Raises BadRecord."""
        try:
            self._folding.take(event_of(record))
        except ValueError as error:
            raise BadRecord(record.subject, record.seq, str(error)) from None
        self._at_s = record.time_s

    @property
    def found(self) -> Found:
        return Found(self._place, self._run, self._folding.state, self._at_s)


def _run(record: Record) -> RunContext:
    root, run_id = record.subject.split(".")[-2:]
    return run_of(record.headers) or RunContext(RunId(run_id), RunId(root))


def _suspension(found: Found, turns: Turns) -> Suspension:
    suspended, started = waiting_for(found), found.state.started
    assert started is not None  # noqa: S101 - a journal that folds begins with it
    return Suspension(
        found.run,
        started.agent,
        suspended.everything,
        suspended.token,
        suspended.expires_at,
        started.session_id,
        len(found.state.trips),
        found.place,
        found.at_s,
        turns.seats.get(found.run.run_id),
        started.meta,
    )


async def _everywhere(where: Where) -> list[Place]:
    if isinstance(where, Bus):
        return [Place(log, pattern) for pattern, log in (await where.partitions()).items()]
    return [where if isinstance(where, Place) else Place(where.log, where.subjects.base)]


async def _pending(place: Place) -> list[Suspension]:
    """The same for one log; the place's base may be a pattern."""
    latest = await _latest(place)
    tops = [subject for subject, one in latest.items() if one.suspended and not _is_part(one, subject, latest)]
    turns: dict[str, Turns] = {}
    kept: list[Suspension] = []
    for found in await _journals(place, tops):
        base = found.place.base
        if base not in turns and _may_be_a_turn(found.run):
            turns[base] = await turns_around(found)
        around = turns.get(base, NO_TURNS)
        if found.state.suspended and not found.state.ended and not around.over(found.run.run_id):
            kept.append(_suspension(found, around))
    return kept


@dataclass(frozen=True, slots=True)
class _Last:
    """What the last record of a journal says; the parent is looked at for a suspended run only."""

    over: bool
    suspended: Suspended | None = None
    parent: RunId | None = None


async def _latest(place: Place) -> dict[str, _Last]:
    latest: dict[str, _Last] = {}
    async with place.log.latest(f"{place.base}.run.*.*") as records:
        async for record in records:
            try:
                latest[record.subject] = _last(record)
            except (ValueError, ConviveError) as error:
                _log.warning("%s, record %d is left out: %s", record.subject, record.seq, error)
    return latest


def _last(record: Record) -> _Last:
    if b"suspended" in record.body:  # which is rare, and worth a closer look
        event = event_of(record)
        if isinstance(event, Suspended):
            return _Last(False, event, _run(record).parent_run_id)
        return _Last(event.type in _OVER)
    body: object = from_json(record.body)
    return _Last(isinstance(body, dict) and body.get("type") in _OVER)


def _is_part(one: _Last, subject: str, latest: Mapping[str, _Last]) -> bool:
    above = latest.get(f"{subject.rpartition('.')[0]}.{one.parent}") if one.parent else None
    if above is None or above.over:
        return False
    return above.suspended is None or bool(_ids(one.suspended) & _ids(above.suspended))


async def _journals(place: Place, subjects: Sequence[str]) -> list[Found]:
    """The runs of these journals, as many at a time as one request takes; those that cannot be read are left out."""
    read: dict[str, _Reading] = {}
    broken: set[str] = set()
    for first in range(0, len(subjects), _AT_ONCE):
        async with place.log.read(*subjects[first : first + _AT_ONCE]) as records:
            async for record in records:
                base = record.subject.rsplit(".", 3)[0]
                try:
                    reading = read.get(record.subject) or _Reading(replace(place, base=base), record)
                    read[record.subject] = reading
                    reading.take(record)
                except BadRecord as error:
                    _log.warning("the journal %s is left out: %s", record.subject, error)
                    broken.add(record.subject)
    return [each.found for subject, each in read.items() if subject not in broken]


async def _turns(place: Place) -> Turns:
    floor, seats = Floor(), dict[RunId, SeatName]()
    async with place.log.read(f"{place.base}.bus.floor.*") as records:
        async for record in records:
            floor = fold_floor(floor, record)
            if floor.open_grant is not None and floor.open_grant.seq == record.seq:
                seats[floor.open_grant.grant.run_id] = floor.open_grant.grant.seat
    return Turns(seats, None if floor.open_grant is None else floor.open_grant.grant.run_id)
