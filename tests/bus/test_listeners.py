"""Many listeners in one process: one consumer, and what it receives is held once for all of them."""

import gc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import anyio
import pytest

from convive.bus import Draft, open_bus
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.jetstream._jetstream import JetStreamLog
from convive.bus.jetstream._jetstream_reader import BULK, ROOM, BoundedReader
from convive.bus.jetstream._jetstream_tail import LiveTail, _Link
from convive.bus.testing import drafts, take

pytestmark = pytest.mark.anyio

LARGE = b"x" * 900_000


class Hall(NamedTuple):
    """A conversation that many listen to, and a connection to count with."""

    log: JetStreamLog
    subject: str
    connection: Connection
    stream: str

    async def consumers(self) -> int:
        return len((await self.connection.api(f"CONSUMER.NAMES.{self.stream}"))["consumers"] or [])


@asynccontextmanager
async def hall(url: str, name: str) -> AsyncGenerator[Hall]:
    async with open_bus(url) as bus, connect(url) as connection:
        log = (await bus.conversation(name)).log
        assert isinstance(log, JetStreamLog)
        yield Hall(log, (await bus.conversation(name)).subjects.base + ".a", connection, log._stream)


async def test_a_thousand_listeners_share_one_consumer_and_each_hears_all_in_order(nats_url: str) -> None:
    async with hall(nats_url, "hall-a") as own:
        before = await own.consumers()
        heard: list[list[int]] = []
        places: list[int] = []
        listening = 0
        all_there = anyio.Event()

        async def listen() -> None:
            nonlocal listening
            async with own.log.follow(own.subject) as tail:
                listening += 1
                if listening == 1_000:
                    all_there.set()
                heard.append([record.seq for record in await take(tail, 50)])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(1_000):
                    tasks.start_soon(listen)
                await all_there.wait()
                assert await own.consumers() == before + 1
                places += await own.log.append_all(drafts(own.subject, 50))
        assert heard == [places] * 1_000


async def test_those_who_join_at_once_share_the_question_whether_they_have_all(nats_url: str) -> None:
    async with hall(nats_url, "hall-b") as own:
        client = own.log._connection.client
        async with own.log.follow(own.subject) as first:
            sent = int(client.stats["out_msgs"])

            async def join() -> None:
                async with own.log.follow(own.subject) as tail:
                    assert await tail.catch_up() is None

            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(join)
            assert int(client.stats["out_msgs"]) - sent < 10
            assert first.caught_up


async def test_a_listener_that_is_cancelled_while_it_joins_leaves_the_others_joining(nats_url: str) -> None:
    async with hall(nats_url, "hall-c") as own:
        joined = 0

        async def join(scope: anyio.CancelScope) -> None:
            nonlocal joined
            with scope:
                async with own.log.follow(own.subject) as tail:
                    assert await tail.catch_up() is None
                    joined += 1

        with anyio.fail_after(10):
            async with own.log.follow(own.subject), anyio.create_task_group() as tasks:
                scopes = [anyio.CancelScope() for _ in range(60)]
                for scope in scopes:
                    tasks.start_soon(join, scope)
                for _ in range(3):  # the first asks, the others wait for their turn
                    await anyio.lowlevel.checkpoint()
                for scope in scopes[::2]:
                    scope.cancel()
        assert joined >= 30


async def test_what_all_have_read_is_not_held_any_more(nats_url: str) -> None:
    async with hall(nats_url, "hall-d") as own, AsyncExitStack() as stack:
        tails = [await stack.enter_async_context(own.log.follow(own.subject)) for _ in range(3)]
        await own.log.append_all(drafts(own.subject, 500))
        for tail in tails[:2]:
            await take(tail, 500)
        assert links() >= 500, "one has not read them"
        await take(tails[2], 500)
        assert links() < 10


async def test_a_listener_that_sleeps_holds_no_more_than_there_is_room_for_and_misses_nothing(nats_url: str) -> None:
    async with hall(nats_url, "hall-e") as own, AsyncExitStack() as stack:
        slow = await stack.enter_async_context(own.log.follow(own.subject))
        quick = await stack.enter_async_context(own.log.follow(own.subject))
        assert isinstance(slow, LiveTail)
        places = list[int]()
        for number in range(90):
            places.append(await own.log.append(Draft(own.subject, LARGE, id=f"{number}")))
            await take(quick, 1)
        assert 90 * len(LARGE) > ROOM * BULK, "more than there is room for"
        assert slow._link is None
        assert links() < 10
        assert not slow.caught_up
        assert [record.seq for record in await take(slow, 90)] == places
        assert slow.caught_up


async def test_a_listener_that_comes_late_reads_no_more_at_once_than_there_is_room_for(nats_url: str) -> None:
    async with hall(nats_url, "hall-g") as own, own.log.follow(own.subject) as first:
        places = await own.log.append_all([Draft(own.subject, LARGE)] * 90)
        await take(first, 90)
        async with own.log.follow(own.subject) as late:
            assert isinstance(late, LiveTail)
            assert [record.seq for record in await take(late, 1)] == places[:1]
            assert 1 < len(late._old) < 80
            assert [record.seq for record in await take(late, 89)] == places[1:]


async def test_a_reader_that_sleeps_holds_the_server_back_before_there_is_no_more_room(nats_url: str) -> None:
    async with hall(nats_url, "hall-h") as own:
        places = await own.log.append_all([Draft(own.subject, LARGE)] * 130)
        async with own.log.read(own.subject) as reader:
            assert isinstance(reader, BoundedReader)
            with anyio.fail_after(10):
                while not reader._consumer._owed:
                    await anyio.lowlevel.checkpoint()
            assert ROOM * BULK < sum(len(record.body) for record in reader._waiting) < 1.6 * ROOM * BULK
            assert [record.seq async for record in reader] == places


async def test_a_listener_that_wants_little_is_not_held_up_by_the_rest(nats_url: str) -> None:
    """It shares the consumer of one that hears everything, and sleeps through what it did not ask for."""
    async with hall(nats_url, "hall-f") as own:
        other = own.subject + "b"
        async with own.log.follow(own.subject, other) as both, own.log.follow(own.subject) as fewer:
            found: list[int] = []
            place = 0

            async def wait_for_one() -> None:
                found.extend([record.seq for record in await take(fewer, 1)])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_for_one)
                await anyio.wait_all_tasks_blocked()
                await own.log.append_all(drafts(other, 1_000))
                await take(both, 1_000)
                assert links() < 10, "what it passes over is not held for it"
                place = await own.log.append(Draft(own.subject, b"this"))
            assert found == [place]
            assert fewer.caught_up
            assert not both.caught_up


def links() -> int:
    """How many records all hubs of this process hold."""
    return sum(isinstance(each, _Link) for each in gc.get_objects())
