"""Carrying a job out: the letters that wait for an entity, one after the other."""

import logging
import secrets
from copy import deepcopy
from dataclasses import replace
from typing import cast

import anyio
from pydantic import JsonValue

from convive.agents.answers._resume import cancel_run
from convive.agents.entities._entities import EntityType
from convive.agents.entities._entity_commit import OF_THE_HOST, by_host, failed, told, too_large, woken
from convive.agents.entities._entity_context import BadRow, Context, NotInATool, Wake
from convive.agents.entities._entity_desk import AtWork, Desk
from convive.agents.entities._entity_post import send_job
from convive.agents.entities._entity_reading import read_on
from convive.agents.entities._entity_records import EntityJob, EntityKind, EntityName, Woken, carrier_of
from convive.agents.entities._entity_state import EntityState, Waiting, commits_of
from convive.agents.journal._chain import Chain, check_depth, lost_hold
from convive.agents.journal._journal import Place, RunCancelled, RunStarted, Suspended
from convive.agents.journal._refusals import UnknownRun
from convive.agents.runs._frame import Frame, end_below, goes_on_later, inside
from convive.bus import (
    BadRecord,
    Conflict,
    ConviveError,
    Draft,
    Guard,
    Job,
    Lease,
    MaybeAppended,
    NewerRecord,
    NotAppended,
    WorkQueue,
)

ROOM = 2_048
"""Bytes that a letter or a job may need around what the commit holds of it."""

_log = logging.getLogger("convive.agents")


class HostsLost(ConviveError):
    """Every attempt at a wake was broken off, as by a host that was killed: the handler may be what kills them."""


class LeftToNewer(ConviveError):
    """A newer version has written of this entity what this one cannot read."""


