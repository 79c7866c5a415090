"""Hosts: processes that wake entities. Any number of them may host the same types.

A letter has a job on the work queue of the entity's type; the job's id is the run of the wake. Whoever takes a job
carries on with all that waits for that entity, one letter after the other, unless another job that is alive does: of
several, the first that starts the journal of a wake has it. So a letter whose job was given away is in good hands, and
the job of a host that was killed comes back and carries on (docs/adr/0021).
"""

import logging
from functools import partial

import anyio

from convive.agents.entities._entities import Entities, EntityType
from convive.agents.entities._entity_carrier import Carrier, LeftToNewer
from convive.agents.entities._entity_desk import Begun, Desk
from convive.agents.entities._entity_post import job_of, place_of_entity, store
from convive.agents.journal._chain import LEAVE_RUN, RunTaken
from convive.agents.queues._worker import LOST_S, RETRY_S, bury, take_jobs
from convive.bus import BadRecord, Bus, ConviveError, Lease, NewerRecord, WorkQueue

_log = logging.getLogger("convive.agents")


async def host(
    bus: Bus,
    entities: Entities,
    *,
    concurrency: int = 8,
    retry_s: float = RETRY_S,
    lease_s: float = 10.0,
    begun: Begun | None = None,
) -> None:
    """Wake the entities of these types when something comes for them, until cancelled. Any number of hosts may.

    One entity handles one letter at a time, in the order of its mailbox; `concurrency` is how many entities of a type
    do at once. What a host leaves, by being cancelled or killed, is taken up by another: at once, or after `lease_s`.
    A handler that raises is tried again after `retry_s`, and then twice as long each time; when its attempts are spent,
    the failure is in the log and the next letter's turn comes. `begun` is told of each wake that is taken up, and the
    handler waits for it. Raises BadName, BusUnavailable, WrongStream.
    """
    if concurrency < 1:
        raise ValueError(f"a host wakes one entity at a time at least, not {concurrency}")
    own = _Host(Desk(bus, retry_s, begun))
    queues = [
        (kind, await bus.work_queue(f"entities-{kind.name}", lease_s=lease_s)) for kind in entities.types.values()
    ]
    try:
        async with anyio.create_task_group() as tasks:
            for kind, jobs in queues:
                for _ in range(concurrency):
                    tasks.start_soon(take_jobs, jobs, partial(own.settle, kind, jobs))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


class _Host:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def settle(self, kind: EntityType, jobs: WorkQueue, lease: Lease) -> None:
        try:
            job, name, setter = job_of(lease.job)
        except NewerRecord as error:
            await self._leave(lease, error)
            return
        except BadRecord as error:
            await bury(lease, str(error))
            return
        try:
            place = await place_of_entity(self._desk.bus, name)
            if job.due is not None:
                await store(place, name, job.due, setter, lease.job.id)
            await Carrier(self._desk, kind, jobs, lease, job, name, place).carry()
        except RunTaken as error:
            _log.info("%s: another host goes on with it: %s", lease.job.id, error)
        except LEAVE_RUN as error:
            _log.warning("job %s is left to its next attempt: %s", lease.job.id, error)
            await anyio.sleep(LOST_S)
        except (NewerRecord, LeftToNewer) as error:
            await self._leave(lease, error)
        except ConviveError as error:
            _log.error("%s cannot go on, and is tried again: %s", name, error)
            await lease.retry(self._desk.delay_s(lease.attempt))

    async def _leave(self, lease: Lease, error: ConviveError) -> None:
        """Give a job back to newer hosts: it is in order, and takes no attempt of theirs."""
        _log.warning("job %s is left to a newer host: %s", lease.job.id, error)
        await anyio.sleep(self._desk.retry_s)
        await lease.release()
