"""Which bus is opened: an explicit URL or directory, else `CONVIVE_NATS_URL`, else the embedded server."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from convive.bus import (
    URL_VARIABLE,
    Bus,
    BusUnavailable,
    Chair,
    Log,
    MemoryLog,
    MemoryWorkQueue,
    RunContext,
    SeatName,
    UnknownConversation,
    WorkQueue,
    memory_bus,
    open_bus,
)
from convive.bus.log._log_around import LogAround

pytestmark = pytest.mark.anyio

NOBODY = {URL_VARIABLE: "nats://127.0.0.1:1"}


async def test_the_environment_names_the_server_when_nothing_else_does(nats_url: str) -> None:
    async with open_bus(environ={URL_VARIABLE: nats_url}) as bus:
        assert bus.where == nats_url
    with pytest.raises(BusUnavailable, match=r"no NATS server at nats://127\.0\.0\.1:1 .*CONVIVE_NATS_URL"):
        async with open_bus(environ=NOBODY):
            pass


async def test_an_explicit_url_wins_over_the_environment_and_over_a_directory(nats_url: str, tmp_path: Path) -> None:
    async with open_bus(nats_url, environ=NOBODY) as bus:
        assert bus.where == nats_url
    store = tmp_path / "store"
    async with open_bus(nats_url, data=store, environ=NOBODY) as bus:
        assert bus.where == nats_url
    assert not store.exists()


async def test_an_explicit_directory_wins_over_the_environment(nats_url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for environ in (NOBODY, {URL_VARIABLE: nats_url}):
        async with open_bus(data=store, environ=environ) as bus:
            assert bus.where not in (nats_url, *NOBODY.values())
            assert bus.sync == "always"
    assert (store / "jetstream").is_dir()


async def test_listing_what_is_there_goes_on_while_others_open_more() -> None:
    """A bus opens its partitions one by one, as somebody needs them."""
    logs: dict[int, Log] = {}

    class Growing(LogAround):
        async def subjects(self, pattern: str) -> dict[str, int]:
            await partition(len(logs))
            return await super().subjects(pattern)

    async def partition(number: int) -> Log:
        return logs.setdefault(number, Growing(MemoryLog()))

    async def existing() -> Mapping[int, Log]:
        return logs

    async def queue(name: str, lease_s: float) -> WorkQueue:
        return MemoryWorkQueue(name, lease_s)

    bus = Bus(partition, partition, existing, queue, prefix="cv", partitions=16, where="memory")
    await (await bus.stream("orders")).append({"item": "figs"})
    assert await bus.streams() == {"orders": 1}
    assert len(logs) > 1


async def test_a_bus_around_another_has_its_own_logs_around_those_of_the_other() -> None:
    put: list[LogAround] = []

    def around(log: Log) -> Log:
        put.append(LogAround(log))
        return put[-1]

    async with memory_bus() as bus:
        other = bus.around(around)
        orders = await other.stream("orders")
        await orders.append({"item": "figs"})
        assert len(put) == 1
        assert await bus.streams() == await other.streams() == {"orders": 1}
        assert [*await bus.partitions()] == [*await other.partitions()]
        with pytest.raises(UnknownConversation):
            await other.existing("tonight")
        await (await bus.conversation("tonight")).open(RunContext.root(), "figs", [Chair(seat=SeatName("ada"))])
        assert (await other.existing("tonight")).log in put
        assert [*await other.conversations()] == ["tonight"]
        assert await other.work_queue() is await bus.work_queue()