class Carrier:
    """One job, and all that waits for its entity."""

    def __init__(
        self,
        desk: Desk,
        kind: EntityType,
        jobs: WorkQueue,
        lease: Lease,
        job: EntityJob,
        name: EntityName,
        place: Place,
    ) -> None:
        self._desk = desk
        self._kind = kind
        self._jobs = jobs
        self._lease = lease
        self._job = job
        self._name = name
        self._place = place
        self._at_work = AtWork(lease.job.id)
        self._fresh = False
        """Whether the journal of the wake began here and now."""
        self._came_before = lease.attempt > 1
        """Whether another host may still be at work with this job, although its lease ran out."""
        self._carried = False
        """Whether a letter was handled here: then nobody else has begun the next one, most likely."""
        self._last: Chain | None = None
        """The journal of the last wake, when it was handled here."""

    async def carry(self) -> None:
        """Handle what waits, and settle the job. Raises RunTaken when another host was first, and errors of the bus."""
        busy, name, own = self._desk.busy, str(self._name), self._at_work
        other = await self._other()
        if other is None:
            busy[name] = own
            try:
                settled = await self._carry()
            finally:
                del busy[name]
                own.ends()
        elif self._job.signal is None and await self._jobs.waiting(other.job) is not None and other.handles:
            settled = False
        else:  # a signal does not wait for what the other job is at
            settled = await self._carry()
        if not settled:
            await self._lease.done()
            if self._came_before:
                await self._look_after()

    async def _look_after(self) -> None:
        """Who had this job before, and stood still for longer than its lease, may have begun a wake as this job behind
        our last look; and others may have given way to it then."""
        state = await self._desk.state_of(self._name, self._place)
        self._desk.keep(state)
        if state.is_created and state.waiting and not state.is_paused:
            await send_job(self._jobs, self._name, state.waiting[0])

    async def _other(self) -> AtWork | None:
        """The job of this host that handles a letter of this entity. One that still looks for its letter is waited
        for: what it finds may be that it has to give way to this very job. So is an earlier delivery of this one, whose
        lease ran out when the process stood still: nothing that it says of the job counts any more."""
        while (other := self._desk.busy.get(str(self._name))) is not None:
            if other.job == self._at_work.job:
                await other.ended()
            elif other.handles or self._job.signal is not None:
                return other
            else:
                await other.looked()
        return None

    async def _carry(self) -> bool:
        """Says whether the job is settled already, because it waits or is to be tried again."""
        state = await self._desk.state_of(self._name, self._place)
        while True:
            if state.newer:
                raise LeftToNewer(state.newer)
            await self._desk.settle_last(self._name, self._place, state, self._last)
            settled = await self._next(state)
            if settled is not None:
                self._desk.keep(state)
                return settled
            self._at_work.looks()  # from here on: what comes while it is read may be missing
            await read_on(state, self._place.log, self._place.base)

    async def _next(self, state: EntityState) -> bool | None:
        """The next letter. None: it was handled, here or elsewhere. True: the job is settled. False: nothing to do."""
        if not state.is_created or not state.waiting or state.is_paused:
            return False  # who resumes it sends a job for whatever waits then
        waiting = state.waiting[0]
        self._last, chain = None, Chain(self._place, waiting.run)
        try:
            if not await self._claim(waiting, chain):
                return await self._give_way(state, chain)
            if not await self._still_waits(state, waiting, chain):
                return None
            if chain.state.suspended is not None:
                return await self._park(waiting, chain)
        except NewerRecord:
            raise
        except BadRecord as error:  # the journal is damaged: the wake cannot go on, and others wait behind it
            await self._commit(state, waiting, failed(state, waiting, error))
            return None
        self._at_work.claims()
        return await self._handle(state, waiting, chain)

    async def _park(self, waiting: Waiting, chain: Chain) -> bool:
        """The job that began a wake is kept until somebody answers; there is one to send where it is gone."""
        if self._carrier(chain) != self._lease.job.id:
            return False
        await self._lease.park()
        now = Chain(self._place, waiting.run)
        await now.read()
        if now.state.suspended is None:  # who answered before the job was parked could not wake it
            await self._jobs.wake(self._lease.job.id)
        return True

    async def _claim(self, waiting: Waiting, chain: Chain) -> bool:
        """Begin or find the journal of a wake; False when another job that is alive carries it out."""
        own, self._fresh = self._lease.job.id, False
        if waiting.letter.kind in OF_THE_HOST:
            return True  # whoever commits first has done it, and nothing was paid for
        if waiting.run_id != own and not self._carried:
            await chain.read()  # somebody has begun it, most likely, and to look is cheaper than to be refused
        if chain.state.started is None:
            source: JsonValue = {
                "entity": str(self._name),
                "letter": waiting.seq,
                "queue": self._name.queue,
                "carrier": own,
                "delivery": self._lease.attempt,
            }
            parent = waiting.parent_run_id
            self._fresh = await chain.start(
                RunStarted(agent=str(self._name), model="", root=waiting.root_run_id, parent=parent, source=source)
            )
        carrier = self._carrier(chain)
        self._came_before = self._came_before or (carrier == own and not self._fresh)
        return carrier in ("", own) or await self._jobs.waiting(carrier) is None

    def _carrier(self, chain: Chain) -> str:
        return carrier_of(None if chain.state.started is None else chain.state.started.source)

    async def _still_waits(self, state: EntityState, waiting: Waiting, chain: Chain) -> bool:
        """Whether a letter of which the job is gone is to be handled: that job may have done so since we read."""
        if self._carrier(chain) in ("", self._lease.job.id):
            return True
        await read_on(state, self._place.log, self._place.base)
        return not state.is_paused and _is_first(state, waiting)

    async def _give_way(self, state: EntityState, chain: Chain) -> bool:
        """Leave the entity to the job that has it, which is woken if it is parked and has no reason to be. It may have
        read last while the entity was paused, and be about to park: then who resumed it comes again later."""
        if chain.state.suspended is None:
            await self._jobs.wake(self._carrier(chain))
        if self._job.signal == "resume" and state.committed_at < self._job.letter and chain.state.suspended is None:
            tries = self._job.tries + 1
            again = self._job.model_copy(update={"tries": tries})
            id = f"{self._lease.job.id.partition('-')[0]}-{tries}"
            await self._jobs.send(Job(id, again.body(), self._lease.job.headers), self._desk.delay_s(tries))
        return False

    async def _handle(self, state: EntityState, waiting: Waiting, chain: Chain) -> bool | None:
        """Handle one letter; results as `_next`."""
        if waiting.letter.kind in OF_THE_HOST:
            if state.cut_off is not None:
                await self._call_off(state.cut_off)
            came_of_it = by_host(state, waiting, self._kind.collections)
            try:
                self._check(state, waiting, came_of_it)
            except NotAppended as error:
                came_of_it = too_large(state, waiting, error)
            await self._commit(state, waiting, came_of_it)
            return None
        observers = await self._desk.begin(self._place, waiting.run)
        attempt = self._attempt(chain)
        answers = chain.state.resolutions
        frame = Frame(
            waiting.run, self._place, "wake", self._fresh, "leave", None, answers=answers, observers=observers
        )
        context = Context(state, waiting.run, self._kind.collections, waiting.letter, self._place)
        try:
            await self._call(state, waiting, context, frame, attempt)
            if frame.waiting:
                # A wake has no calls through which they could be reached.
                below = tuple(each.model_copy(update={"through": None}) for each in frame.waiting)
                await chain.append(Suspended(below=below, token=secrets.token_urlsafe(24)))
                return None
            came_of_it = woken(state, waiting, context)
            self._check(state, waiting, came_of_it)
        except Exception as error:  # noqa: BLE001 - an application's own; recorded when the attempts are spent
            if (lost := lost_hold(error)) is not None:
                raise lost from None
            if attempt < self._kind.max_attempts and not isinstance(error, NotAppended | NotInATool):
                _log.warning("%s, wake %d, attempt %d: %s", self._name, state.wakes + 1, attempt, told(error))
                await self._lease.retry(self._desk.delay_s(attempt))
                return True
            _log.error("%s, wake %d failed: %s", self._name, state.wakes + 1, told(error))
            came_of_it = failed(state, waiting, error)
        if await self._commit(state, waiting, came_of_it):
            self._last = chain
            await end_below(frame, "the wake that it belongs to went on without it")
        return None

    def _attempt(self, chain: Chain) -> int:
        """How often this wake was begun, this time included: by deliveries of the job since it was first."""
        source = None if chain.state.started is None else chain.state.started.source
        began = source.get("delivery") if isinstance(source, dict) and carrier_of(source) == self._lease.job.id else 1
        return max(1, self._lease.attempt - began + 1) if isinstance(began, int) else self._lease.attempt

    async def _call(self, state: EntityState, waiting: Waiting, context: Context, frame: Frame, attempt: int) -> None:
        """Run the handler. Agents that it called and that wait for answers are in the frame then."""
        handler, letter = self._kind.handler, waiting.letter
        if attempt > self._kind.max_attempts:
            raise HostsLost(f"{self._kind.max_attempts} attempts ended without a word: their hosts were lost.")
        if handler is None:
            if letter.kind == "message":
                raise BadRow(f"entities of the type {self._kind.name} have no handler and take no messages")
            return
        kind = cast("EntityKind", letter.kind)  # the others wake no handler
        wake = Wake(kind, letter.sender, deepcopy(letter.value), state.wakes + 1, attempt, waiting.time_s)
        try:
            with inside(frame), anyio.fail_after(self._kind.timeout_s):
                await handler(context, wake)
        except BaseException as error:
            if not frame.waiting or not goes_on_later(error):
                raise
        if context.misused is not None:
            raise context.misused

    async def _commit(self, state: EntityState, waiting: Waiting, came_of_it: Woken) -> bool:
        """Whether this is what came of the letter; False when somebody else's commit, or a stop, was first."""
        draft = self._draft(state, waiting, came_of_it)
        self._carried = True
        with anyio.CancelScope(shield=True):
            try:
                try:
                    await self._place.log.append(draft)
                except MaybeAppended:
                    await self._place.log.append(draft)  # the same draft again is stored at most once
            except Conflict as error:
                _log.info("%s: %s", self._name, error)
                await read_on(state, self._place.log, self._place.base)
                if state.is_stopped and waiting.letter.kind not in OF_THE_HOST:
                    await self._call_off(waiting)
                return False
        return True

    def _check(self, state: EntityState, waiting: Waiting, came_of_it: Woken) -> None:
        """Refuse a commit that no log takes, or whose letters and jobs none would. Raises NotAppended."""
        draft = self._draft(state, waiting, came_of_it)
        self._place.log.check(replace(draft, body=draft.body + b" " * ROOM))

    def _draft(self, state: EntityState, waiting: Waiting, came_of_it: Woken) -> Draft:
        subject = commits_of(self._place.base)
        # Two hosts that commit the same must not be taken for one that tries again.
        id = f"{waiting.run_id}-{secrets.token_hex(4)}"
        body = came_of_it.body()
        check_depth(waiting.run, body)
        return Draft(subject, body, waiting.run.headers(), id, Guard(subject, state.committed_at))

    async def _call_off(self, waiting: Waiting) -> None:
        """End the wake that was under way, or waited, when the entity was stopped."""
        chain = Chain(self._place, waiting.run)
        try:
            await chain.read()
            if chain.state.started is None:
                return
            if chain.state.ended is None or isinstance(
                chain.state.ended, RunCancelled
            ):  # that may have been broken off
                await cancel_run(self._place, waiting.run_id, f"{self._name} was stopped")
            await self._jobs.wake(self._carrier(chain))
        except (UnknownRun, BadRecord) as error:
            _log.info("%s: %s", self._name, error)


def _is_first(state: EntityState, waiting: Waiting) -> bool:
    return [one.run_id for one in state.waiting[:1]] == [waiting.run_id]
