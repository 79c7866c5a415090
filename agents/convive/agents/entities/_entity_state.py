"""An entity's state, as a fold of its mailbox and its commits."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field, JsonValue

from convive.agents.entities._entity_records import (
    Change,
    EntityName,
    Letter,
    LetterKind,
    Woken,
    letter_of,
    wake_run,
    woken_of,
)
from convive.bus import ORIGIN, BadRecord, ConviveError, NewerRecord, Record, RunContext, RunId, happened_s, run_of

KEPT_ERRORS = 20
"""How many of the latest failures a state holds; the log has all."""


class OfRun(BaseModel):
    """What belongs to a run."""

    run_id: RunId
    root_run_id: RunId
    parent_run_id: RunId | None = None
    started_from: str = ""

    @property
    def run(self) -> RunContext:
        """That run."""
        return RunContext(self.run_id, self.root_run_id, self.parent_run_id, self.started_from)


class Waiting(OfRun):
    """A letter that was not handled yet: where it stood when it came, when that was, and the run of its wake."""

    seq: int
    time_s: float
    letter: Letter

    @property
    def sender_run(self) -> RunContext | None:
        """The run that sent the letter, as far as it is told: what the host itself answers belongs there."""
        return None if self.parent_run_id is None else RunContext(self.parent_run_id, self.root_run_id)


class Failure(BaseModel):
    """A wake that did not come to an end: its letter is handled, and nothing else of it counts."""

    seq: int
    run_id: RunId
    kind: LetterKind
    error: str


class Timer(OfRun):
    """A time that is set, by a wake: `at_s` in seconds since 1970, and the letter that will tell of it."""

    at_s: float
    letter: Letter

    @property
    def job(self) -> str:
        """The id of the job that waits for that time."""
        return f"{self.run_id}-{0 if self.letter.number is None else self.letter.number[1]}"


class BehindTrim(Exception):
    """Commits are missing before the one that was read, as they do when others trim the entity meanwhile."""


class NotDue(BadRecord):
    """A commit that does not follow what stands before it."""


class EntityState(BaseModel):
    """All that the log says of an entity. Rows are as JSON holds them, by collection and key."""

    name: str
    is_created: bool = False
    args: JsonValue = None
    parent: str = ""
    rows: dict[str, dict[str, dict[str, JsonValue]]] = Field(default_factory=dict)
    waiting: list[Waiting] = Field(default_factory=list)
    """The letters to handle, in order."""
    wakes: int = 0
    """How many were handled."""
    observers: dict[str, bool] = Field(default_factory=dict)
    """Who is told of its end; True: of its changes as well."""
    timers: dict[str, Timer] = Field(default_factory=dict)
    """The times that are set, by id."""
    children: dict[str, str] = Field(default_factory=dict)
    """What it spawned, and how that stands: running, finished, failed or stopped."""
    errors: list[Failure] = Field(default_factory=list)
    is_paused: bool = False
    is_stopped: bool = False
    is_finished: bool = False
    result: JsonValue = None
    damage: int = 0
    """Records that could not be read, and count for nothing."""
    newer: str = ""
    """What a newer version wrote here, if anything: the rest is not to be believed, and a host leaves it alone."""
    seen: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """The number of the last letter of each sender."""
    last: Woken | None = None
    """The last commit; what it sends may still be on its way."""
    last_handled: Waiting | None = None
    """The letter that it is of."""
    cut_off: Waiting | None = None
    """What was to be handled, or under way, when it was stopped."""
    committed_at: int = 0
    """The place of the last record among the commits, whether it counts or not: the next one has to follow it."""
    seq: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no handler is woken any more."""
        return self.is_finished or self.is_stopped

    @property
    def status(self) -> str:
        """unknown, stopped, finished, paused, busy (letters wait) or idle."""
        if not self.is_created:
            return "unknown"
        if self.is_over:
            return "stopped" if self.is_stopped else "finished"
        return "paused" if self.is_paused else "busy" if self.waiting else "idle"


def mailbox_of(base: str) -> str:
    """The subject of an entity's letters, in its name space."""
    return f"{base}.stream.mailbox"


def commits_of(base: str) -> str:
    """The subject of an entity's commits."""
    return f"{base}.stream.entity"


def apply(
    state: EntityState, record: Record, *, strict: bool = False, bad: Callable[[BadRecord], object] | None = None
) -> EntityState:
    """Take one more record, in place. One that was taken before changes nothing; one that is none of ours is told to
    `bad`, and counts for nothing.

    `strict`: raises BehindTrim for a commit before which others are missing.
    """
    if record.seq <= state.seq:
        return state
    state.seq = record.seq
    try:
        if record.subject.endswith(".mailbox"):
            _arrived(state, record, letter_of(record))
        else:
            state.committed_at = record.seq
            woken = woken_of(record)
            if strict and woken.wake > state.wakes + 1:
                raise BehindTrim
            _committed(state, record, woken)
    except BadRecord as error:
        if isinstance(error, NewerRecord):
            state.newer = state.newer or str(error)
        else:
            state.damage += 1
        if bad is not None:
            bad(error)
    return state


