"""Work queues: one contract in memory and on a real server; servers that are killed; foreign streams."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from nats.aio.msg import Msg

from convive.bus import (
    BadName,
    BusUnavailable,
    DeadJob,
    Job,
    MemoryWorkQueue,
    WorkQueue,
    WrongStream,
    memory_bus,
    open_bus,
)
from convive.bus.jetstream._connect import connect
from convive.bus.testing import CHECK_LEASE_S, QUEUE_CHECKS, QueueCheck, server, take_job

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def queue_on(url: str) -> AsyncGenerator[WorkQueue]:
    async with open_bus(url) as bus:
        yield await bus.work_queue(f"q-{secrets.token_hex(6)}", lease_s=CHECK_LEASE_S)


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_a_queue_in_memory_keeps_the_contract(check: QueueCheck) -> None:
    await check(MemoryWorkQueue("default", CHECK_LEASE_S))


@pytest.mark.parametrize("check", QUEUE_CHECKS, ids=lambda check: check.__name__)
async def test_a_queue_on_a_server_keeps_the_contract(check: QueueCheck, nats_url: str) -> None:
    async with queue_on(nats_url) as queue:
        await check(queue)


async def test_every_check_is_handed_out() -> None:
    from convive.bus.checks import _queue_checks as module

    named = [one for name, one in vars(module).items() if name.startswith(("a_", "the_", "jobs_", "what_"))]
    assert set(named) == set(QUEUE_CHECKS)


async def test_two_processes_share_the_jobs_and_queues_do_not_mix(nats_url: str) -> None:
    async with open_bus(nats_url) as one, open_bus(nats_url) as two:
        names = [f"q-{secrets.token_hex(6)}" for _ in range(2)]
        ours, theirs = await one.work_queue(names[0]), await two.work_queue(names[0])
        other = await two.work_queue(names[1])
        for number in range(10):
            await ours.send(Job(f"job-{number}", b""))
            await other.send(Job(f"job-{number}", b"other"))
        taken = [await take_job(queue) for _ in range(5) for queue in (ours, theirs)]
        assert sorted(lease.job.id for lease in taken) == [f"job-{number}" for number in range(10)]
        assert {lease.job.body for lease in taken} == {b""}
        for lease in taken:
            await lease.done()


async def test_jobs_and_delays_and_buried_jobs_survive_a_server_that_is_killed() -> None:
    async with server(fast=False) as own, open_bus(own.url) as bus:
        queue = await bus.work_queue(lease_s=CHECK_LEASE_S)
        await queue.send(Job("dead", b""))
        await (await take_job(queue)).bury("no use")
        await queue.send(Job("held", b""))
        held = await take_job(queue)
        await queue.send(Job("now", b"1"))
        await queue.send(Job("later", b"2"), delay_s=1.0)
        own.kill()
        await own.start()
        found = {(lease := await take_job(queue)).job.id: lease for _ in range(3)}
        assert found.keys() == {"held", "now", "later"}
        assert held.attempt == 1
        assert found["held"].attempt in (1, 2)  # a server that is killed may forget a delivery, never a job
        for lease in found.values():
            await lease.done()
        assert [one.job.id for one in await queue.dead()] == ["dead"]


async def test_a_taker_that_waits_through_a_restart_gets_what_is_sent_afterwards() -> None:
    async with server() as own, open_bus(own.url) as bus:
        queue = await bus.work_queue()
        got: list[str] = []

        async def taking() -> None:
            lease = await take_job(queue)
            got.append(lease.job.id)
            await lease.done()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(taking)
            await anyio.wait_all_tasks_blocked()
            for _ in range(2):
                own.kill()
                await own.start()
            await queue.send(Job("job-1", b""))
        assert got == ["job-1"]


async def test_the_first_worker_of_a_queue_decides_on_its_lease(nats_url: str) -> None:
    name = f"q-{secrets.token_hex(6)}"
    async with open_bus(nats_url) as one, open_bus(nats_url) as two:
        for bus, lease_s in ((one, 5.0), (two, 50.0)):
            queue = await bus.work_queue(name, lease_s=lease_s)
            await queue.send(Job(f"job-{lease_s:g}", b""))
            lease = await take_job(queue)
            assert lease.lease_s == 5.0
            await lease.done()


async def test_taking_from_a_bus_that_is_closed_is_an_error(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        queue = await bus.work_queue()
    with pytest.raises(BusUnavailable, match="is closed"):
        await queue.take()


async def test_a_job_that_no_draft_could_carry_can_be_given_up_all_the_same(nats_url: str) -> None:
    """Anybody may write one on the wire; one that cannot be buried or released comes again for ever."""
    async with queue_on(nats_url) as queue:
        await queue.send(Job("job-0", b""))
        await (await take_job(queue)).done()
        async with await anyio.connect_tcp("127.0.0.1", int(nats_url.rpartition(":")[2])) as stranger:
            headers = b"NATS/1.0\r\nX-Own: fine\r\nX-Zero: a\0b\r\nX{: y\r\n\r\n"
            line = f"HPUB cv-queue.{queue.name}.job.job-1 {len(headers)} {len(headers) + 4}\r\n"
            await stranger.send(b'CONNECT {"headers":true,"verbose":false}\r\n' + line.encode() + headers + b"body\r\n")
            await (await take_job(queue)).release()
            lease = await take_job(queue)
        assert lease.job == Job("job-1", b"body", {"X-Own": "fine"})
        await lease.bury("no use")
        assert [one.job for one in await queue.dead()] == [lease.job]


async def test_a_job_that_is_set_aside_already_is_not_released_as_well(nats_url: str) -> None:
    """As when a worker is stopped between the copy that is set aside and the end of the job itself: there would be two,
    and one of them for good."""
    async with queue_on(nats_url) as queue:
        await queue.send(Job("job-1", b""))
        lease = await take_job(queue)
        async with await anyio.connect_tcp("127.0.0.1", int(nats_url.rpartition(":")[2])) as stranger:
            copy = f"PUB cv-queue.{queue.name}.parked.job-1 0\r\n\r\nPING\r\n"
            await stranger.send(b'CONNECT {"verbose":false}\r\n' + copy.encode())
            while b"PONG" not in await stranger.receive():
                pass
            while len(await queue.jobs()) < 2:
                await anyio.lowlevel.checkpoint()
        await lease.release()
        assert len(await queue.jobs()) == 1
        assert await queue.wake("job-1")
        await (await take_job(queue)).done()
        assert await queue.waiting("job-1") is None


async def test_a_job_with_headers_of_ours_that_say_nothing_is_taken_like_any_other(nats_url: str) -> None:
    async with queue_on(nats_url) as queue:
        for number, spent in enumerate(("9" * 5_000, "-1", "x", "")):
            await queue.send(Job(f"job-{number}", b"", {"Cv-Spent": spent}))
            lease = await take_job(queue)
            assert (lease.job.id, lease.attempt) == (f"job-{number}", 1)
            await lease.done()


async def test_a_queue_in_memory_forgets_the_ids_that_it_remembers_no_longer() -> None:
    now_s = 0.0
    queue = MemoryWorkQueue("default", CHECK_LEASE_S, lambda: now_s)
    for number in range(2_000):
        now_s = number * 6.0
        await queue.send(Job(f"job-{number}", b""))
        await queue.send(Job(f"job-{number}", b""))
        await (await queue.take()).done()
        await queue.send(Job(f"job-{max(0, number - 99)}", b"again"))
    assert len(queue._sent) < 200
    with anyio.move_on_after(0):
        raise AssertionError(await queue.take())


async def test_many_jobs_are_listed_by_few_requests() -> None:
    """2,500 dead and 200 delayed jobs, and nobody else's; what a header of a job says is a header of that job."""
    async with server() as own, open_bus(own.url) as bus, connect(own.url) as admin:
        queue, other = await bus.work_queue("many"), await bus.work_queue("other")
        await queue.send(Job("gone-first", b"0", {"Status": "404", "Name": "ü"}))
        await (await take_job(queue)).bury("no use")
        for number in range(2_500):  # as `bury` has them
            await admin.client.publish(f"cv-queue.many.dead.job-{number}", b"x" * 8_000, headers={"Cv-Reason": "lost"})
        for number in range(200):
            await queue.send(Job(f"later-{number}", b""), delay_s=600)
        await other.send(Job("later-0", b"other"))
        asked: list[str] = []

        async def note(message: Msg) -> None:
            asked.append(message.subject)

        await admin.subscribe("$JS.API.>", note)
        await admin.client.flush()
        dead = await queue.dead()
        assert [one.job.id for one in dead] == ["gone-first", *(f"job-{number}" for number in range(2_500))]
        assert dead[0] == DeadJob(Job("gone-first", b"0", {"Status": "404", "Name": "ü"}), "no use")
        assert {(one.reason, len(one.job.body)) for one in dead[1:]} == {("lost", 8_000)}
        assert sorted(job.id for job in await queue.jobs()) == sorted(f"later-{number}" for number in range(200))
        await admin.api("INFO")  # whose request comes behind the others
        assert "$JS.API.INFO" in asked
        assert len(asked) < 15, asked


