"""A bus that is gone for good says so, in one kind of error and with the server's own words where it has some."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from convive.bus import BusUnavailable, Draft, Log, MaybeAppended, Record, open_bus
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.log._tasks import background_tasks
from convive.bus.testing import Server, drafts, read_all, server, take

pytestmark = pytest.mark.anyio


class Store(NamedTuple):
    server: Server
    admin: Connection
    log: Log
    base: str
    stream: str

    async def append_much(self) -> list[int]:
        """More than a reader takes at once, written with more patience than what is tested has."""
        async with open_bus(self.server.url) as bus:
            log = (await bus.conversation("table")).log
            return await log.append_all([Draft(f"{self.base}.a", b"x" * 2_000) for _ in range(30_000)])


@asynccontextmanager
async def store() -> AsyncGenerator[Store]:
    async with server() as own, connect(own.url) as admin, open_bus(own.url, patience_s=0.5) as bus:
        conversation = await bus.conversation("table")
        base = conversation.subjects.base
        yield Store(own, admin, conversation.log, base, f"CONVIVE_{base.split('.')[1]}")


async def exhaust(records: AsyncIterator[Record]) -> None:
    async for _ in records:
        pass


async def follow_on(log: Log, subject: str) -> None:
    async with log.follow(subject) as tail:
        await tail.next()


async def test_a_read_in_progress_says_so_when_the_server_stays_away() -> None:
    async with store() as own:
        await own.append_much()
        with anyio.fail_after(10):
            async with own.log.read(f"{own.base}.a") as records:
                await anext(records)
                own.server.kill()
                with pytest.raises(BusUnavailable, match="gave no answer"):
                    await exhaust(records)


async def test_a_read_in_progress_says_so_when_its_stream_is_deleted() -> None:
    async with store() as own:
        await own.append_much()
        with anyio.fail_after(10):
            async with own.log.read(f"{own.base}.a") as records:
                await anext(records)
                await own.admin.api(f"STREAM.DELETE.{own.stream}")
                with pytest.raises(BusUnavailable, match="stream not found"):
                    await exhaust(records)


async def test_a_stream_that_is_deleted_ends_what_is_live_and_refuses_what_begins() -> None:
    async with store() as own, own.log.follow(f"{own.base}.a") as tail:
        await own.admin.api(f"STREAM.DELETE.{own.stream}")
        with anyio.fail_after(10):
            for ask in (tail.next, tail.catch_up):
                with pytest.raises(BusUnavailable, match="stream not found"):
                    await ask()
            with pytest.raises(BusUnavailable, match="stream not found"):
                await follow_on(own.log, f"{own.base}.a")
            with pytest.raises(BusUnavailable, match="stream not found"):
                await read_all(own.log, f"{own.base}.a")


async def test_a_tail_that_begins_after_another_has_failed_is_not_bound_to_its_failure() -> None:
    async with store() as own, own.log.follow(f"{own.base}.a") as failed:
        config = (await own.admin.api(f"STREAM.INFO.{own.stream}"))["config"]
        await own.admin.api(f"STREAM.DELETE.{own.stream}")
        with anyio.fail_after(10):
            with pytest.raises(BusUnavailable):
                await failed.next()
            await own.admin.api(f"STREAM.CREATE.{own.stream}", config)
            async with own.log.follow(f"{own.base}.a") as tail:
                place = await own.log.append(Draft(f"{own.base}.a", b"1"))
                assert [record.seq for record in await take(tail, 1)] == [place]


async def test_a_tail_that_reads_what_came_before_waits_for_a_server_that_is_away() -> None:
    async with store() as own, own.log.follow(f"{own.base}.a") as first:
        places = await own.log.append_all(drafts(f"{own.base}.a", 5))
        await take(first, 5)
        async with own.log.follow(f"{own.base}.a") as second:
            own.server.kill()
            with anyio.fail_after(20):
                assert await second.next(0.01) is None
                await own.server.start()
                assert [record.seq for record in await take(second, 5)] == places
                assert await second.catch_up() is None


class Meddler:
    """Stands between a client and a server, and can complain to the client in the server's name."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._clients: list[SocketStream] = []

    async def complain(self) -> None:
        for client in self._clients:
            await client.send(b"-ERR 'something new'\r\n")

    async def line(self, client: SocketStream) -> None:
        self._clients.append(client)
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self._upstream) as upstream,
            anyio.create_task_group() as both,
        ):
            both.start_soon(self._pump, upstream, client)
            await self._pump(client, upstream)
            both.cancel_scope.cancel()

    async def _pump(self, source: SocketStream, sink: SocketStream) -> None:
        try:
            async for chunk in source:
                await sink.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


@asynccontextmanager
async def meddled() -> AsyncGenerator[tuple[str, Meddler]]:
    async with (
        server() as own,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        background_tasks() as tasks,
    ):
        meddler = Meddler(int(own.url.rpartition(":")[2]))
        tasks.start_soon(listener.serve, meddler.line)
        yield f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}", meddler  # noqa: S610 - not Django


async def test_a_connection_that_is_closed_for_good_is_an_unavailable_bus_and_nothing_else() -> None:
    """nats-py does not reconnect after most of what a server may complain of."""
    async with meddled() as (url, meddler), open_bus(url) as bus:
        conversation = await bus.conversation("table")
        base, log = conversation.subjects.base, conversation.log
        await log.append(Draft(f"{base}.a", b"1"))
        with anyio.fail_after(10):
            async with log.follow(f"{base}.a") as tail, log.follow(f"{base}.a", f"{base}.b") as other:
                await take(tail, 1)
                await take(other, 1)
                await meddler.complain()
                for ask in (tail.next, other.next, other.catch_up):
                    with pytest.raises(BusUnavailable, match=r"is closed .*something new.* open the bus again"):
                        await ask()
                with pytest.raises(BusUnavailable, match="something new"):
                    await log.append(Draft(f"{base}.a", b"2"))
                with pytest.raises(BusUnavailable, match="something new"):
                    await read_all(log, f"{base}.a")
                with pytest.raises(BusUnavailable, match="something new"):
                    await follow_on(log, f"{base}.c")


async def meddle_and_raise() -> None:
    async with meddled() as (url, meddler), open_bus(url) as bus:
        conversation = await bus.conversation("table")
        async with conversation.follow() as tail:
            await meddler.complain()
            with pytest.raises(BusUnavailable):
                await tail.next()
            raise LookupError("mine")


async def test_what_the_block_raises_when_the_connection_is_closed_for_good_comes_out_as_it_is() -> None:
    with anyio.fail_after(10), pytest.raises(LookupError, match="mine"):
        await meddle_and_raise()


async def test_an_append_under_way_when_its_bus_is_left_is_given_up_and_later_ones_are_refused() -> None:
    outcomes: list[str] = []

    async def append(log: Log, subject: str) -> None:
        try:
            await log.append(Draft(subject, b"x"))
        except (MaybeAppended, BusUnavailable) as error:
            outcomes.append(type(error).__name__)

    with anyio.fail_after(20):
        async with server() as own, anyio.create_task_group() as tasks:
            async with open_bus(own.url) as bus:
                conversation = await bus.conversation("table")
                subject = f"{conversation.subjects.base}.a"
                own.kill()
                tasks.start_soon(append, conversation.log, subject)
                await anyio.wait_all_tasks_blocked()
            await append(conversation.log, subject)
    assert sorted(outcomes) == ["BusUnavailable", "MaybeAppended"]
