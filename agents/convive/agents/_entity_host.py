"""Hosts: processes that wake entities. Any number of them may host the same types.

A letter has a job on the work queue of the entity's type; the job's id is the run of the wake. Whoever takes a job
carries on with all that waits for that entity, one letter after the other, unless another job that is alive does: of
several, the first that starts the journal of a wake has it. So a letter whose job was given away is in good hands, and
the job of a host that was killed comes back and carries on (docs/adr/0021).
"""

import logging
import secrets
from collections import OrderedDict
from typing import cast

import anyio
from pydantic import JsonValue

from convive.agents._chain import LEAVE_RUN, Chain, RunTaken
from convive.agents._entities import Entities, EntityType
from convive.agents._entity_commit import OF_THE_HOST, by_host, failed, told, woken
from convive.agents._entity_context import BadRow, Context, Wake
from convive.agents._entity_post import deliver, job_of, place_of_entity, store
from convive.agents._entity_records import EntityKind, EntityName, Woken, carrier_of
from convive.agents._entity_state import EntityState, Waiting, apply, commits_of, mailbox_of, read_entity
from convive.agents._frame import Frame, goes_on_later, inside
from convive.agents._journal import Place, RunFailed, RunFinished, RunStarted, Suspended
from convive.agents._refusals import UnknownRun
from convive.agents._resume import cancel_run
from convive.agents._schema import json_of
from convive.agents._worker import LEAVING_S, LOST_S, RETRY_MOST_S, RETRY_S, bury, kept
from convive.bus import (
    BadRecord,
    Bus,
    Conflict,
    ConviveError,
    Draft,
    Guard,
    Lease,
    MaybeAppended,
    NewerRecord,
    NotAppended,
    WorkQueue,
)

REMEMBERED = 10_000
"""Entities of which a host knows that their last letters were delivered; of others it delivers them again."""

_log = logging.getLogger("convive.agents")


class HostsLost(ConviveError):
    """Every attempt at a wake was broken off, as by a host that was killed: the handler may be what kills them."""


async def host(
    bus: Bus, entities: Entities, *, concurrency: int = 8, retry_s: float = RETRY_S, lease_s: float = 10.0
) -> None:
    """Wake the entities of these types when something comes for them, until cancelled. Any number of hosts may.

    One entity handles one letter at a time, in the order of its mailbox; `concurrency` is how many entities of a type
    do at once. What a host leaves, by being cancelled or killed, is taken up by another: at once, or after `lease_s`.
    A handler that raises is tried again after `retry_s`, and then twice as long each time; when its attempts are spent,
    the failure is in the log and the next letter's turn comes. Raises BadName, BusUnavailable, WrongStream.
    """
    if concurrency < 1:
        raise ValueError(f"a host wakes one entity at a time at least, not {concurrency}")
    own = _Host(bus, retry_s)
    queues = [
        (kind, await bus.work_queue(f"entities-{kind.name}", lease_s=lease_s)) for kind in entities.types.values()
    ]
    try:
        async with anyio.create_task_group() as tasks:
            for kind, jobs in queues:
                for _ in range(concurrency):
                    tasks.start_soon(own.run, kind, jobs)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


