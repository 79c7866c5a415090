"""What the log on JetStream promises beyond the contract: few requests, nothing left behind, plain NATS."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import nats
import pytest
from nats.aio.msg import Msg

from convive.bus import BusUnavailable, Draft, Guard, NotAppended, Record, RunContext, mint_run_id, open_bus
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.jetstream._jetstream import JetStreamLog, StreamPlan, open_log
from convive.bus.jetstream._jetstream_publisher import Publisher
from convive.bus.jetstream._jetstream_reader import BoundedReader, EachOnce
from convive.bus.log._log import MESSAGE_ID
from convive.bus.testing import drafts, read_all, take

pytestmark = pytest.mark.anyio


class Store(NamedTuple):
    """A stream of a test's own, and the connection below it."""

    connection: Connection
    log: JetStreamLog
    base: str
    stream: str

    @property
    def sent(self) -> int:
        return int(self.connection.client.stats["out_msgs"])

    async def consumers(self) -> list[str]:
        """The consumers on the server; asked behind everything that was sent before."""
        return list((await self.connection.api(f"CONSUMER.NAMES.{self.stream}"))["consumers"] or [])

    async def only(self, count: int) -> None:
        with anyio.fail_after(3):
            while len(await self.consumers()) != count:
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def store(url: str, patience_s: float = 10) -> AsyncGenerator[Store]:
    name = str(mint_run_id())
    async with connect(url, patience_s) as connection:
        publisher = Publisher(connection, patience_s)
        await publisher.start()
        log = await open_log(connection, publisher, StreamPlan(f"T_{name}", f"t{name}.>", 1, {}))
        yield Store(connection, log, f"t{name}", f"T_{name}")
        await connection.api(f"STREAM.DELETE.T_{name}")


async def test_reading_ten_thousand_records_sends_a_handful_of_messages(url: str) -> None:
    async with store(url) as own:
        await own.log.append_all(drafts(f"{own.base}.a", 10_000))
        before = own.sent
        assert len(await read_all(own.log, f"{own.base}.a")) == 10_000
        assert own.sent - before < 20  # the consumer, its end, and the answers of flow control


async def test_following_ten_thousand_records_sends_a_handful_of_messages(url: str) -> None:
    async with store(url) as own:
        await own.log.append_all(drafts(f"{own.base}.a", 10_000))
        before = own.sent
        async with own.log.follow(f"{own.base}.a") as tail:
            assert len(await take(tail, 10_000)) == 10_000
        assert own.sent - before < 20


async def test_an_append_is_one_message(url: str) -> None:
    async with store(url) as own:
        before = own.sent
        place = await own.log.append(Draft(f"{own.base}.a", b"1", guard=Guard(f"{own.base}.*", 0)))
        await own.log.append(Draft(f"{own.base}.b", b"2", guard=Guard(f"{own.base}.*", place)))
        assert own.sent - before == 2


async def test_tails_on_the_same_subjects_share_a_consumer_and_leave_none_behind(url: str) -> None:
    async with store(url) as own:
        await own.log.append_all(drafts(f"{own.base}.a", 3))
        async with own.log.follow(f"{own.base}.a") as first, own.log.follow(f"{own.base}.a") as second:
            assert len(await take(first, 3)) == len(await take(second, 3)) == 3
            await own.only(1)  # the reader that brought the second one up to date says goodbye without waiting
        await own.only(0)


async def test_a_tail_on_fewer_subjects_shares_the_consumer_of_one_on_more(url: str) -> None:
    async with store(url) as own:
        await own.log.append_all([*drafts(f"{own.base}.a", 3), *drafts(f"{own.base}.b", 3)])
        async with (
            own.log.follow(f"{own.base}.a", f"{own.base}.b") as both,
            own.log.follow(f"{own.base}.b") as fewer,
        ):
            assert len(await take(both, 6)) == 6
            assert [record.subject for record in await take(fewer, 3)] == [f"{own.base}.b"] * 3
            await own.log.append(Draft(f"{own.base}.a", b"not for fewer"))
            place = await own.log.append(Draft(f"{own.base}.b", b"for both"))
            assert [record.seq for record in await take(fewer, 1)] == [place]
            await own.only(1)


