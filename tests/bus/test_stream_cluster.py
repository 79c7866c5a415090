"""Streams on three nodes: conditions that hold against writers on other servers, and producers over a killed leader."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.bus import Bus, Conflict, Fenced, Stream, mint_run_id
from convive.bus.jetstream._connect import connect
from convive.bus.testing import read_all

if TYPE_CHECKING:
    from tests.bus.conftest import Ready
    from tests.conftest import Cluster
from tests.bus.streams import fight_for_one_id, values

pytestmark = pytest.mark.anyio


async def streams(buses: list[Bus]) -> list[Stream]:
    """The same new stream through each node."""
    name = f"s-{mint_run_id()}"
    return [await bus.stream(name) for bus in buses]


async def test_what_was_expected_is_what_stands_before_the_record_whoever_else_writes(buses: list[Bus]) -> None:
    """Guards with a wildcard do not keep this promise on replicas: a fifth of them let a record in between."""
    three = await streams(buses)
    won: list[tuple[int, int]] = []
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:

            async def noise(stream: Stream) -> None:
                while len(won) < 60:
                    await stream.append("noise")
                    async with stream.producer() as producer:
                        await producer.submit("more")

            async def rival(stream: Stream, batch: bool) -> None:
                while len(won) < 60:
                    last = await stream.tail()
                    try:
                        if batch:
                            place, _ = await stream.append_all(["guarded"] * 2, expected=last)
                        else:
                            place = await stream.append("guarded", expected=last)
                    except Conflict:
                        continue
                    won.append((last, place))

            tasks.start_soon(noise, three[0])
            for number in range(6):
                tasks.start_soon(rival, three[number % 3], number < 3)
    before: dict[int, int] = {}
    last = 0
    for record in await read_all(three[1].log, three[1].subject):
        before[record.seq] = last
        last = record.seq
    assert [before[place] for _, place in won] == [expected for expected, _ in won]


async def test_no_record_is_stored_under_a_token_that_does_not_count_any_more(buses: list[Bus]) -> None:
    three = await streams(buses)
    taken: dict[str, int] = {}
    written = 0

    async def hold(number: int) -> None:
        nonlocal written
        mine = three[number % 3]
        for turn in range(8):
            token = f"{number}-{turn}"
            taken[token] = await mine.fence(token)
            try:
                for step in range(12):
                    if step % 3 == 2:
                        await mine.append_all([token] * 2, token=token)
                    elif step % 3 == 1:
                        await mine.append(token, token=token, expected=await mine.tail())
                    else:
                        await mine.append(token, token=token)
                    written += 1
            except (Fenced, Conflict):
                continue

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(hold, number)
    order = sorted(taken.items(), key=lambda item: item[1])
    ends = {token: after for (token, _), (_, after) in zip(order, [*order[1:], ("", 2**63)], strict=True)}
    async with three[0].read() as records:
        found = [(str(record.json()), record.position) async for record in records]
    assert [one for one in found if not taken[one[0]] < one[1] < ends[one[0]]] == []
    assert written > 20


async def test_producers_that_fight_for_an_id_on_three_servers_store_every_record_once(buses: list[Bus]) -> None:
    three = await streams(buses)
    lines = list(range(4_000))
    await fight_for_one_id(three, lines, 700, 90)
    assert await values(three[2]) == lines


async def test_a_producer_goes_on_when_the_leader_of_its_stream_is_killed(cluster: "Cluster", ready: "Ready") -> None:
    count = 6_000
    async with AsyncExitStack() as stack:
        bus = await ready(stack, cluster.url)
        stream = await bus.stream(f"s-{mint_run_id()}")
        async with connect(cluster.url) as connection:
            await stream.append("first")
            found = await connection.api(f"STREAM.INFO.CONVIVE_{stream.subject.split('.')[1]}")
        leader = found["cluster"]["leader"]
        with anyio.fail_after(90):
            async with stream.follow() as tail, stream.producer("lines") as producer:
                for number in range(count):
                    await producer.submit(number)
                    if number == count // 2:
                        cluster.kill(leader)
                await producer.flush()
                assert (await anext(tail)).json() == "first"
                assert [(await anext(tail)).json() for _ in range(count)] == list(range(count))
            cluster.start(leader)
            await anyio.to_thread.run_sync(cluster.wait_until_healthy)
            assert await values(stream) == ["first", *range(count)]
