"""Producers on both logs: order, positions, bounds, once over retries and restarts."""
# ruff: noqa: S106 - the token of a stream is no secret

import json
from collections.abc import Sequence

import anyio
import pytest

from convive.bus import (
    BadName,
    BadRecord,
    Bus,
    Draft,
    Fenced,
    MaybeAppended,
    MemoryLog,
    NotAppended,
    ProducerReplaced,
    Stream,
    Ticket,
)
from convive.bus.testing import read_all
from tests.bus.streams import fight_for_one_id, values

pytestmark = pytest.mark.anyio


async def test_records_are_stored_in_the_order_of_submission_and_tickets_tell_where(stream: Stream) -> None:
    count = 3_500
    with anyio.fail_after(30):
        async with stream.producer() as producer:
            assert producer.resumed_at == 0
            tickets = [await producer.submit(number, {"X": str(number)}) for number in range(count)]
            await producer.flush()
            assert (producer.in_flight, producer.stored) == (0, count)
        async with stream.read() as records:
            found = [record async for record in records]
        assert [record.json() for record in found] == list(range(count))
        assert [record.position for record in found] == [await ticket.position() for ticket in tickets]
        assert [ticket.number for ticket in tickets] == list(range(count))
        assert found[7].headers == {"X": "7"}


async def test_a_producer_that_has_ended_takes_nothing_and_says_so(stream: Stream) -> None:
    async with stream.producer() as producer:
        await producer.submit("first")
    with pytest.raises(NotAppended, match=r"this producer has ended\. Nothing was appended"):
        await producer.submit("second")
    assert await values(stream) == ["first"]


async def test_headers_are_those_of_the_moment_of_submission(stream: Stream) -> None:
    headers = {"X": "0"}
    async with stream.producer() as producer:
        for number in range(3):
            headers["X"] = str(number)
            await producer.submit(number, headers)
    async with stream.read() as records:
        assert [record.headers["X"] async for record in records] == ["0", "1", "2"]


async def test_a_ticket_can_be_waited_for_while_the_producer_goes_on(stream: Stream) -> None:
    with anyio.fail_after(20):
        async with stream.producer() as producer:
            first = await (await producer.submit("first")).position()
            second = await (await producer.submit("second")).position()
            assert first < second == await stream.tail()


async def test_batches_of_several_producers_and_single_records_do_not_mix(stream: Stream) -> None:
    async def produce(name: str) -> None:
        async with stream.producer(name) as producer:
            for number in range(1_500):
                await producer.submit([name, number])

    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            for name in ("ada", "bo", "cy"):
                tasks.start_soon(produce, name)
            for number in range(50):
                await stream.append(["one by one", number])
    found = await values(stream)
    for name, count in (("ada", 1_500), ("bo", 1_500), ("cy", 1_500), ("one by one", 50)):
        assert [one for one in found if isinstance(one, list) and one[0] == name] == [[name, n] for n in range(count)]


async def test_a_producer_of_the_same_id_goes_on_where_the_last_one_ended(stream: Stream) -> None:
    lines = [f"line {number}" for number in range(2_500)]
    for stop in (10, 1_500, 1_500, 2_500):
        async with stream.producer("lines") as producer:
            for line in lines[producer.resumed_at : stop]:
                await producer.submit(line)
    assert await values(stream) == lines


async def test_what_was_submitted_before_an_error_of_the_block_is_stored_once_or_not(stream: Stream) -> None:
    tickets: list[Ticket] = []

    async def fail() -> None:
        async with stream.producer("lines") as producer:
            for number in range(3_000):
                tickets.append(await producer.submit(number))  # noqa: PERF401 - those before the error count
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    try:
        expected = range(3_000, 3_001) if await tickets[-1].position() else range(0)
    except MaybeAppended:
        expected = range(3_001)
    async with stream.producer("lines") as producer:
        assert producer.resumed_at in expected
        assert await values(stream) == list(range(producer.resumed_at))
        for number in range(producer.resumed_at, 3_000):
            await producer.submit(number)
    assert await values(stream) == list(range(3_000))


async def test_the_older_of_two_producers_of_one_id_is_told_and_nothing_is_doubled(bus: Bus, stream: Stream) -> None:
    other = await bus.stream(stream.name)

    async def produce() -> None:
        async with stream.producer("lines") as older:
            await older.submit(0)
            await older.submit(1)
            await older.flush()
            async with other.producer("lines") as newer:
                assert newer.resumed_at == 2
                ticket = await older.submit("lost")
                with pytest.raises(ProducerReplaced):
                    await ticket.position()
                with pytest.raises(ProducerReplaced):
                    await older.submit("lost too")
                with pytest.raises(ProducerReplaced):
                    await older.flush()
                await newer.submit(2)

    with anyio.fail_after(20), pytest.raises(ProducerReplaced, match="'lines', from its record 2 on"):
        await produce()
    assert await values(stream) == [0, 1, 2]


