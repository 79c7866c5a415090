"""What is given by mistake to open a bus: taken for what it says, or refused in words."""

import os
from pathlib import Path
from typing import Any

import pytest

from convive.bus import (
    BadName,
    Bus,
    BusUnavailable,
    Chair,
    Remembered,
    RunContext,
    SeatName,
    UnknownConversation,
    embedded_server,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import take

pytestmark = pytest.mark.anyio


async def test_a_directory_is_given_as_a_text_or_as_a_path(tmp_path: Path) -> None:
    data = str(tmp_path / "store")
    async with embedded_server(data) as server, open_bus(data=data) as bus, open_bus(data=Path(data)) as same:
        assert bus.where == same.where == server.url


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": 5}, "data= takes the path of a directory, not int"),
        ({"url": Path("/store")}, r"url= takes a text .*, not (Posix|Windows)Path\. A directory is given as data="),
        ({"url": b"nats://ada:secret@127.0.0.1"}, "url= takes a text .*, not bytes"),
        ({"partitions": "16"}, "partitions='16' is no whole number"),
        ({"partitions": 16.0}, r"partitions=16\.0 is no whole number"),
    ],
)
async def test_what_is_of_another_type_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": tmp_path, **given}
    with pytest.raises(TypeError, match=message) as refused:
        async with open_bus(**options):
            pass
    assert "secret" not in str(refused.value)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - in an async test


@pytest.mark.parametrize("name", ["x\0", "\udcff"], ids=["a zero byte", "no UTF-8"])
async def test_a_directory_that_the_server_cannot_be_told_of_is_refused_in_words(name: str, tmp_path: Path) -> None:
    with pytest.raises(BusUnavailable, match=r"cannot be used: .* give another directory"):
        async with open_bus(data=tmp_path / name):
            pass
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - in an async test


async def test_a_store_has_at_least_one_partition(tmp_path: Path) -> None:
    none: Any = "4"
    with pytest.raises(ValueError, match="partitions=0"):
        async with open_bus(data=tmp_path, partitions=0):
            pass
    with pytest.raises(ValueError, match="partitions=0"):
        async with memory_bus(partitions=0):
            pass
    with pytest.raises(TypeError, match="partitions='4' is no whole number"):
        async with memory_bus(partitions=none):
            pass


async def test_a_name_that_is_no_text_is_no_name() -> None:
    number: Any = 5
    async with memory_bus() as bus:
        with pytest.raises(BadName, match="a conversation id is a text, not int"):
            await bus.conversation(number)


async def test_a_seat_that_is_named_twice_is_one(bus: Bus) -> None:
    table, run, ada = await bus.conversation(f"c-{mint_run_id()}"), RunContext.root(), SeatName("ada")
    await table.open(run, "soup", [Chair(seat=ada)])
    await table.remember(ada, [Remembered(text="figs")], run)
    world = await table.world(ada, ada)
    assert [memory.text for memory in world.private[ada].memory.held] == ["figs"]
    async with table.follow(seats=[ada, ada]) as tail:
        assert len(await take(tail, 2)) == 2


@pytest.mark.parametrize(
    ("seats", "message"),
    [
        (["Ada"], "'Ada' is not a seat name.* Did you mean 'ada'"),
        ([""], "'' is not a seat name"),
        (["ada", "bob", "ada"], "two chairs are at one seat; the seats are: ada, bob, ada"),
    ],
)
async def test_a_conversation_is_not_opened_with_seats_that_nobody_can_be_granted(
    seats: list[str], message: str
) -> None:
    async with memory_bus() as bus:
        soup = await bus.conversation("soup")
        with pytest.raises(BadName, match=message):
            await soup.open(RunContext.root(), "soup", [Chair(seat=SeatName(seat)) for seat in seats])
        with pytest.raises(UnknownConversation):
            await soup.floor()
