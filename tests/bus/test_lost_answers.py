"""The log on JetStream behind a line that loses acknowledgements, or breaks."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

from convive.bus import Conflict, Draft, Guard, MaybeAppended, open_bus
from convive.bus.jetstream._connect import connect
from convive.bus.testing import drafts, read_all, server, take

pytestmark = pytest.mark.anyio


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


def test_an_acknowledgement_lost_is_asked_for_again_also_where_anyio_did_not_start_the_loop() -> None:
    """As the command line runs: under asyncio.run, what a timer calls is not known to be asyncio's."""
    bodies: list[bytes] = []

    async def main() -> None:
        async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus:
            conversation = await bus.conversation("table")
            base, log = conversation.subjects.base, conversation.log
            await log.append(Draft(f"{base}.a", b"first"))

            async def listen_again() -> None:
                await proxy.thrown_away.wait()
                proxy.deaf = False

            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    proxy.deaf = True
                    tasks.start_soon(listen_again)
                    await log.append(Draft(f"{base}.a", b"second"))
            bodies.extend([record.body for record in await read_all(log, f"{base}.a")])

    asyncio.run(main())
    assert bodies == [b"first", b"second"]


@pytest.mark.parametrize(
    ("key", "advice"), [("mine", "Append the same record again"), (None, "Look whether it is there")]
)
async def test_whether_a_record_may_be_appended_again_is_said_when_nobody_knows(key: str | None, advice: str) -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url, patience_s=0.5) as bus:
        conversation = await bus.conversation("table")
        draft, log = Draft(f"{conversation.subjects.base}.a", b"again?", id=key), conversation.log
        await log.append(Draft(f"{conversation.subjects.base}.b", b"first"))
        proxy.deaf = True
        with anyio.fail_after(20), pytest.raises(MaybeAppended, match=advice):
            await log.append(draft)
        proxy.deaf = False
        proxy.cut()
        await log.append(draft)
        assert len(await read_all(log, draft.subject)) == (2 if key is None else 1)


async def test_a_record_that_was_replaced_before_its_acknowledgement_came_is_not_called_refused() -> None:
    """Nothing is left of it to know it by: what stands behind its guard is the record that has replaced it."""
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        conversation = await bus.conversation("table")
        base, log = conversation.subjects.base, conversation.log
        elsewhere = (await others.conversation("table")).log
        mark = Draft(f"{base}.mark", b"ours", guard=Guard(f"{base}.mark", 0), replaces=True)

        async def append() -> None:
            with pytest.raises(MaybeAppended):
                await log.append_batch([mark, *drafts(f"{base}.a", 3)])

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                proxy.deaf = True
                tasks.start_soon(append)
                await proxy.thrown_away.wait()
                (ours,) = await read_all(elsewhere, mark.subject)
                guard = Guard(mark.subject, ours.seq)
                await elsewhere.append(Draft(mark.subject, b"theirs", guard=guard, replaces=True))
                proxy.deaf = False
                proxy.cut()
        assert len(await read_all(log, f"{base}.a")) == 3


async def test_a_producer_that_was_replaced_before_its_acknowledgement_came_does_not_call_it_refused() -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, open_bus(own.url) as others:
        ours, theirs = await bus.stream("counted"), await others.stream("counted")

        async def submit() -> None:
            async with ours.producer("one") as producer:
                proxy.deaf = True
                await producer.submit(0)

        async def submit_in_vain() -> None:
            # And not ProducerReplaced, which says that nothing of it is there.
            with pytest.raises(MaybeAppended, match="Begin a producer of the same id again"):
                await submit()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit_in_vain)
                await proxy.thrown_away.wait()
                async with theirs.producer("one") as producer:
                    await producer.submit(producer.resumed_at)
                proxy.deaf = False
                proxy.cut()
        async with theirs.read() as records:
            assert [record.json() async for record in records] == [0, 1]


async def test_a_refusal_of_what_may_be_stored_already_is_not_taken_for_one_of_all_copies() -> None:
    async with server() as own, proxied(own.url) as proxy, open_bus(proxy.url) as bus, connect(own.url, 5) as admin:
        conversation = await bus.conversation("table")
        subject, log = f"{conversation.subjects.base}.a", conversation.log
        await log.append(Draft(subject, b"first"))
        name = f"CONVIVE_{subject.split('.')[1]}"
        config = (await admin.api(f"STREAM.INFO.{name}"))["config"]

        async def append() -> None:
            with pytest.raises(MaybeAppended):
                await log.append(Draft(subject, b"x" * 5_000))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                proxy.deaf = True
                tasks.start_soon(append)
                await proxy.thrown_away.wait()
                await admin.api(f"STREAM.UPDATE.{name}", {**config, "max_msg_size": 1_000})
                proxy.deaf = False
        assert len(await read_all(log, subject)) == 2


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


async def test_a_batch_that_is_known_and_was_removed_is_not_said_to_have_come_too_late(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        conversation = await bus.conversation("batch-removed")
        base, log = conversation.subjects.base, conversation.log
        batch = [Draft(f"{base}.a", b"first", id=f"{base}/batch"), *drafts(f"{base}.b", 2)]
        places = await log.append_batch(batch)
        assert await log.append_batch(batch) == places
        await log.purge(f"{base}.a", places[0])
        with pytest.raises(MaybeAppended, match="the server knows the id of this batch"):
            await log.append_batch(batch)
        assert len(await read_all(log, f"{base}.>")) == 2


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