async def test_readers_leave_no_consumer_and_no_subscription_behind(url: str) -> None:
    async with store(url) as own:
        await own.log.append_all(drafts(f"{own.base}.a", 50))
        subscriptions = len(own.connection.client._subs)
        for _ in range(5):
            await read_all(own.log, f"{own.base}.a")
            async with own.log.read(f"{own.base}.a") as records:
                await anext(records)
            with anyio.move_on_after(0.001):
                await read_all(own.log, f"{own.base}.a")
            with anyio.move_on_after(0.001):
                async with own.log.follow(f"{own.base}.a") as tail:
                    await take(tail, 51)
        await own.only(0)
        assert len(own.connection.client._subs) == subscriptions


async def test_an_append_that_is_cancelled_leaves_nothing_in_flight(url: str) -> None:
    async with connect(url) as connection:
        publisher = Publisher(connection, 10)
        await publisher.start()
        for timeout_s in (0.0, 0.0001, 0.01):
            with anyio.move_on_after(timeout_s):
                await publisher.append("NONE", Draft("nobody.takes.this", b"1"))
            with anyio.move_on_after(timeout_s):
                await publisher.append_all("NONE", drafts("nobody.takes.this", 3))
        assert publisher._in_flight == {}


async def test_a_refusal_in_the_middle_leaves_nothing_in_flight(url: str) -> None:
    async with store(url) as own:
        publisher = own.log._publisher
        with pytest.raises(Exception, match="not a subject"):
            await own.log.append_all([*drafts(f"{own.base}.a", 3), Draft("not a subject", b"")])
        assert publisher._in_flight == {}


async def test_what_the_block_raises_comes_out_as_it_is(url: str) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with connect(url):
            raise LookupError("mine")


async def test_a_record_is_plain_json_and_plain_headers_for_any_client(url: str) -> None:
    async with store(url) as own:
        run = RunContext.root()
        draft = Draft(f"{own.base}.a", b'{"type": "said"}', {**run.headers(), "X-Own": "yes"}, id="key")
        place = await own.log.append(draft)
        client = await nats.connect(url)
        try:
            found = await client.jetstream().get_msg(own.stream, place)
        finally:
            await client.close()
        assert json.loads(found.data or b"") == {"type": "said"}
        assert found.headers is not None
        for name, value in {"Cv-Run": run.run_id, "X-Own": "yes", "Nats-Msg-Id": "key"}.items():
            assert found.headers[name] == value


async def test_the_log_reads_what_any_client_has_written(url: str) -> None:
    async with store(url) as own:
        client = await nats.connect(url)
        try:
            for headers in (None, {"X": "1"}, {"Status": "100", "Description": "Idle Heartbeat"}):
                await client.jetstream().publish(f"{own.base}.a", b"\xff\x00", headers=headers)
        finally:
            await client.close()
        async with own.log.follow(f"{own.base}.a") as tail:
            assert [record.body for record in await take(tail, 3)] == [b"\xff\x00"] * 3
        assert len(await read_all(own.log, f"{own.base}.a")) == 3


JUNK = (
    b"NATS/1.0 \xff\xfe\xff\r\n\r\n",
    b"NATS/1.0 100\r\n\r\n",
    b"NATS/1.0 100 \xff\r\nA: b\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
    b"NATS/1.0",
    b"N",
)


async def test_records_with_headers_and_subjects_that_cannot_be_read_do_not_deafen_a_reader(url: str) -> None:
    async with store(url) as own, own.log.follow(f"{own.base}.>") as tail:
        async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stranger:
            await stranger.send(b'CONNECT {"headers":true,"verbose":false}\r\n')
            for headers in JUNK:
                line = f"HPUB {own.base}.a {len(headers)} {len(headers) + 1}\r\n"
                await stranger.send(line.encode() + headers + b"x\r\n")
            await stranger.send(f"PUB {own.base}.".encode() + b"\xff 1\r\nx\r\n")
            assert [record.body for record in await take(tail, 7)] == [b"x"] * 7
        await own.log.append(Draft(f"{own.base}.a", b"after"))
        assert [record.body for record in await take(tail, 1)] == [b"after"]
        assert len(await read_all(own.log, f"{own.base}.>")) == 8


