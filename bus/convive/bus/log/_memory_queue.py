"""A work queue in this process's memory, with the same contract as the durable one. Nothing survives the process."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from convive.bus.log._errors import NotAppended
from convive.bus.log._memory_log import MAX_BODY_BYTES
from convive.bus.log._queue import LEASE_S, DeadJob, Job, Lease, check_job, one_line

REMEMBERED_S = 600.0


@dataclass(slots=True)
class _Entry:
    job: Job
    ready_s: float
    attempts: int = 0
    delivery: int = 0


class MemoryWorkQueue:
    """`WorkQueue` in memory. Not for threads: one event loop."""

    def __init__(self, name: str, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._lease_s = lease_s
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        """A heap of when each is ready; older items, of one that is gone or ready at another time, are passed over."""
        self._count = count()
        self._sent: dict[str, float] = {}
        self._dead: dict[str, DeadJob] = {}
        self._parked: dict[str, Job] = {}
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        return self._name

    async def send(self, job: Job, delay_s: float = 0.0) -> None:
        check_job(job, self._name, delay_s)
        if len(job.body) > MAX_BODY_BYTES:
            raise NotAppended(
                f"{self._name}: the job has {len(job.body)} bytes, the queue takes {MAX_BODY_BYTES}. Nothing was sent; "
                "shorten it, or store it elsewhere and send a reference."
            )
        now_s = self._clock()
        while self._sent and now_s - next(iter(self._sent.values())) >= REMEMBERED_S:  # they are in order of sending
            del self._sent[next(iter(self._sent))]
        known = any(job.id in ids for ids in (self._sent, self._entries, self._dead, self._parked))
        if not known:
            self._sent[job.id] = now_s
            self._add(_Entry(job, now_s + delay_s))

    async def take(self) -> Lease:
        while True:
            changed = self._changed
            now_s = self._clock()
            entry = self._first()
            due_s = None if entry is None else entry.ready_s
            if entry is not None and entry.ready_s <= now_s:
                entry.attempts, entry.delivery = entry.attempts + 1, entry.delivery + 1
                self._ready_at(entry, now_s + self._lease_s)
                return _MemoryLease(self, entry, entry.attempts, self._lease_s)
            try:
                async with asyncio.timeout(None if due_s is None else due_s - now_s):
                    await changed.wait()
            except TimeoutError:
                continue

    async def waiting(self, id: str) -> Job | None:
        entry, dead = self._entries.get(id), self._dead.get(id)
        return entry.job if entry else dead.job if dead else self._parked.get(id)

    async def wake(self, id: str) -> bool:
        job = self._parked.pop(id, None)
        if job is None:
            return False
        if id not in self._entries:
            self._add(_Entry(job, self._clock()))
        return True

    async def jobs(self) -> list[Job]:
        return [*(entry.job for entry in self._entries.values()), *self._parked.values()]

    async def dead(self) -> list[DeadJob]:
        return list(self._dead.values())

    def ready_in(self, entry: _Entry, delay_s: float) -> None:
        self._ready_at(entry, self._clock() + delay_s)
        self._wake_takers()

    def _add(self, entry: _Entry) -> None:
        self._entries[entry.job.id] = entry
        self._ready_at(entry, entry.ready_s)
        self._wake_takers()

    def _ready_at(self, entry: _Entry, ready_s: float) -> None:
        entry.ready_s = ready_s
        heappush(self._due, (ready_s, next(self._count), entry))

    def _settled(self, entry: _Entry) -> bool:
        """Take an entry out. False when it was before: one that was woken is another, of the same job."""
        is_there = self._entries.get(entry.job.id) is entry
        if is_there:
            del self._entries[entry.job.id]
        return is_there

    def _first(self) -> _Entry | None:
        """The entry that is ready first, if there is any."""
        while self._due:
            ready_s, _, entry = self._due[0]
            if self._entries.get(entry.job.id) is entry and entry.ready_s == ready_s:
                return entry
            heappop(self._due)
        return None

    def _wake_takers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def park(self, entry: _Entry) -> None:
        if self._settled(entry):
            self._parked[entry.job.id] = entry.job

    def remove(self, entry: _Entry, reason: str | None = None) -> None:
        if self._settled(entry) and reason is not None:
            self._dead[entry.job.id] = DeadJob(entry.job, one_line(reason))


class _MemoryLease:
    def __init__(self, queue: MemoryWorkQueue, entry: _Entry, attempt: int, lease_s: float) -> None:
        self._queue = queue
        self._entry = entry
        self._delivery = entry.delivery
        self.job = entry.job
        self.attempt = attempt
        self.lease_s = lease_s

    async def extend(self) -> None:
        if self._is_latest:
            self._queue.ready_in(self._entry, self.lease_s)

    async def done(self) -> None:
        if self._is_latest:
            self._queue.remove(self._entry)

    async def retry(self, delay_s: float = 0.0) -> None:
        if self._is_latest:
            self._queue.ready_in(self._entry, delay_s)

    async def release(self) -> None:
        if self._is_latest:
            self._entry.attempts, self._entry.delivery = self._entry.attempts - 1, self._entry.delivery + 1
            self._queue.ready_in(self._entry, 0.0)

    async def park(self) -> None:
        if self._is_latest:
            self._queue.park(self._entry)

    async def bury(self, reason: str) -> None:
        if self._is_latest:
            self._queue.remove(self._entry, reason)

    @property
    def _is_latest(self) -> bool:
        """Whether the job was not delivered again since."""
        return self._entry.delivery == self._delivery
