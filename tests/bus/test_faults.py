"""The log on JetStream while servers are killed and acknowledgements get lost."""

import contextlib

import anyio
import pytest
from nats.errors import OutboundBufferLimitError

from convive.bus import BusUnavailable, Draft, Guard, MaybeAppended, NotAppended, Record, open_bus
from convive.bus.jetstream._connect import connect
from convive.bus.jetstream._jetstream import JetStreamLog
from convive.bus.testing import Server, drafts, read_all, server, take
from tests.bus.stores import store

pytestmark = pytest.mark.anyio


class Crashes:
    """Kills the server each time that so many more records are acknowledged, and starts it again."""

    def __init__(self, own: Server, every: int, times: int) -> None:
        self._own = own
        self._every = every
        self._left = times
        self._count = 0
        self._due = anyio.Event()

    def acknowledged(self) -> None:
        self._count += 1
        if self._count % self._every == 0:
            self._due.set()

    async def run(self) -> None:
        for _ in range(self._left):
            await self._due.wait()
            self._due = anyio.Event()
            self._own.kill()
            await self._own.start()


async def test_what_was_acknowledged_is_there_once_and_every_tail_sees_it_all_across_crashes() -> None:
    writers, each = 4, 250
    acknowledged: dict[bytes, int] = {}
    seen: dict[int, list[Record]] = {}
    async with store(fast=False) as own:
        crashes = Crashes(own.server, every=200, times=3)

        async def write(name: int) -> None:
            for number in range(each):
                body = f"{name}/{number}".encode()
                acknowledged[body] = await own.log.append(Draft(f"{own.base}.w.{name}", body))
                crashes.acknowledged()

        async def listen(name: int) -> None:
            async with own.log.follow(f"{own.base}.w.*") as tail:
                with anyio.fail_after(40):
                    seen[name] = await take(tail, writers * each)

        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(crashes.run)
                for name in range(writers):
                    tasks.start_soon(write, name)
                    tasks.start_soon(listen, name)
        there = await read_all(own.log, f"{own.base}.w.*")
    assert {record.body: record.seq for record in there} == acknowledged
    assert len(there) == writers * each
    assert all(records == there for records in seen.values())
    for name in range(writers):
        mine = [record.body for record in there if record.subject.endswith(f".{name}")]
        assert mine == [f"{name}/{number}".encode() for number in range(each)]


async def test_a_chain_of_guarded_links_stays_whole_across_crashes() -> None:
    async with store() as own:
        crashes = Crashes(own.server, every=60, times=3)
        guarded = f"{own.base}.f.*"
        places = [0]

        async def write() -> None:
            for number in range(240):
                draft = Draft(f"{own.base}.f.{number % 3}", str(number).encode(), guard=Guard(guarded, places[-1]))
                places.append(await own.log.append(draft))
                crashes.acknowledged()

        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(crashes.run)
                tasks.start_soon(write)
        there = await read_all(own.log, guarded)
    assert [record.seq for record in there] == places[1:]
    assert [record.body for record in there] == [str(number).encode() for number in range(240)]


async def test_pipelined_records_are_stored_once_across_a_crash() -> None:
    async with store() as own:
        places: list[int] = []
        seen: list[Record] = []

        async def write() -> None:
            places.extend(await own.log.append_all(drafts(f"{own.base}.a", 4_000)))

        with anyio.fail_after(40):
            async with own.log.follow(f"{own.base}.a") as tail, anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                seen += await take(tail, 1_500)
                own.server.kill()
                await own.server.start()
                seen += await take(tail, 2_500)
        there = await read_all(own.log, f"{own.base}.a")
    assert there == seen
    assert sorted(places) == [record.seq for record in there]
    bodies = {record.seq: record.body for record in there}
    assert [bodies[place] for place in places] == [str(number).encode() for number in range(4_000)]


async def test_a_read_in_progress_goes_on_behind_its_last_record_after_a_crash() -> None:
    async with store() as own:
        places = await own.log.append_all([Draft(f"{own.base}.a", b"x" * 2_000) for _ in range(30_000)])
        found: list[int] = []
        with anyio.fail_after(30):
            async with own.log.read(f"{own.base}.a") as records:
                async for record in records:
                    found.append(record.seq)
                    if len(found) == 100:
                        own.server.kill()
                        await own.server.start()
        assert found == places