def _arrived(state: EntityState, record: Record, letter: Letter) -> None:
    if letter.number is not None and letter.sender:
        if letter.number <= state.seen.get(letter.sender, (0, 0)):
            return  # delivered before
        state.seen[letter.sender] = letter.number
    if letter.kind == "due":
        if letter.id not in state.timers or state.timers[letter.id].letter.number != letter.number:
            return  # called off, set anew, or told before
        del state.timers[letter.id]
    if letter.kind == "created" and (state.is_created or any(one.letter.kind == "created" for one in state.waiting)):
        return
    if state.is_over and letter.kind != "observe":
        return
    if letter.kind == "signal" and letter.value != "stop":
        state.is_paused = letter.value == "pause"
        return
    run = wake_run(EntityName.of(state.name), record.seq, letter, _sender(record))
    waiting = Waiting(seq=record.seq, time_s=happened_s(record), letter=letter, **_fields(run))
    if letter.kind == "created":
        state.is_created, state.args, state.parent = True, letter.value, letter.sender
        state.waiting.insert(0, waiting)  # what came before it existed is told afterwards
    elif letter.kind == "signal":
        state.is_stopped, state.is_paused, state.cut_off = True, False, next(iter(state.waiting), None)
        state.waiting = [waiting]
        state.timers.clear()
    else:
        state.waiting.append(waiting)


def _committed(state: EntityState, record: Record, woken: Woken) -> None:
    handled = next((one for one in state.waiting if one.run_id == woken.run_id), None)
    if handled is None and ORIGIN not in record.headers:  # earlier versions named runs by places
        handled = next((one for one in state.waiting if one.seq == woken.letter), None)
    if handled is None and state.is_stopped:
        return  # its handler ran when the entity was stopped: nothing of that wake counts
    if handled is None or woken.wake != state.wakes + 1:
        why = "no such letter waits" if handled is None else f"wake {state.wakes + 1} was due"
        raise NotDue(record.subject, record.seq, f"wake {woken.wake} for the letter at {woken.letter}: {why}")
    state.waiting.remove(handled)
    state.wakes = woken.wake
    state.last, state.last_handled = woken, handled
    for change in woken.changes:
        change_row(state.rows, change)
    for id in woken.cancelled:
        state.timers.pop(id, None)
        state.waiting = [one for one in state.waiting if one.letter.kind != "due" or one.letter.id != id]
    for place, outgoing in enumerate(woken.letters):
        if outgoing.at_s is not None:
            letter = outgoing.letter.model_copy(update={"number": (woken.wake, place)})
            state.timers[letter.id] = Timer(at_s=outgoing.at_s, letter=letter, **_fields(handled.run))
        elif outgoing.letter.kind == "created":
            state.children.setdefault(outgoing.to, "running")
    if woken.error is not None:
        failure = Failure(seq=record.seq, run_id=woken.run_id, kind=handled.letter.kind, error=woken.error)
        state.errors = [*state.errors[1 - KEPT_ERRORS :], failure]
    _heard(state, handled.letter)
    if woken.finished:
        state.is_finished, state.result = True, woken.result
        state.waiting = [one for one in state.waiting if one.letter.kind == "observe"]
        state.timers.clear()


def _heard(state: EntityState, letter: Letter) -> None:
    if letter.kind == "observe":
        state.observers[letter.sender] = letter.changes_too
    elif letter.kind == "unobserve":
        state.observers.pop(letter.sender, None)
    hear_of(state.children, letter)


def hear_of(children: dict[str, str], letter: Letter) -> None:
    """Note how a child stands by what it sent, in place."""
    if letter.kind in ("finished", "failed") and letter.sender in children:
        status = letter.value.get("status") if isinstance(letter.value, dict) else None
        children[letter.sender] = str(status or letter.kind)


def change_row(rows: dict[str, dict[str, dict[str, JsonValue]]], change: Change) -> None:
    """Put or delete a row, in place."""
    collection = rows.setdefault(change.collection, {})
    if change.row is None:
        collection.pop(change.key, None)
    else:
        collection[change.key] = change.row


def _fields(run: RunContext) -> dict[str, Any]:
    """A run as the fields of `OfRun`."""
    return {
        "run_id": run.run_id,
        "root_run_id": run.root_run_id,
        "parent_run_id": run.parent_run_id,
        "started_from": run.started_from,
    }


def _sender(record: Record) -> RunContext | None:
    try:
        return run_of(record.headers)
    except ConviveError:
        return None
