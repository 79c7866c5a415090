"""A bus of one's own on which a process can end at any moment, and hosts, for tests of entities."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from pydantic import BaseModel

from convive.agents.entities import Collection, Entities, EntityState, follow, host
from convive.agents.journal._faults import only_crashed
from convive.agents.testing import Crashed
from convive.bus import Bus, Draft, Job, Lease, Log, LogAround, MemoryLog, MemoryWorkQueue, Record, WorkQueue

DEADLINE_S = 20.0
"""How long something that has to come is waited for; the longest schedule takes 9 s of a machine of its own."""


class Tally(BaseModel):
    """A row."""

    count: int = 0


TALLY = Collection("tally", Tally)

LEASE_S = 1.0
"""Short, and yet longer than what else runs in the loop takes: a lease that runs out gives work to two."""


@dataclass
class Store:
    """What outlives a process: one log, and the queues."""

    log: MemoryLog = field(default_factory=MemoryLog)
    queues: dict[str, MemoryWorkQueue] = field(default_factory=dict[str, MemoryWorkQueue])
    clock: Callable[[], float] = time.monotonic
    """By which leases run out."""

    def process(self, lives: int | None = None) -> "Process":
        """A process that sees this store, and ends with the `lives`th thing that it writes there (None: never)."""
        return Process(self, lives)


class Process:
    """Its view of the store. `before`: whether its last write is not stored any more."""

    def __init__(self, store: Store, lives: int | None, *, before: bool = False) -> None:
        self.store = store
        self.lives = lives
        self.before = before
        self.written = 0
        self.read = 0
        """Records that it read."""
        self.taken = Counter[str]()
        """How often it took each job."""
        self.is_dead = False
        self.is_cut_off = False
        """Whether what it says of its leases is under way for long."""
        mortal = _MortalLog(self)

        async def partition(_: int) -> Log:
            await anyio.lowlevel.checkpoint()
            return mortal

        async def existing() -> dict[int, Log]:
            await anyio.lowlevel.checkpoint()
            return {0: mortal}

        async def queue(name: str, _: float) -> WorkQueue:
            await anyio.lowlevel.checkpoint()
            return _MortalQueue(self, store.queues.setdefault(name, MemoryWorkQueue(name, LEASE_S, store.clock)))

        self.bus = Bus(partition, partition, existing, queue, prefix="cv", partitions=1, where="memory", sync="lazy")

    async def write(self, act: Callable[[], Any]) -> Any:
        """Do what writes to the store, or die."""
        self.look()
        self.written += 1
        last = self.lives is not None and self.written >= self.lives
        if last and self.before:
            self.is_dead = True
        self.look()
        done = await act()
        if last:
            self.is_dead = True
        self.look()
        return done

    async def asks(self, job: str) -> None:
        """Before it asks whether a job is there."""
        del job
        await anyio.lowlevel.checkpoint()
        self.look()

    async def looks_for(self, subject: str) -> None:
        """Before it looks for the last record of a subject."""
        del subject
        await anyio.lowlevel.checkpoint()
        self.look()

    def look(self) -> None:
        """A process that is dead sees nothing and does nothing."""
        if self.is_dead:
            raise Crashed("this process has ended")


class Held(Process):
    """Ends no job before it may."""

    def __init__(self, store: Store, lives: int | None) -> None:
        super().__init__(store, lives)
        self.ending, self.may_end, self.ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def write(self, act: Callable[[], Any]) -> Any:
        if act.__name__ != "done":
            return await super().write(act)
        self.ending.set()
        await self.may_end.wait()
        done = await super().write(act)
        self.ended.set()
        return done


class _MortalLog(LogAround):
    def __init__(self, process: Process) -> None:
        super().__init__(process.store.log)
        self._process = process

    async def append(self, draft: Draft) -> int:
        return int(await self._process.write(lambda: self.inner.append(draft)))

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        return list(await self._process.write(lambda: self.inner.append_batch(drafts)))

    async def last(self, subject: str) -> Record | None:
        await self._process.looks_for(subject)
        return await self.inner.last(subject)

    @asynccontextmanager
    async def read(self, *subjects: str, **where: Any) -> AsyncGenerator[Any]:
        self._process.look()
        async with self.inner.read(*subjects, **where) as records:
            yield _Counted(self._process, records)


class _Counted:
    def __init__(self, process: Process, records: AsyncIterator[Record]) -> None:
        self._process = process
        self._records = records

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> Record:
        record = await anext(self._records)
        self._process.read += 1
        return record


class _MortalQueue:
    def __init__(self, process: Process, inner: WorkQueue) -> None:
        self._process = process
        self._inner = inner
        self.name = inner.name

    async def send(self, job: Job, delay_s: float = 0.0) -> None:
        await self._process.write(lambda: self._inner.send(job, delay_s))

    async def take(self) -> Lease:
        self._process.look()
        lease = await self._inner.take()
        self._process.look()
        self._process.taken[lease.job.id] += 1
        return _MortalLease(self._process, lease)

    async def waiting(self, id: str) -> Job | None:
        await self._process.asks(id)
        return await self._inner.waiting(id)

    async def wake(self, id: str) -> bool:
        return bool(await self._process.write(lambda: self._inner.wake(id)))

    async def jobs(self) -> list[Job]:
        return await self._inner.jobs()

    async def dead(self) -> list[Any]:
        return await self._inner.dead()


class _MortalLease:
    def __init__(self, process: Process, inner: Lease) -> None:
        self._process = process
        self._inner = inner
        self.job = inner.job
        self.attempt = inner.attempt
        self.lease_s = inner.lease_s

    async def extend(self) -> None:
        if not self._process.is_dead and not self._process.is_cut_off:
            await self._inner.extend()

    async def done(self) -> None:
        await self._process.write(self._inner.done)

    async def retry(self, delay_s: float = 0.0) -> None:
        await self._process.write(lambda: self._inner.retry(delay_s))

    async def release(self) -> None:
        await self._process.write(self._inner.release)

    async def park(self) -> None:
        await self._process.write(self._inner.park)

    async def bury(self, reason: str) -> None:
        await self._process.write(lambda: self._inner.bury(reason))


@asynccontextmanager
async def hosting(bus: Bus, entities: Entities, **options: Any) -> AsyncGenerator[None]:
    """A host beside the block."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            given: dict[str, Any] = {"lease_s": 1.0, "retry_s": 0.02, **options}
            await host(bus, entities, **given)

        tasks.start_soon(run)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def hosting_until_lost(process: Process, entities: Entities, **options: Any) -> AsyncGenerator[None]:
    """A host beside the block, whose process is lost behind it."""
    try:
        async with hosting(process.bus, entities, **options):
            yield
            process.is_dead = True
    except BaseException as error:
        if not only_crashed(error):
            raise


async def until(bus: Bus, name: str, holds: Callable[[EntityState], bool]) -> EntityState:
    """The first state of an entity of which something holds."""
    with anyio.fail_after(DEADLINE_S):
        async with follow(bus, name) as states:
            async for state in states:
                if holds(state):
                    return state.model_copy(deep=True)
    raise AssertionError(name)
