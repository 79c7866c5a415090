"""What every `WorkQueue` promises, as checks that run on any of them. `convive.bus.testing` hands them out.

A check takes a fresh queue whose lease is `CHECK_LEASE_S`, and raises AssertionError, or TimeoutError where a broken
promise shows as a wait without end.
"""
# ruff: noqa: S101 - a check asserts

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from convive.bus.log._errors import BadName, ConviveError, NotAppended
from convive.bus.log._queue import Job, Lease, WorkQueue

QueueCheck = Callable[[WorkQueue], Awaitable[None]]

CHECK_LEASE_S = 1.0
PATIENCE_S = 20.0
"""Nothing here takes nearly as long, unless it hangs."""


async def take_job(queue: WorkQueue) -> Lease:
    """The next job of a queue, within what a check has time for."""
    with anyio.fail_after(PATIENCE_S):
        return await queue.take()


async def nothing_comes(queue: WorkQueue, within_s: float) -> None:
    """Assert that the queue has no job to give for so long."""
    with anyio.move_on_after(within_s):
        lease = await queue.take()
        raise AssertionError(f"{lease.job} came in attempt {lease.attempt}")


@asynccontextmanager
async def refused(error: type[ConviveError]) -> AsyncGenerator[None]:
    try:
        yield
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")


async def a_job_comes_as_it_was_sent(queue: WorkQueue) -> None:
    sent = Job("job-1", b"\x00body\xff", {"Cv-Run": "x", "Name": "ä"})
    await queue.send(sent)
    lease = await take_job(queue)
    assert (lease.job, lease.attempt, lease.lease_s) == (sent, 1, CHECK_LEASE_S)
    await lease.done()
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)
    assert await queue.waiting("job-1") is None


async def a_taker_that_waits_gets_a_job_that_is_sent_later(queue: WorkQueue) -> None:
    async with anyio.create_task_group() as tasks:

        async def taking() -> None:
            await (await take_job(queue)).done()

        tasks.start_soon(taking)
        await anyio.wait_all_tasks_blocked()
        await queue.send(Job("job-1", b""))


async def jobs_come_in_the_order_of_sending_each_to_one_taker(queue: WorkQueue) -> None:
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        await queue.send(Job(name, b""))
    taken = [await take_job(queue) for _ in names]
    assert [lease.job.id for lease in taken] == names
    for lease in taken:
        await lease.done()


async def the_same_id_twice_is_one_job(queue: WorkQueue) -> None:
    """While it waits, while it is being worked on, and just after it was done."""
    for body in (b"first", b"second"):
        await queue.send(Job("job-1", body))
    lease = await take_job(queue)
    await queue.send(Job("job-1", b"third"))
    assert lease.job.body == b"first"
    await lease.done()
    await queue.send(Job("job-1", b"fourth"))
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def a_job_with_a_delay_comes_after_it(queue: WorkQueue) -> None:
    began = anyio.current_time()
    await queue.send(Job("later", b"", {"Name": "value"}), delay_s=0.5)
    await queue.send(Job("later", b"again"), delay_s=0.1)
    await queue.send(Job("now", b""))
    found = await queue.waiting("later")
    assert found == Job("later", b"", {"Name": "value"})
    first, second = await take_job(queue), await take_job(queue)
    assert (first.job.id, second.job) == ("now", found)
    assert anyio.current_time() - began >= 0.4  # two clocks may be asked
    for lease in (first, second):
        await lease.done()


async def a_lease_that_runs_out_is_given_to_another(queue: WorkQueue) -> None:
    await queue.send(Job("job-1", b""))
    assert (await take_job(queue)).attempt == 1
    again = await take_job(queue)
    assert again.attempt == 2
    await again.done()
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def a_late_end_leaves_a_job_to_who_has_it_now(queue: WorkQueue) -> None:
    """And when that one is lost, the job comes again."""
    jobs = [Job(f"job-{number}", b"body", {"Name": "value"}) for number in range(5)]
    for job in jobs:
        await queue.send(job)
    late = {lease.job.id: lease for lease in [await take_job(queue) for _ in jobs]}
    assert {(await take_job(queue)).attempt for _ in jobs} == {2}
    await late["job-0"].done()
    await late["job-1"].retry()
    await late["job-2"].release()
    await late["job-3"].park()
    await late["job-4"].bury("too late")
    assert [await queue.waiting(job.id) for job in jobs] == jobs
    assert not await queue.wake("job-3")
    again = [await take_job(queue) for _ in jobs]
    assert sorted((lease.job.id, lease.attempt) for lease in again) == [(job.id, 3) for job in jobs]
    for lease in again:
        assert lease.job in jobs
        await lease.done()
    assert await queue.dead() == []
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def a_lease_that_is_extended_is_kept(queue: WorkQueue) -> None:
    await queue.send(Job("job-1", b""))
    lease = await take_job(queue)
    for _ in range(6):
        await nothing_comes(queue, CHECK_LEASE_S / 3)
        await lease.extend()
    await lease.done()


async def a_job_that_is_retried_comes_again_after_its_delay(queue: WorkQueue) -> None:
    await queue.send(Job("job-1", b""))
    await (await take_job(queue)).retry()
    lease = await take_job(queue)
    began = anyio.current_time()
    await lease.retry(0.5)
    lease = await take_job(queue)
    assert lease.attempt == 3
    assert anyio.current_time() - began >= 0.4
    await lease.done()