class _Host:
    def __init__(self, bus: Bus, retry_s: float) -> None:
        self._bus = bus
        self._retry_s = retry_s
        self._delivered: OrderedDict[str, int] = OrderedDict()

    async def run(self, kind: EntityType, jobs: WorkQueue) -> None:
        while True:
            lease = await jobs.take()
            try:
                async with kept(lease):
                    await self._settle(kind, jobs, lease)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(LEAVING_S, shield=True):
                    await lease.release()
                raise

    async def _settle(self, kind: EntityType, jobs: WorkQueue, lease: Lease) -> None:
        try:
            job, name, setter = job_of(lease.job)
            place = await place_of_entity(self._bus, name)
            if job.due is not None:
                await store(place, name, job.due, setter, lease.job.id)
            await _Carrier(self, kind, jobs, lease, name, place).carry()
        except (RunTaken, Conflict) as error:
            _log.info("%s: another host goes on with it: %s", lease.job.id, error)
        except LEAVE_RUN as error:
            _log.warning("job %s is left to its next attempt: %s", lease.job.id, error)
            await anyio.sleep(LOST_S)
        except NewerRecord as error:
            _log.warning("job %s is left to a newer host: %s", lease.job.id, error)
            await anyio.sleep(self._retry_s)
            await lease.release()
        except BadRecord as error:
            await bury(lease, str(error))

    async def settle_last(self, name: EntityName, place: Place, state: EntityState) -> None:
        """Deliver what the last commit sends, and end its run, if it is not known that this was done."""
        last, handled = state.last, state.last_handled
        if last is None or handled is None or self._delivered.get(state.name, 0) >= last.wake:
            return
        own = handled.letter.kind not in OF_THE_HOST
        await deliver(self._bus, name, last, handled.run if own else handled.sender_run)
        if own:
            await self._end(place, handled, last)
        self._delivered[state.name] = last.wake
        self._delivered.move_to_end(state.name)
        if len(self._delivered) > REMEMBERED:
            self._delivered.popitem(last=False)

    async def _end(self, place: Place, handled: Waiting, last: Woken) -> None:
        chain = Chain(place, handled.run)
        await chain.read()
        if chain.state.started is not None and chain.state.ended is None:
            if last.error is None:
                await chain.append(RunFinished(text=json_of(last.result) if last.finished else ""))
            else:
                await chain.append(RunFailed(error="WakeFailed", message=last.error))

    def delay_s(self, attempt: int) -> float:
        """How long until a wake is tried again."""
        return min(self._retry_s * 2.0 ** (attempt - 1), RETRY_MOST_S)


