"""Forgetting: the letters and wakes of an entity that its state stands for."""

from convive.agents.entities._entity_client import look
from convive.agents.entities._entity_post import place_of_entity
from convive.agents.entities._entity_reading import EntityKept, first_state
from convive.agents.entities._entity_records import EntityName
from convive.agents.entities._entity_state import EntityState, apply, commits_of, mailbox_of
from convive.agents.journal._journal import Place, journal_event_of
from convive.bus import BadRecord, Bus, Record, Stream, address_of

KEEP = 100


async def trim(bus: Bus, name: str, *, keep: int = KEEP, runs: bool = False) -> int:
    """Forget all letters and commits of an entity but those of its last `keep` wakes; returns how many records.

    The state as it was before these wakes takes their place: what the entity is, what waits for it, and whose letters
    it has counted stay as they are, and a wake that is under way is not disturbed. What it was before that cannot be
    asked any more. `runs`: forget the journals of the wakes as well, with all that their agents did. Broken off, it is
    completed by doing it again.

    Raises BadEntity, UnknownEntity, NotAppended (the state is larger than a record; nothing is forgotten then), and
    errors of the bus.
    """
    if keep < 1:
        raise ValueError(f"an entity keeps one wake at least, not {keep}: the next one follows it")
    to = EntityName.of(name)
    place = await place_of_entity(bus, to)
    subjects = mailbox_of(place.base), commits_of(place.base)
    mailbox, commits = (Stream(place.log, subject, str(to)) for subject in subjects)
    state, journals = await _cut(place, to, (await look(bus, name)).wakes - keep, runs=runs)
    if not state.seq:
        return 0
    known = await commits.latest_snapshot()
    if known is None or known.covers < state.seq:
        await commits.snapshot(EntityKept(state=state).body(), covers=state.seq)
    forgotten = await mailbox.trim(state.seq) + await commits.trim(state.seq)
    return forgotten + (await place.log.purge(f"{place.base}.run.>", journals) if journals else 0)


async def _cut(place: Place, name: EntityName, wakes: int, *, runs: bool) -> tuple[EntityState, int]:
    """The state behind so many wakes, or the earliest that is known; and the end of the journals before the next one,
    if `runs`."""
    journals = (f"{place.base}.run.*.*",) if runs else ()
    while True:
        first = await first_state(place.log, place.base, name)
        state, began, end = first, first.seq, 0
        async with place.log.read(mailbox_of(place.base), commits_of(place.base), *journals, after=began) as records:
            async for record in records:
                found = state.wakes >= wakes
                if found and (not runs or _begins_wake(record, name)):
                    break
                end = record.seq
                if not found and address_of(record.subject).kind == "stream":
                    apply(state, record)
        if (await first_state(place.log, place.base, name)).seq == began:  # else it was trimmed meanwhile by others
            return state, end if runs else 0


def _begins_wake(record: Record, name: EntityName) -> bool:
    """Whether a record is the first in the journal of a wake: before it, the wakes before have all of theirs."""
    if address_of(record.subject).kind != "run":
        return False
    try:
        event = journal_event_of(record)
    except BadRecord:
        return False
    source = event.source if event.type == "run_started" else None
    return isinstance(source, dict) and source.get("entity") == str(name)
