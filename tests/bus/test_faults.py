"""The log on JetStream while servers are killed and acknowledgements get lost."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

from convive.bus import BusUnavailable, Conflict, Draft, Guard, Log, MaybeAppended, Record, open_bus
from convive.bus.testing import Server, drafts, read_all, server, take

pytestmark = pytest.mark.anyio


class Store(NamedTuple):
    server: Server
    log: Log
    base: str


@asynccontextmanager
async def store(*, patience_s: float = 20, fast: bool = True) -> AsyncGenerator[Store]:
    async with server(fast=fast) as own, open_bus(own.url, patience_s=patience_s) as bus:
        conversation = await bus.conversation("table")
        yield Store(own, conversation.log, conversation.subjects.base)


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


async def test_leaving_a_bus_whose_server_is_gone_does_not_take_long() -> None:
    with anyio.fail_after(8):
        async with server() as own, open_bus(own.url) as bus:
            conversation = await bus.conversation("table")
            async with conversation.follow(), conversation.read():
                own.kill()
                for number in range(3):  # something that still waits to be sent
                    with anyio.move_on_after(0.02):
                        await conversation.log.append(Draft(f"{conversation.subjects.base}.a", str(number).encode()))


class Proxy:
    """Stands between a client and a server. `deaf`: what the server says is thrown away; `cut`: all lines break."""

    def __init__(self, upstream: int) -> None:
        self.url = ""
        self.deaf = False
        self.thrown_away = anyio.Event()
        self._upstream = upstream
        self._lines: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        for line in list(self._lines):
            line.cancel()

    async def line(self, client: anyio.abc.SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._lines.add(scope)
            async with (
                client,
                await anyio.connect_tcp("127.0.0.1", self._upstream) as upstream,
                anyio.create_task_group() as both,
            ):
                both.start_soon(self._pump, client, upstream, scope)
                both.start_soon(self._pump, upstream, client, scope)
        self._lines.discard(scope)

    async def _pump(
        self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, scope: anyio.CancelScope
    ) -> None:
        from_server = source.extra(SocketAttribute.remote_port) == self._upstream  # noqa: S610 - anyio, not Django
        try:
            async for chunk in source:
                if from_server and self.deaf:
                    self.thrown_away.set()
                else:
                    await sink.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def proxied(url: str) -> AsyncGenerator[Proxy]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        proxy = Proxy(int(url.rpartition(":")[2]))
        proxy.url = f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - anyio, not Django
        tasks.start_soon(listener.serve, proxy.line)
        yield proxy
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("key", [None, "mine"], ids=["known by its body", "known by its id"])
async def test_a_link_whose_acknowledgement_was_lost_is_recognised_as_our_own(key: str | None) -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        conversation = await bus.conversation("table")
        base, log = conversation.subjects.base, conversation.log
        first = await log.append(Draft(f"{base}.f.a", b"first", guard=Guard(f"{base}.f.*", 0)))
        draft = Draft(f"{base}.f.b", b"second", id=key, guard=Guard(f"{base}.f.*", first))
        places: list[int] = []
        expected: list[int] = []

        async def append() -> None:
            places.append(await log.append(draft))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                proxy.deaf = True
                tasks.start_soon(append)
                await proxy.thrown_away.wait()
                # Somebody else goes on from our link, of which we do not know yet that it is there.
                elsewhere = (await others.conversation("table")).log
                (ours,) = await read_all(elsewhere, f"{base}.f.b")
                expected.append(ours.seq)
                await elsewhere.append(Draft(f"{base}.f.a", b"third", guard=Guard(f"{base}.f.*", ours.seq)))
                proxy.deaf = False
                proxy.cut()
        assert places == expected
        assert [record.body for record in await read_all(log, f"{base}.f.*")] == [b"first", b"second", b"third"]


async def test_a_link_that_lost_while_its_refusal_got_lost_is_a_conflict() -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        conversation = await bus.conversation("table")
        base, log = conversation.subjects.base, conversation.log
        first = await log.append(Draft(f"{base}.f.a", b"first", guard=Guard(f"{base}.f.*", 0)))
        elsewhere = (await others.conversation("table")).log
        second = await elsewhere.append(Draft(f"{base}.f.b", b"theirs", guard=Guard(f"{base}.f.*", first)))
        caught: list[Conflict] = []

        async def append() -> None:
            with pytest.raises(Conflict) as conflict:
                await log.append(Draft(f"{base}.f.b", b"ours", guard=Guard(f"{base}.f.*", first)))
            caught.append(conflict.value)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                proxy.deaf = True
                tasks.start_soon(append)
                await proxy.thrown_away.wait()
                proxy.deaf = False
                proxy.cut()
        assert (caught[0].expected, caught[0].actual) == (first, second)


async def test_an_acknowledgement_lost_without_a_broken_line_is_asked_for_again() -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus:
        conversation = await bus.conversation("table")
        base, log = conversation.subjects.base, conversation.log
        await log.append(Draft(f"{base}.a", b"first"))
        places: list[int] = []

        async def append() -> None:
            places.append(await log.append(Draft(f"{base}.a", b"second")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                proxy.deaf = True
                tasks.start_soon(append)
                await proxy.thrown_away.wait()
                proxy.deaf = False
        found = await read_all(log, f"{base}.a")
        assert [record.body for record in found] == [b"first", b"second"]
        assert places == [found[1].seq]


async def test_a_tail_behind_a_line_that_breaks_again_and_again_misses_nothing() -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        conversation = await bus.conversation("table")
        base = conversation.subjects.base
        elsewhere = (await others.conversation("table")).log
        with anyio.fail_after(30):
            async with conversation.log.follow(f"{base}.a") as tail:
                expected: list[int] = []
                for _ in range(6):
                    expected += await elsewhere.append_all(drafts(f"{base}.a", 100))
                    await take(tail, 40)
                    proxy.cut()
                    expected += await elsewhere.append_all(drafts(f"{base}.a", 100))
                    await take(tail, 160)
                expected += [await elsewhere.append(Draft(f"{base}.a", b"last"))]
                assert [record.seq for record in await take(tail, 1)] == expected[-1:]


async def test_a_batch_whose_acknowledgement_was_lost_is_found_again() -> None:
    """Known by the guard of its first record, or by the id that was made up for it, also when its fence has moved."""
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        log = (await bus.conversation("table")).log
        elsewhere = await others.conversation("table")
        base = elsewhere.subjects.base
        rest = drafts(f"{base}.a", 3, first=1)
        for number, kind in enumerate(("guards itself", "has nothing", "is fenced"), 1):
            fence = await log.append(Draft(f"{base}.fence", b"ours"))
            first = {
                "guards itself": Draft(f"{base}.mark", b"0", guard=Guard(f"{base}.mark", 0), replaces=True),
                "has nothing": Draft(f"{base}.a", b"0"),
                "is fenced": Draft(f"{base}.a", b"0", guard=Guard(f"{base}.fence", fence)),
            }[kind]
            places: list[int] = []

            async def append(first: Draft = first, places: list[int] = places) -> None:
                places += await log.append_batch([first, *rest])

            proxy.thrown_away = anyio.Event()
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    proxy.deaf = True
                    tasks.start_soon(append)
                    await proxy.thrown_away.wait()
                    await elsewhere.log.append(Draft(f"{base}.fence", b"theirs"))
                    proxy.deaf = False
                    proxy.cut()
            there = await read_all(log, f"{base}.a", f"{base}.mark")
            assert [record.seq for record in there][-4:] == places
            assert len(there) == 4 * number
