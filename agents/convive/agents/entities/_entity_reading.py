"""Reading an entity's state: from what is kept of it, from what takes the place of what was trimmed, and the rest."""

from typing import Literal

from pydantic import ValidationError

from convive.agents.entities._entity_records import EntityName
from convive.agents.entities._entity_state import EntityState, apply, commits_of, mailbox_of
from convive.agents.journal._journal import Place
from convive.agents.traces._trace import Trace
from convive.bus import (
    ConviveError,
    Event,
    Fold,
    FoldBase,
    Log,
    Record,
    Trimmed,
    fold_records,
    snapshot_of,
    unreadable,
)

_VERSION = 2


class Forgotten(ConviveError):
    """What an entity was at that place is not known any more: it was trimmed. Nothing was read."""


class EntityKept(Event):
    """The state of an entity that takes the place of its records up to a position: a snapshot of its commits."""

    type: Literal["entity_kept"] = "entity_kept"
    state: EntityState

    def body(self) -> bytes:
        # What is none has to be found by a reader, too.
        return self.model_dump_json(by_alias=True).encode()


async def read_entity(log: Log, base: str, name: EntityName, until: int | None = None) -> EntityState:
    """An entity as it is now, or as it was at a place; three requests. Raises Forgotten, and errors of the bus."""
    folding = Fold[EntityState]("entity", EntityState, lambda: EntityState(name=str(name)), apply, _VERSION)
    subjects, whole = (mailbox_of(base), commits_of(base)), FoldBase(snapshots_of(base), _load)
    try:
        found = await fold_records(log, subjects, folding, f"{commits_of(base)}.fold", until=until, base=whole)
    except Trimmed as error:
        raise Forgotten(
            f"what {name} was at {error.position} is forgotten: it was trimmed up to {error.trimmed}. Nothing was "
            f"read; ask for {error.trimmed} or later."
        ) from None
    return found.state


def _load(record: Record) -> tuple[EntityState, int]:
    state = kept_of(record)
    return state, state.seq


async def read_on(state: EntityState, log: Log, base: str) -> EntityState:
    """Take what came behind a state, in place; two requests."""
    began = state.seq
    async with log.read(mailbox_of(base), commits_of(base), after=began) as records:
        async for record in records:
            apply(state, record)
    trimmed = await log.last(snapshots_of(base))
    if trimmed is not None and snapshot_of("entity", trimmed).covers > began:  # what was read may be a part
        await read_again(state, log, base)
    return state


async def read_again(state: EntityState, log: Log, base: str) -> None:
    """Read a state anew, in place."""
    now = await read_entity(log, base, EntityName.of(state.name))
    for field in EntityState.model_fields:
        setattr(state, field, getattr(now, field))


async def first_state(log: Log, base: str, name: EntityName) -> EntityState:
    """The state with which the records that there are begin: nothing, or what it was when it was trimmed."""
    record = await log.last(snapshots_of(base))
    return EntityState(name=str(name)) if record is None else kept_of(record)


async def read_runs(place: Place, until: int | None = None, *, keep_events: bool = False) -> Trace:
    """What an entity did, up to a place: its journals, whole. Raises BusUnavailable."""
    trace = Trace(keep_events=keep_events)
    async with place.log.read(f"{place.base}.run.*.*", until=until) as records:
        async for record in records:
            trace.apply(record)
    for root in trace.roots:
        root.orphan = False  # the run that sent the letter stands with its own entity
    return trace


def snapshots_of(base: str) -> str:
    """The subject of the state that takes the place of what was trimmed."""
    return f"{commits_of(base)}.snapshot"


def kept_of(record: Record) -> EntityState:
    """The state in a snapshot, at the place that it covers here. Raises BadRecord, or NewerRecord."""
    snapshot = snapshot_of("entity", record)
    try:
        state = EntityKept.model_validate_json(record.body).state
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "the state of an entity") from None
    state.seq = snapshot.covers
    return state