@pytest.mark.parametrize("lines", [b"X : 1", b" X: 1", b"X Y: 1", b"\xff: 1", b"X", b":1", b"X: 1\r\nX: 2", b"X:  1 "])
async def test_headers_are_the_same_however_a_record_is_found(url: str, lines: bytes) -> None:
    async with store(url) as own:
        async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stranger:
            headers = b"NATS/1.0\r\n%b\r\n\r\n" % lines
            line = f"HPUB {own.base}.a {len(headers)} {len(headers) + 1}\r\n"
            await stranger.send(b'CONNECT {"headers":true,"verbose":false}\r\n' + line.encode() + headers + b"x\r\n")
            async with own.log.follow(f"{own.base}.a") as tail:
                found = await take(tail, 1)
        assert [await own.log.last(f"{own.base}.a")] == found


async def test_records_that_expire_before_a_tail_gets_to_them_do_not_keep_it_from_catching_up(url: str) -> None:
    async with store(url) as own:
        # The last record of what a reader waits for is gone when the server gets there.
        await own.log.append_all(drafts(f"{own.base}.a", 3))
        async with own.log.follow(f"{own.base}.a") as tail:
            hub = own.log._hubs.find((f"{own.base}.a",), None)
            assert hub is not None
            await take(tail, 3)
            hub.consumer._due = 2  # as the server said when there were two more that have expired since
            assert not tail.caught_up
            with anyio.fail_after(10):
                assert await tail.catch_up() is None
            assert tail.caught_up


class Leader:
    """What the leader of a stream knows of, as a reader on a server that lags is told it."""

    def __init__(self, *newest: int) -> None:
        self._newest = list(newest)
        self.asked = anyio.Event()

    async def newest(self) -> int:
        await anyio.lowlevel.checkpoint()
        if len(self._newest) == 1:
            self.asked.set()
            return self._newest[0]
        return self._newest.pop(0)


def reader(own: Store, leader: Leader) -> BoundedReader:
    return BoundedReader(own.connection, own.stream, (f"{own.base}.a",), 0, None, None, leader.newest)


async def test_a_reader_waits_for_a_record_that_the_leader_knows_of_however_late_it_comes(url: str) -> None:
    async with store(url) as own:
        places = await own.log.append_all(drafts(f"{own.base}.a", 2))
        leader = Leader(places[1] + 1, places[1] + 1)
        found: list[int] = []

        async def read() -> None:
            late = reader(own, leader)
            await late.open()
            found.extend([record.seq async for record in late])
            await late.close()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await leader.asked.wait()  # it was silent for so long that the reader has asked again
                places.append(await own.log.append(Draft(f"{own.base}.a", b"late")))
        assert found == places


async def test_a_reader_ends_when_the_leader_does_not_know_of_the_record_any_more(url: str) -> None:
    async with store(url) as own:
        places = await own.log.append_all(drafts(f"{own.base}.a", 2))
        with anyio.fail_after(20):
            ended = reader(own, Leader(places[1] + 1, places[1]))
            await ended.open()
            assert [record.seq async for record in ended] == places
            await ended.close()


async def test_a_reader_says_so_when_no_server_delivers_what_the_leader_knows_of(url: str) -> None:
    async with store(url, patience_s=0.5) as own:
        places = await own.log.append_all(drafts(f"{own.base}.a", 2))
        lost = reader(own, Leader(places[1] + 1))
        with anyio.fail_after(20):
            await lost.open()
            assert [(await anext(lost)).seq for _ in places] == places
            with pytest.raises(BusUnavailable, match=f"record {places[1] + 1} is known to the leader"):
                await anext(lost)
        await lost.close()