async def test_two_producers_that_fight_for_one_id_store_every_record_once(bus: Bus, stream: Stream) -> None:
    lines = list(range(3_000))
    await fight_for_one_id([await bus.stream(stream.name) for _ in range(2)], lines, 400, 60)
    assert await values(stream) == lines


async def test_a_record_that_cannot_be_one_is_refused_and_the_producer_goes_on(stream: Stream) -> None:
    async with stream.producer() as producer:
        await producer.submit(0)
        for wrong in (float("nan"), b"x" * 1_100_000):
            with pytest.raises(NotAppended):
                await producer.submit(wrong)
        with pytest.raises(NotAppended):
            await producer.submit(1, {"Nats-Msg-Id": "mine"})
        await producer.submit(1)
    assert await values(stream) == [0, 1]


async def test_large_records_make_small_batches(stream: Stream) -> None:
    body = "x" * 400_000
    with anyio.fail_after(30):
        async with stream.producer(max_bytes=1_000_000) as producer:
            for number in range(12):
                await producer.submit([number, body])
                assert producer.in_flight <= 3
    assert await values(stream) == [[number, body] for number in range(12)]


async def test_a_producer_whose_token_lost_is_told(bus: Bus, stream: Stream) -> None:
    other = await bus.stream(stream.name)
    with pytest.raises(Fenced):
        async with stream.producer(token="ada") as producer:
            await producer.submit("not fenced")
    await stream.fence("ada")

    async def produce() -> None:
        async with stream.producer("lines", token="ada") as producer:
            await producer.submit(0)
            await producer.flush()
            await other.fence("bo")
            await other.fence("ada")  # the same token at another place: nothing to be told of
            await producer.submit(1)
            await producer.flush()
            await other.fence("bo")
            await producer.submit(2)
            await producer.flush()

    with anyio.fail_after(20), pytest.raises(Fenced):
        await produce()
    assert await values(stream) == [0, 1]


@pytest.mark.parametrize("id", ["", "Ada", "a.b", "a b", "*", "x" * 64])
async def test_an_id_that_is_none_is_refused(stream: Stream, id: str) -> None:
    with pytest.raises(BadName, match="the id of a producer"):
        async with stream.producer(id):
            pass


async def test_a_mark_that_is_not_ours_is_told_of(stream: Stream) -> None:
    odd = [b'{"instance": "x", "stored": %b}' % stored for stored in (b'"y"', b"-5", b"Infinity", b"1.5", b"9" * 5_000)]
    for body in (b"", b"[]", b'{"instance": 1}', b"[" * 100_000, *odd):
        await stream.log.append(Draft(f"{stream.subject}.producer.lines", body))
        with pytest.raises(BadRecord, match="not the mark of a producer"):
            async with stream.producer("lines"):
                pass


async def test_the_marks_of_a_producer_take_the_place_of_one_another(stream: Stream) -> None:
    async with stream.producer("lines") as producer:
        for number in range(20):
            await producer.submit(number)
            await producer.flush()
    (mark,) = await read_all(stream.log, f"{stream.subject}.producer.>")
    assert json.loads(mark.body)["stored"] == 20


class Held(MemoryLog):
    """A log that stores nothing until it is let, and counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.open = anyio.Event()
        self.sizes: list[int] = []

    async def append_batch(self, drafts: Sequence[Draft]) -> list[int]:
        self.sizes.append(len(drafts) - 1)
        self.asked.set()
        await self.open.wait()
        return await super().append_batch(drafts)


async def test_what_is_under_way_is_bounded() -> None:
    log = Held()
    stream = Stream(log, "cv.00.s.stream.s", "s")
    submitted: list[int] = []

    async def submit() -> None:
        async with stream.producer(max_records=5) as producer:
            for number in range(20):
                await producer.submit(number)
                submitted.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await anyio.wait_all_tasks_blocked()
            assert len(submitted) == 5
            log.open.set()
    assert await values(stream) == list(range(20))


async def test_what_is_submitted_while_a_batch_is_under_way_makes_the_next_one() -> None:
    log = Held()
    stream = Stream(log, "cv.00.s.stream.s", "s")
    with anyio.fail_after(10):
        async with stream.producer() as producer:
            await producer.submit(0)
            await log.asked.wait()
            for number in range(1, 2_000):
                await producer.submit(number)
            log.open.set()
    assert log.sizes == [1, 999, 999, 1]


async def test_a_submission_that_is_cancelled_while_it_waits_for_room_was_not_handed_over() -> None:
    log = Held()
    stream = Stream(log, "cv.00.s.stream.s", "s")
    with anyio.fail_after(10):
        async with stream.producer(max_records=2) as producer:
            await producer.submit(0)
            await producer.submit(1)
            with anyio.move_on_after(0):
                await producer.submit("cancelled")
            log.open.set()
            await producer.submit(2)
    assert await values(stream) == [0, 1, 2]
