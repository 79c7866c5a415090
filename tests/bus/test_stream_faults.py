"""Streams while servers are killed, disks are full and readers are slow."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from convive.bus import MaybeAppended, NotAppended, Producer, ProducerReplaced, Stream, StreamRecord, Ticket, open_bus
from convive.bus.server._data_dir import CONFIG, write
from convive.bus.testing import Server, server

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stream_on(own: Server) -> AsyncGenerator[Stream]:
    async with open_bus(own.url, patience_s=20) as bus:
        yield await bus.stream("table")


async def everything(stream: Stream) -> list[StreamRecord]:
    async with stream.read() as records:
        return [record async for record in records]


@pytest.mark.parametrize("fast", [True, False])
async def test_a_producer_stores_every_record_once_in_order_while_the_server_is_killed(fast: bool) -> None:
    count = 12_000
    async with server(fast=fast) as own, stream_on(own) as stream:
        with anyio.fail_after(60):
            async with stream.follow() as tail, stream.producer("lines", max_records=3_000) as producer:
                tickets: list[Ticket] = []
                for number in range(count):
                    tickets.append(await producer.submit(number))
                    if number % 3_100 == 3_000:  # something is under way
                        own.kill()
                        await own.start()
                await producer.flush()
                found = await everything(stream)
                assert [(await anext(tail)).json() for _ in range(count)] == list(range(count))
            assert [record.json() for record in found] == list(range(count))
            assert [record.position for record in found] == [await ticket.position() for ticket in tickets]
            async with stream.producer("lines") as again:
                assert again.resumed_at == count


async def test_batches_that_the_server_was_killed_over_are_whole_or_not_there() -> None:
    """Killed at any moment, the server finishes a batch that it has begun to store when it is started again."""
    lines = list(range(30_000))
    async with server(fast=False) as own:
        kills = 0

        async def produce() -> bool:
            async with stream_on(own) as stream, stream.producer("lines") as producer:
                assert [record.json() for record in await everything(stream)] == lines[: producer.resumed_at]
                for line in lines[producer.resumed_at :]:
                    await producer.submit(line)
            return True

        async def kill(stop: anyio.CancelScope) -> None:
            nonlocal kills
            async with stream_on(own) as stream, stream.follow(after=await stream.tail()) as tail:
                await anext(tail)  # the next batch is being written now, or just was
            own.kill()
            kills += 1
            stop.cancel()

        with anyio.fail_after(90):
            for _ in range(6):
                with anyio.CancelScope() as stop:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(kill, stop)
                        await produce()
                await own.start()
            await produce()
            async with stream_on(own) as stream:
                assert [record.json() for record in await everything(stream)] == lines
        assert kills == 6


async def test_a_follower_that_reads_one_at_a_time_under_a_fast_writer_and_a_killed_server_misses_nothing() -> None:
    count = 20_000  # more than a reader holds in memory
    async with server() as own, stream_on(own) as stream:

        async def write() -> None:
            async with stream.producer() as producer:
                for number in range(count):
                    await producer.submit(number)

        found: list[int] = []
        with anyio.fail_after(60):
            async with stream.follow() as tail, anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                while len(found) < count:
                    found.append((await anext(tail)).json())
                    if len(found) % 100 == 0:
                        await anyio.lowlevel.checkpoint()
                    if len(found) in (1_000, 15_000):
                        own.kill()
                        await own.start()
                assert tail.caught_up
                assert tail.position == await stream.tail()
        assert found == list(range(count))


@asynccontextmanager
async def small_server(own: Server, data: Path) -> AsyncGenerator[Stream]:
    """The same server, started anew with room for 4 MB."""
    own.kill()
    config = (data / CONFIG).read_text().replace("jetstream {", "jetstream {\n  max_file_store: 4MB")
    write(data, CONFIG, config)
    await own.start()
    async with stream_on(own) as stream:
        yield stream


async def test_a_full_disk_is_said_to_be_one_and_trimming_makes_room() -> None:
    async with server() as own, small_server(own, own._data) as stream:
        body = "x" * 100_000
        places: list[int] = []

        async def fill() -> None:
            while True:
                places.append(await stream.append(body))

        async def produce() -> None:
            async with stream.producer("lines") as producer:
                await producer.submit(body)

        with anyio.fail_after(30):
            for refused in (fill, produce):
                with pytest.raises(NotAppended, match="is full") as error:
                    await refused()
                assert type(error.value) is NotAppended
            with pytest.raises(NotAppended, match="is full"):
                await stream.append_all([1, 2, 3])
            assert [record.position for record in await everything(stream)] == places
            assert await stream.trim(places[-2]) == len(places) - 1
            assert await stream.trimmed() == places[-2]
            place = await stream.append("after", expected=places[-1])
            await produce()
            assert [record.position for record in await everything(stream)][:2] == [places[-1], place]


async def test_a_producer_that_was_away_while_another_took_over_stores_nothing_behind_its_back() -> None:
    async with server() as own, stream_on(own) as here, stream_on(own) as there:
        producers: list[Producer] = []

        async def produce() -> None:
            async with here.producer("lines") as older:
                producers.append(older)
                await older.submit(0)
                await older.flush()
                own.kill()
                await older.submit("lost")  # on its way to nobody
                await anyio.wait_all_tasks_blocked()
                await own.start()
                async with there.producer("lines") as newer:
                    for number in range(newer.resumed_at, 3):
                        await newer.submit(number)
                await older.submit("lost as well")
                await older.flush()

        expected: list[list[object]]
        with anyio.fail_after(30):
            try:
                await produce()
            except ProducerReplaced:  # of the last record at least; what it counts as stored is
                expected = [[0, 1, 2] if producers[0].stored == 1 else [0, "lost", 2]]
            except MaybeAppended:
                expected = [[0, 1, 2], [0, "lost", 2]]
            else:
                expected = [[0, "lost", 2, "lost as well"]]
        assert [record.json() for record in await everything(here)] in expected
