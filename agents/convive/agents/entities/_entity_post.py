"""Letters on their way: into the mailbox, and a job for whoever hosts the entity."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import cast

import anyio
from pydantic import ValidationError

from convive.agents.entities._entity_records import EntityJob, EntityName, Letter, Outgoing, Signal, Woken, wake_run
from convive.agents.entities._entity_state import Waiting, mailbox_of
from convive.agents.journal._journal import Place
from convive.bus import (
    BadRecord,
    Bus,
    ConviveError,
    Draft,
    Job,
    MaybeAppended,
    RunContext,
    WorkQueue,
    mint_run_id,
    run_of,
    unreadable,
)


async def place_of_entity(bus: Bus, name: EntityName) -> Place:
    """Where an entity has its letters, commits and journals."""
    space = await bus.conversation(name.space)
    return Place(space.log, space.subjects.base)


async def post(bus: Bus, to: EntityName, letter: Letter, sender: RunContext | None, id: str | None) -> int:
    """Store a letter and see to it that a host is woken; returns its place.

    With an `id`, posting again within ten minutes changes nothing: do that after MaybeAppended. Raises NotAppended (too
    large), MaybeAppended, BusUnavailable.
    """
    if sender is None or letter.number is None:
        letter = letter.model_copy(update={"trace": mint_run_id()})
    seq = await store(await place_of_entity(bus, to), to, letter, sender, id)
    run = wake_run(to, seq, letter, sender)
    jobs = await bus.work_queue(to.queue)
    signal = cast("Signal", letter.value) if letter.kind == "signal" else None
    job = EntityJob(entity=str(to), letter=seq, signal=signal)
    await jobs.send(Job(run.run_id, job.body(), run.headers()))
    return seq


async def store(place: Place, to: EntityName, letter: Letter, sender: RunContext | None, id: str | None) -> int:
    """Put a letter into the mailbox, for a job that is there already."""
    headers = {} if sender is None else sender.headers()
    draft = Draft(mailbox_of(place.base), letter.body(), headers, None if id is None else f"{to}/{id}")
    try:
        return await place.log.append(draft)
    except MaybeAppended:
        if id is None:
            raise
        return await place.log.append(draft)  # stored at most once


async def deliver(
    bus: Bus, name: EntityName, woken: Woken, outgoing: Sequence[Outgoing], run: RunContext | None
) -> None:
    """Send what a commit sends, as `run`: to each entity in order, and to all at once. Doing it again changes nothing.

    Raises errors of the bus; some letters are delivered then.
    """
    by_receiver: dict[str, list[tuple[int, Outgoing]]] = {}
    for place, each in enumerate(outgoing):
        by_receiver.setdefault("" if each.at_s is not None else each.to, []).append((place, each))
    failures: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def send(letters: Iterable[tuple[int, Outgoing]]) -> None:
            try:
                for place, each in letters:
                    await _send(bus, name, each, woken, place, run)
            except ConviveError as error:
                failures.append(error)

        for letters in by_receiver.values():
            tasks.start_soon(send, letters)
    if failures:
        raise failures[0]


async def _send(
    bus: Bus, name: EntityName, outgoing: Outgoing, woken: Woken, place: int, run: RunContext | None
) -> None:
    letter = outgoing.letter.model_copy(update={"number": (woken.wake, place)})
    id = f"{woken.run_id}-{place}"
    if outgoing.at_s is None:
        await post(bus, EntityName.of(outgoing.to), letter, run, id)
        return
    await set_time(bus, name, letter, run, outgoing.at_s, id)


async def set_time(bus: Bus, name: EntityName, letter: Letter, run: RunContext | None, at_s: float, id: str) -> None:
    """See to it that a letter that `run` sends comes at its time. With the same `id` again, it changes nothing."""
    jobs = await bus.work_queue(name.queue)
    job = EntityJob(entity=str(name), due=letter)
    await jobs.send(Job(id, job.body(), {} if run is None else run.headers()), max(0.0, at_s - time.time()))


async def send_job(jobs: WorkQueue, name: EntityName, waiting: Waiting) -> None:
    """A new job for a letter: its own may have been there, and be done."""
    id = f"{waiting.run_id}-{secrets.token_hex(4)}"
    await jobs.send(Job(id, EntityJob(entity=str(name)).body(), waiting.run.headers()))


def job_of(job: Job) -> tuple[EntityJob, EntityName, RunContext | None]:
    """Read a job: for which entity and letter, and which run set the time that has come.

    Raises BadRecord, or NewerRecord for a newer version's.
    """
    try:
        found = EntityJob.model_validate_json(job.body)
    except ValidationError as error:
        raise unreadable(f"job {job.id}", 0, job.body, error, "a letter for an entity") from None
    try:
        return found, EntityName.of(found.entity), run_of(job.headers)
    except ConviveError as error:
        raise BadRecord(f"job {job.id}", 0, f"not a letter for an entity: {error}") from None