class _Carrier:
    """One job, and all that waits for its entity."""

    def __init__(
        self, host: _Host, kind: EntityType, jobs: WorkQueue, lease: Lease, name: EntityName, place: Place
    ) -> None:
        self._host = host
        self._kind = kind
        self._jobs = jobs
        self._lease = lease
        self._name = name
        self._place = place
        self._fresh = False
        """Whether the journal of the wake began here and now."""
        self._carried = False
        """Whether a letter was handled here: then what comes next is this job's as well."""

    async def carry(self) -> None:
        """Handle what waits, and settle the job. Raises RunTaken or Conflict when another host was first."""
        state = await read_entity(self._place.log, self._place.base, self._name)
        while True:
            await self._host.settle_last(self._name, self._place, state)
            if not state.is_created or state.is_paused or not state.waiting:
                break
            waiting = state.waiting[0]
            chain = await self._claimed(waiting)
            if chain is None:
                break
            try:
                if not await self._handled(state, waiting, chain):
                    return
            except Conflict:  # somebody else handled this letter, and may be carrying on
                self._carried = False
                state = await read_entity(self._place.log, self._place.base, self._name)
                continue
            self._carried = True
            await self._read_on(state)
        await self._lease.done()

    async def _read_on(self, state: EntityState) -> None:
        subjects = (mailbox_of(self._place.base), commits_of(self._place.base))
        async with self._place.log.read(*subjects, after=state.seq) as records:
            async for record in records:
                apply(state, record)

    async def _claimed(self, waiting: Waiting) -> Chain | None:
        """The journal of a wake that is this job's to carry out; None when another job that is alive does."""
        own, chain, self._fresh = self._lease.job.id, Chain(self._place, waiting.run), False
        if waiting.letter.kind in OF_THE_HOST:
            return chain  # whoever commits first has done it, and nothing was paid for
        if not self._carried and waiting.run_id != own:
            await chain.read()
            if chain.state.started is None and await self._jobs.waiting(waiting.run_id) is not None:
                return None  # its own job comes, or has come, and carries on with everything behind it
        if chain.state.started is None:
            source: JsonValue = {
                "entity": str(self._name),
                "letter": waiting.seq,
                "carrier": own,
                "delivery": self._lease.attempt,
            }
            parent = waiting.parent_run_id
            self._fresh = await chain.start(
                RunStarted(agent=str(self._name), model="", root=waiting.root_run_id, parent=parent, source=source)
            )
        carrier = carrier_of(None if chain.state.started is None else chain.state.started.source)
        if carrier not in ("", own) and await self._jobs.waiting(carrier) is not None:
            return None
        return chain

    async def _handled(self, state: EntityState, waiting: Waiting, chain: Chain) -> bool:
        """Handle one letter; False when the job is settled already, because it waits or is to be tried again."""
        if chain.state.suspended is not None:
            await self._park(chain)
            return False
        if waiting.letter.kind in OF_THE_HOST:
            if state.cut_off is not None:
                await self._cut_off(state.cut_off)
            await self._commit(state, waiting, by_host(state, waiting, self._kind.collections))
            return True
        attempt = self._attempt(chain)
        context = Context(state, waiting.run, self._kind.collections, waiting.letter.hops)
        try:
            if not await self._called(state, waiting, chain, context, attempt):
                await self._park(chain)
                return False
            came_of_it = woken(state, waiting, context)
            self._place.log.check(self._draft(state, waiting, came_of_it))
        except Exception as error:  # noqa: BLE001 - an application's own; recorded when the attempts are spent
            if (lost := _lost(error)) is not None:
                raise lost from None
            if attempt < self._kind.max_attempts and not isinstance(error, NotAppended):
                _log.warning("%s, wake %d, attempt %d: %s", self._name, state.wakes + 1, attempt, told(error))
                await self._lease.retry(self._host.delay_s(attempt))
                return False
            _log.error("%s, wake %d failed: %s", self._name, state.wakes + 1, told(error))
            came_of_it = failed(state, waiting, error)
        await self._commit(state, waiting, came_of_it)
        return True

    def _attempt(self, chain: Chain) -> int:
        """How often this wake was begun, this time included: by deliveries of the job since it was first."""
        source = None if chain.state.started is None else chain.state.started.source
        began = source.get("delivery") if isinstance(source, dict) and carrier_of(source) == self._lease.job.id else 1
        return max(1, self._lease.attempt - began + 1) if isinstance(began, int) else self._lease.attempt

    async def _called(self, state: EntityState, waiting: Waiting, chain: Chain, context: Context, attempt: int) -> bool:
        """Run the handler; False when an agent that it called waits for answers."""
        handler, letter = self._kind.handler, waiting.letter
        if attempt > self._kind.max_attempts:
            raise HostsLost(f"{self._kind.max_attempts} attempts ended without a word: their hosts were lost.")
        if handler is None:
            if letter.kind == "message":
                raise BadRow(f"entities of the type {self._kind.name} have no handler and take no messages")
            return True
        kind = cast("EntityKind", letter.kind)  # the others wake no handler
        wake = Wake(kind, letter.sender, letter.value, state.wakes + 1, attempt, waiting.time_s)
        frame = Frame(waiting.run, self._place, "wake", self._fresh, "leave", None, answers=chain.state.resolutions)
        try:
            with inside(frame), anyio.fail_after(self._kind.timeout_s):
                await handler(context, wake)
        except BaseException as error:
            if not frame.waiting or not goes_on_later(error):
                raise
        if frame.waiting:
            await chain.append(Suspended(below=tuple(frame.waiting), token=secrets.token_urlsafe(24)))
        return not frame.waiting

    async def _park(self, chain: Chain) -> None:
        await self._lease.park()
        await chain.read()
        if chain.state.suspended is None:  # who answered before the job was parked could not wake it
            await self._jobs.wake(self._lease.job.id)

    async def _commit(self, state: EntityState, waiting: Waiting, came_of_it: Woken) -> None:
        draft = self._draft(state, waiting, came_of_it)
        with anyio.CancelScope(shield=True):
            try:
                await self._place.log.append(draft)
            except MaybeAppended:
                await self._place.log.append(draft)  # the same draft again is stored at most once

    def _draft(self, state: EntityState, waiting: Waiting, came_of_it: Woken) -> Draft:
        subject = commits_of(self._place.base)
        # Two hosts that commit the same must not be taken for one that tries again.
        id = f"{waiting.run_id}-{secrets.token_hex(4)}"
        return Draft(subject, came_of_it.body(), waiting.run.headers(), id, Guard(subject, state.committed_at))

    async def _cut_off(self, waiting: Waiting) -> None:
        """End the wake that was under way, or waited, when the entity was stopped."""
        chain = Chain(self._place, waiting.run)
        await chain.read()
        if chain.state.started is None or chain.state.ended is not None:
            return
        try:
            await cancel_run(self._place, waiting.run_id, f"{self._name} was stopped")
        except UnknownRun as error:
            _log.info("%s: %s", self._name, error)
        await self._jobs.wake(carrier_of(chain.state.started.source))


def _lost(error: BaseException) -> Exception | None:
    """What in an error says only that this process lost its hold on a run, if anything."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return next((found for each in group.exceptions if (found := _lost(each)) is not None), None)
    return error if isinstance(error, LEAVE_RUN) else None
