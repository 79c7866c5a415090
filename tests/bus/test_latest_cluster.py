"""The last record of each subject, of more subjects than are held, on three nodes that lag now and then."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.bus import Bus, Draft, Record, mint_run_id, open_bus
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.jetstream._jetstream_own import last_record
from convive.bus.jetstream._jetstream_reader import ROOM, EachOnce, FreshReader

if TYPE_CHECKING:
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio


def fresh(connection: Connection, base: str) -> FreshReader:
    stream, subject = f"CONVIVE_{base.split('.')[1]}", f"{base}.stream.*"

    async def newest() -> int:
        last = await last_record(connection, stream, subject)
        return 0 if last is None else last.seq

    return FreshReader(connection, stream, (subject,), newest)


async def read(reader: FreshReader) -> list[Record]:
    try:
        await reader.open()
        return [record async for record in reader]
    finally:
        await reader.close()


async def test_whichever_node_delivers_no_record_is_an_older_one(buses: list[Bus], cluster: "Cluster") -> None:
    """Large records, so that a node is behind for a moment: without choosing one, some of a hundred reads are wrong."""
    conversation = await buses[0].conversation(f"race-{mint_run_id()}")
    base = conversation.subjects.base
    other = await conversation.log.append(Draft(f"{base}.stream.b", b"x"))
    async with connect(cluster.url) as connection:
        for _ in range(100):
            *_, newest = await conversation.log.append_all([Draft(f"{base}.stream.a", bytes(500_000))] * 4)
            assert [record.seq for record in await read(fresh(connection, base))] == [other, newest]


async def test_the_last_records_of_very_many_subjects_are_handed_out_while_they_come(buses: list[Bus]) -> None:
    conversation = await buses[0].conversation(f"race-{mint_run_id()}")
    base, count = conversation.subjects.base, ROOM + 1_000
    batch = [Draft(f"{base}.stream.{number}", b"x") for number in range(count)]
    await conversation.log.append_all(batch)
    places = await conversation.log.append_all(batch)
    for bus in buses:
        log = (await bus.conversation(conversation.id)).log
        async with log.latest(f"{base}.stream.*") as records:
            assert [record.seq async for record in records] == places


async def test_a_connection_that_breaks_meanwhile_costs_no_record_and_doubles_none(cluster: "Cluster") -> None:
    async with open_bus(cluster.url, replicas=3) as bus, connect(cluster.url) as connection:
        conversation = await bus.conversation(f"race-{mint_run_id()}")
        base = conversation.subjects.base
        drafted = [Draft(f"{base}.stream.{number}", bytes(20_000)) for number in range(2_000)]
        places = await conversation.log.append_all(drafted)
        reader = fresh(connection, base)
        try:
            await reader.open()
            found = [(await anext(reader)).seq for _ in range(10)]
            transport: Any = connection.client._transport
            transport.close()
            found += [record.seq async for record in reader]
        finally:
            await reader.close()
        assert found == places


async def test_more_records_than_are_held_are_read_anew_from_a_server_that_does_not_lag() -> None:
    async def lagging() -> AsyncGenerator[Record]:
        for seq in range(1, ROOM + 100):
            yield Record(f"s.{seq}", seq, 0.0, {}, b"")

    async def current() -> AsyncGenerator[Record]:
        yield Record("s.1", 99_999, 0.0, {}, b"")

    async def begin() -> AsyncGenerator[Record]:
        await anyio.lowlevel.checkpoint()
        return current()

    assert [record.seq async for record in EachOnce(lagging(), begin)] == [99_999]