async def test_an_append_that_waits_for_a_server_is_stored_once_when_it_is_back() -> None:
    async with store() as own:
        await own.log.append(Draft(f"{own.base}.a", b"before"))
        own.server.kill()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(own.log.append, Draft(f"{own.base}.a", str(number).encode()))
            await anyio.wait_all_tasks_blocked()
            await own.server.start()
        bodies = [record.body for record in await read_all(own.log, f"{own.base}.a")]
        assert sorted(bodies) == [b"0", b"1", b"2", b"3", b"4", b"before"]


async def test_when_the_server_stays_away_an_append_says_that_it_does_not_know() -> None:
    async with store(patience_s=0.5) as own:
        await own.log.append(Draft(f"{own.base}.a", b"before"))
        own.server.kill()
        lost = Draft(f"{own.base}.a", b"lost?", id="lost")
        with anyio.fail_after(5), pytest.raises(MaybeAppended, match=r"Append the same record again"):
            await own.log.append(lost)
        with anyio.fail_after(5), pytest.raises(MaybeAppended):
            await own.log.append_all([lost, Draft(f"{own.base}.a", b"lost too?", id="too")])
        await own.server.start()
        place = await own.log.append(lost)
        assert await own.log.append(lost) == place
        bodies = [record.body for record in await read_all(own.log, f"{own.base}.a")]
        assert bodies.count(b"lost?") == 1
        assert bodies.count(b"lost too?") <= 1


async def test_a_record_that_was_refused_each_time_is_not_said_to_be_there_perhaps() -> None:
    async with store(patience_s=1) as own, connect(own.server.url) as admin:
        await own.log.append(Draft(f"{own.base}.a", b"before"))
        await admin.api(f"STREAM.DELETE.CONVIVE_{own.base.split('.')[1]}")
        with anyio.fail_after(10), pytest.raises(NotAppended, match="no stream takes this subject"):
            await own.log.append(Draft(f"{own.base}.a", b"after"))


async def test_when_the_server_stays_away_reading_says_so_and_following_goes_on_afterwards() -> None:
    async with store(patience_s=0.5) as own, own.log.follow(f"{own.base}.a") as tail:
        await own.log.append(Draft(f"{own.base}.a", b"1"))
        await take(tail, 1)
        own.server.kill()
        assert await tail.next(0.05) is None
        with anyio.fail_after(10), pytest.raises(BusUnavailable, match="gave no answer"):
            await read_all(own.log, f"{own.base}.a")
        await own.server.start()
        await own.log.append(Draft(f"{own.base}.a", b"2"))
        assert [record.body for record in await take(tail, 1)] == [b"2"]


async def test_a_reader_that_leaves_while_nothing_more_can_be_sent_leaves_no_subscription() -> None:
    """What is to be sent while the server is away is bounded; a subscription that stays would keep its consumer."""
    async with store(patience_s=1) as own:
        assert isinstance(own.log, JetStreamLog)
        client = own.log._connection.client
        await own.log.append_all(drafts(f"{own.base}.a", 3))
        before = len(client._subs)
        async with own.log.read(f"{own.base}.a") as records:
            await anext(records)
            own.server.kill()
            with anyio.fail_after(10):
                while client.is_connected:
                    await anyio.lowlevel.checkpoint()
            for size in (1_000_000, 1_000, 0):
                with contextlib.suppress(OutboundBufferLimitError):
                    while True:
                        await client.publish(f"{own.base}.b", bytes(size))
        assert len(client._subs) == before


async def test_a_tail_that_is_behind_gives_up_in_time_although_the_server_is_away() -> None:
    """A supervisor waits for a deadline by its tail."""
    async with store() as own, own.log.follow(f"{own.base}.a") as tail:
        places = await own.log.append_all(drafts(f"{own.base}.a", 20))
        await take(tail, 20)
        async with own.log.follow(f"{own.base}.a") as late:
            own.server.kill()
            with anyio.fail_after(5):
                assert await late.next(0.05) is None
            await own.server.start()
            assert [record.seq for record in await take(late, 20)] == places


async def test_leaving_a_bus_whose_server_is_gone_does_not_take_long() -> None:
    with anyio.fail_after(8):
        async with server() as own, open_bus(own.url) as bus:
            conversation = await bus.conversation("table")
            async with conversation.follow(), conversation.read():
                own.kill()
                for number in range(3):  # something that still waits to be sent
                    with anyio.move_on_after(0.02):
                        await conversation.log.append(Draft(f"{conversation.subjects.base}.a", str(number).encode()))