async def test_jobs_are_listed_one_by_one_where_pages_are_not_to_be_had() -> None:
    """Somebody made the stream without `allow_direct`, which breaks no promise."""
    async with server() as own, open_bus(own.url) as bus, connect(own.url) as admin:
        queue = await bus.work_queue()
        made = await admin.api("STREAM.INFO.CONVIVE-QUEUE")
        await admin.api("STREAM.UPDATE.CONVIVE-QUEUE", {**made["config"], "allow_direct": False})
        for name in "abc":
            await queue.send(Job(name, name.encode()))
            await (await take_job(queue)).bury("no use")
        assert [(one.job.id, one.job.body) for one in await queue.dead()] == [("a", b"a"), ("b", b"b"), ("c", b"c")]


async def test_taking_from_a_stream_that_somebody_has_deleted_is_an_error() -> None:
    async with server() as own, open_bus(own.url, patience_s=0.5) as bus, connect(own.url) as admin:
        queue = await bus.work_queue()
        await queue.send(Job("job-1", b""))
        await (await take_job(queue)).done()
        await admin.api("STREAM.DELETE.CONVIVE-QUEUE")
        with pytest.raises(BusUnavailable, match="stream not found"):
            await take_job(queue)


@pytest.mark.parametrize("name", ["", "Two Words", "a.b", "x" * 58])
async def test_a_queue_name_that_is_no_slug_is_refused(name: str) -> None:
    async with memory_bus() as bus:
        with pytest.raises(BadName, match="is not the name of a queue"):
            await bus.work_queue(name)
    with pytest.raises(BadName, match=r"Did you mean 'two-words'\?"):
        async with memory_bus() as bus:
            await bus.work_queue("Two Words")


async def test_a_lease_that_makes_no_sense_is_refused() -> None:
    async with memory_bus() as bus:
        with pytest.raises(ValueError, match=r"a lease of 0\.0 s"):
            await bus.work_queue(lease_s=0.0)


async def test_a_stream_of_our_name_with_other_settings_is_refused() -> None:
    async with server() as own, open_bus(own.url) as bus:
        await _make_stream(own.url)
        with pytest.raises(WrongStream, match="CONVIVE-QUEUE exists with retention = limits"):
            await bus.work_queue()


async def _make_stream(url: str) -> None:
    async with connect(url) as connection:
        await connection.api("STREAM.CREATE.CONVIVE-QUEUE", {"name": "CONVIVE-QUEUE", "subjects": ["cv-queue.>"]})
