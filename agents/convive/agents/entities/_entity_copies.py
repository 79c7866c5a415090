"""Entities that go elsewhere: exported with all that belongs to them, imported, and had go on there."""

import time
from collections.abc import AsyncGenerator, Callable

from convive.agents.entities._entity_client import look
from convive.agents.entities._entity_post import place_of_entity, send_job, set_time
from convive.agents.entities._entity_records import EntityJob, EntityName, carrier_of
from convive.agents.entities._entity_state import EntityState, commits_of, mailbox_of
from convive.agents.journal._chain import Chain
from convive.agents.journal._journal import Place
from convive.bus import Archive, BadRecord, Bus, ConviveError, Job, RunContext, export_lines, import_archive


class NoEntity(ConviveError):
    """An archive of something else. Nothing was imported."""


async def export_entity(bus: Bus, name: str, until: int | None = None) -> AsyncGenerator[bytes]:
    """The lines of an archive of an entity, as `export_lines` gives them: letters, commits and journals, as they are
    now or were at a place. Raises BadEntity, UnknownEntity, Forgotten and errors of the bus."""
    await look(bus, name, until=until)
    async for line in export_lines(await bus.conversation(EntityName.of(name).space), until):
        yield line


def entity_in(archive: Archive) -> EntityName | None:
    """The entity that an archive holds; None: it holds something else. Reads the file up to the first letter or commit.

    Raises BadArchive when the file changed meanwhile.
    """
    name = EntityName.of_space(archive.conversation)
    streams = {mailbox_of(""), commits_of("")}
    return name if name and any(f".{record.subject}" in streams for record in archive.records()) else None


async def import_entity(bus: Bus, archive: Archive, clock: Callable[[], float] = time.time) -> EntityState:
    """Bring an entity onto a bus, under its name, with its rows and its whole history, and have it go on there.

    What waits for it is handled by a host of this bus, a wake that was begun goes on from its journal, a time that is
    set comes; and the letters of its last wake are delivered here, since nobody knows whether they were. Who counted
    them before (and was imported as well) counts them no second time. So import all that belong together, and host
    them then. The original is not told. Interrupted, it is completed by calling it again.

    Raises NoEntity, NameTaken (an entity of that name is here, or was sent something), BadArchive and errors of the
    bus.
    """
    name = entity_in(archive)
    if name is None:
        raise NoEntity(f"{archive.path} holds {archive.conversation}, which is no entity. Nothing was imported.")
    await import_archive(bus, archive, clock=clock)
    return await revive(bus, str(name))


async def revive(bus: Bus, name: str) -> EntityState:
    """See to it that there are jobs for what waits for an entity, and for its times. For one that came from elsewhere,
    or whose jobs were lost. Where they are, this changes nothing.

    Raises BadEntity, UnknownEntity and errors of the bus.
    """
    state = await look(bus, name)
    to = EntityName.of(name)
    for timer in state.timers.values():
        await set_time(bus, to, timer.letter, timer.run, timer.at_s, timer.job)
    handled = next(iter(state.waiting), state.last_handled)
    if handled is not None:
        jobs = await bus.work_queue(to.queue)
        id = await _carrier(await place_of_entity(bus, to), handled.run)
        if id:
            await jobs.send(Job(id, EntityJob(entity=str(to)).body(), handled.run.headers()))
        if await jobs.waiting(id or handled.run_id) is None:
            await send_job(jobs, to, handled)
    return state


async def _carrier(place: Place, run: RunContext) -> str:
    """The job that began a wake, which whoever answers it wakes; empty for a wake that is not under way."""
    chain = Chain(place, run)
    try:
        await chain.read()
    except BadRecord:
        return ""
    under_way = chain.state.started is not None and chain.state.ended is None
    return carrier_of(None if chain.state.started is None else chain.state.started.source) if under_way else ""