@pytest.mark.parametrize("expires", [True, False], ids=["it expires", "it comes late"])
async def test_a_tail_has_not_caught_up_before_a_record_that_the_leader_knows_of(url: str, expires: bool) -> None:
    async with store(url) as own, own.log.follow(f"{own.base}.a") as tail:
        places = await own.log.append_all(drafts(f"{own.base}.a", 2))
        await take(tail, 2)
        leader = Leader(places[1] if expires else places[1] + 1)
        tail._newest, tail._ask_newest = places[1] + 1, leader.newest  # as on a server that lags
        assert not tail.caught_up
        found: list[int | None] = []

        async def catch_up() -> None:
            record = await tail.catch_up()
            found.append(None if record is None else record.seq)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(catch_up)
                await leader.asked.wait()
                if not expires:
                    assert found == []
                    places.append(await own.log.append(Draft(f"{own.base}.a", b"late")))
        assert found == [None if expires else places[2]]
        assert tail.caught_up


async def test_a_bus_opens_each_of_its_streams_once(url: str) -> None:
    async with open_bus(url) as bus:
        found: list[Any] = []

        async def look() -> None:
            found.append((await bus.conversation("the-same")).log)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(look)
        assert all(log is found[0] for log in found)


async def test_a_stream_of_an_earlier_version_learns_to_take_batches(url: str) -> None:
    async with store(url) as own:
        config = (await own.connection.api(f"STREAM.INFO.{own.stream}"))["config"]
        await own.connection.api(f"STREAM.UPDATE.{own.stream}", {**config, "allow_atomic": False})
        with pytest.raises(NotAppended, match="disabled"):
            await own.log.append_batch(drafts(f"{own.base}.a", 2))
        publisher = Publisher(own.connection, 10)
        await publisher.start()
        log = await open_log(own.connection, publisher, StreamPlan(own.stream, f"{own.base}.>", 1, {}))
        assert len(await log.append_batch(drafts(f"{own.base}.a", 2))) == 2
        assert (await own.connection.api(f"STREAM.INFO.{own.stream}"))["config"] == config


async def test_what_has_the_server_store_a_record_later_counts_for_its_size(url: str) -> None:
    """A message that is too large by its headers ends the connection, and with it everything else on the bus."""
    async with store(url) as own:
        publisher = Publisher(own.connection, 10)
        await publisher.start()
        schedule = {"Nats-Schedule": "@at 2036-01-01T00:00:00Z", "Nats-Schedule-Target": f"{own.base}.{'x' * 300}"}
        with pytest.raises(NotAppended, match="the server takes"):
            await publisher.append(own.stream, Draft(f"{own.base}.a", bytes(1_048_576 - 300)), schedule)
        assert await publisher.append(own.stream, Draft(f"{own.base}.a", b"after")) == 1


def test_an_append_without_an_answer_is_sent_again_under_any_way_to_run_a_loop(nats_url: str) -> None:
    """Under `asyncio.run` nothing but a task may start another one: what looks after appends in flight is one."""
    heard: list[str] = []

    async def answer_the_second(message: Msg) -> None:
        heard.append(message.headers[MESSAGE_ID] if message.headers else "")
        if len(heard) == 2:
            await message.respond(b'{"stream": "HOLE", "seq": 7}')

    async def main() -> int:
        async with connect(nats_url) as connection:
            await connection.subscribe("hole", answer_the_second)
            publisher = Publisher(connection, 10)
            await publisher.start()
            with anyio.fail_after(8):
                return await publisher.append("HOLE", Draft("hole", b""))

    assert asyncio.run(main()) == 7
    assert len(heard) == 2
    assert len(set(heard)) == 1


async def test_what_a_replica_that_lags_takes_for_the_last_record_is_not_handed_out() -> None:
    """Delivered by one of three nodes, once in some 240 times: `b` at 2, and behind the others the newest of `b`."""

    async def delivered() -> AsyncGenerator[Record]:
        for subject, seq in (("b", 2), ("a", 3), ("c", 5), ("b", 6)):
            yield Record(subject, seq, 0.0, {}, b"")

    async def fresh() -> AsyncGenerator[Record]:
        raise AssertionError

    assert [record.seq async for record in EachOnce(delivered(), fresh)] == [3, 5, 6]