async def a_job_that_is_released_comes_again_as_if_it_had_not(queue: WorkQueue) -> None:
    job = Job("job-1", b"body", {"Name": "value"})
    await queue.send(job)
    await (await take_job(queue)).retry()
    for _ in range(3):
        lease = await take_job(queue)
        assert (lease.job, lease.attempt) == (job, 2)
        await lease.release()
        await lease.release()  # as a worker does that is cancelled meanwhile
    lease = await take_job(queue)
    assert (lease.job, lease.attempt) == (job, 2)
    await lease.done()
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def a_job_that_is_buried_is_kept_with_the_reason_and_not_delivered(queue: WorkQueue) -> None:
    for name in ("job-1", "job-2"):
        await queue.send(Job(name, b"body", {"Name": name}))
        await (await take_job(queue)).bury(f"no use\nin {name}")
    dead = await queue.dead()
    assert [(one.job, one.reason) for one in dead] == [
        (Job(name, b"body", {"Name": name}), f"no use in {name}") for name in ("job-1", "job-2")
    ]
    assert await queue.waiting("job-1") == dead[0].job
    await queue.send(Job("job-1", b"again"))
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def a_job_of_any_size_is_refused_at_once_or_can_be_delayed_released_and_buried(queue: WorkQueue) -> None:
    """What a log adds to a job may be too much for what its records may hold."""
    sent = 0
    for less in range(3_000, -1, -100):
        try:
            await queue.send(Job(f"{'x' * 120}-{less}", bytes(1_048_576 - less)), delay_s=0.01)
        except NotAppended:
            continue
        sent += 1
        await (await take_job(queue)).release()
        await (await take_job(queue)).bury("\N{PARTY POPPER}" * 600)
    assert len(await queue.dead()) == sent > 0


async def a_job_that_is_parked_comes_again_when_it_is_woken(queue: WorkQueue) -> None:
    job, late = Job("job-1", b"body", {"Name": "value"}), list[Lease]()
    for _ in range(2):  # also when it was sent within the time that an id is remembered
        await queue.send(job)
        late.append(await take_job(queue))
        await late[-1].park()
        await queue.send(Job("job-1", b"again"))
        await nothing_comes(queue, CHECK_LEASE_S * 1.5)
        assert await queue.waiting("job-1") == job
        assert await queue.wake("job-1")
    assert not await queue.wake("job-1")
    lease = await take_job(queue)
    assert (lease.job, lease.attempt) == (job, 1)
    await late[0].done()  # who parked it has no say any more
    await late[1].park()
    assert not await queue.wake("job-1")
    assert await queue.waiting("job-1") == job
    await lease.done()
    assert not await queue.wake("job-1")
    assert not await queue.wake("unknown")
    with anyio.fail_after(5):  # on replicas a settled job is there until each of them has heard of it
        while await queue.waiting("job-1") is not None:
            await anyio.lowlevel.checkpoint()
    assert await queue.dead() == []


async def the_jobs_that_are_there_can_be_listed(queue: WorkQueue) -> None:
    assert await queue.jobs() == []
    sent = [Job(name, name.encode(), {"Name": name}) for name in ("held", "parked", "dead", "now", "later")]
    for job in sent[:3]:
        await queue.send(job)
    held = await take_job(queue)
    await (await take_job(queue)).park()
    await (await take_job(queue)).bury("no use")
    await queue.send(sent[3])
    await queue.send(sent[4], delay_s=60)
    there = [job for job in sent if job.id != "dead"]
    assert sorted(await queue.jobs(), key=sent.index) == there
    await held.done()
    with anyio.fail_after(5):  # as above
        while sorted(await queue.jobs(), key=sent.index) != there[1:]:
            await anyio.lowlevel.checkpoint()


async def a_cancelled_take_loses_nothing(queue: WorkQueue) -> None:
    count = 30
    taken: set[str] = set()

    async def take_briefly(patience_s: float) -> None:
        with anyio.move_on_after(patience_s):
            while True:
                lease = await queue.take()
                assert lease.attempt == 1
                taken.add(lease.job.id)
                with anyio.CancelScope(shield=True):
                    await lease.done()

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(take_briefly, 0.002 * number)
            await queue.send(Job(f"job-{number}", b""))
    while len(taken) < count:
        lease = await take_job(queue)
        taken.add(lease.job.id)
        await lease.done()
    await nothing_comes(queue, CHECK_LEASE_S * 1.5)


async def what_is_no_job_is_refused(queue: WorkQueue) -> None:
    for name in ("", "a.b", "a b", "*", "-a", "x" * 129):
        async with refused(BadName):
            await queue.send(Job(name, b""))
    for delay_s in (-1.0, float("nan"), float("inf")):
        async with refused(NotAppended):
            await queue.send(Job("job-1", b""), delay_s=delay_s)
    async with refused(NotAppended):
        await queue.send(Job("job-1", b"", {"Nats-Rollup": "all"}))
    async with refused(NotAppended):
        await queue.send(Job("job-1", bytes(1_048_577)))
    assert await queue.waiting("job-1") is None
