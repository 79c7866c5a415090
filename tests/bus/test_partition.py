"""One node of three cut off from the two others, with clients on both sides: no false acknowledgement, nothing lost."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

from convive.bus import (
    Bus,
    BusUnavailable,
    Conflict,
    Conversation,
    Draft,
    Guard,
    MaybeAppended,
    Record,
    mint_run_id,
    open_bus,
)
from convive.bus.jetstream._connect import connect
from convive.bus.testing import read_all, take

if TYPE_CHECKING:
    from tests.bus.conftest import Ready
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio

PATIENCE_S = 3.0


class Lines:
    """The lines between the nodes: one way for each pair, which can be cut."""

    def __init__(self) -> None:
        self._away = ""
        self._open: set[tuple[str, str, anyio.CancelScope]] = set()

    def cut(self, node: str) -> None:
        """All lines from and to a node break, and no new ones are made."""
        self._away = node
        for one, other, line in tuple(self._open):
            if node in (one, other):
                line.cancel()

    def heal(self) -> None:
        self._away = ""

    async def serve(self, one: str, other: str, port: int, caller: anyio.abc.SocketStream) -> None:
        """Carry what `one` and `other`, who listens on the port, say to each other."""
        async with caller:
            if self._away in (one, other):
                return
            with anyio.CancelScope() as scope:
                line = (one, other, scope)
                self._open.add(line)
                try:
                    async with await anyio.connect_tcp("127.0.0.1", port) as called, anyio.create_task_group() as both:
                        both.start_soon(_pump, caller, called, scope)
                        both.start_soon(_pump, called, caller, scope)
                except OSError:
                    return  # it has not been started yet: the caller tries again
                finally:
                    self._open.discard(line)


async def _pump(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, line: anyio.CancelScope) -> None:
    try:
        async for chunk in source:
            await sink.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    line.cancel()


@asynccontextmanager
async def between(cluster: "Cluster") -> AsyncGenerator[Lines]:
    """Start the nodes so that each reaches each other one through a line of ours."""
    lines = Lines()
    async with AsyncExitStack() as listening, anyio.create_task_group() as tasks:
        for one in cluster.urls:
            ways: dict[str, int] = {}
            for other in cluster.urls.keys() - {one}:
                listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
                await listening.enter_async_context(listener)
                ways[other] = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio, not Django

                async def serve(caller: anyio.abc.SocketStream, one: str = one, other: str = other) -> None:
                    await lines.serve(one, other, cluster.route_port(other), caller)

                tasks.start_soon(listener.serve, serve)
            cluster.detour(one, ways)
            cluster.start(one)
        await anyio.to_thread.run_sync(cluster.wait_until_healthy)
        yield lines
        cluster.stop()
        tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
async def parted(
    new_cluster: Callable[[], AbstractContextManager["Cluster"]],
) -> AsyncGenerator[tuple["Cluster", Lines]]:
    with new_cluster() as cluster:
        async with between(cluster) as lines:
            yield cluster, lines


@pytest.mark.parametrize("leads", [False, True], ids=["a follower", "the leader"])
async def test_a_node_that_is_cut_off_acknowledges_nothing_and_has_everything_when_it_is_back(
    parted: "tuple[Cluster, Lines]", ready: "Ready", leads: bool
) -> None:
    cluster, lines = parted
    async with AsyncExitStack() as stack:
        bus = await ready(stack, cluster.url)
        conversation = await made(bus, f"parted-{mint_run_id()}")
        base, log = conversation.subjects.base, conversation.log
        first = await log.append(Draft(f"{base}.f.a", b"before", guard=Guard(f"{base}.f.*", 0)))
        async with connect(cluster.url) as connection:
            info = await connection.api(f"STREAM.INFO.CONVIVE_{base.split('.')[1]}")
        leader = info["cluster"]["leader"]
        away = leader if leads else min(cluster.urls.keys() - {leader})
        here = await stack.enter_async_context(
            open_bus(",".join(url for name, url in cluster.urls.items() if name != away))
        )
        there = await stack.enter_async_context(open_bus(cluster.urls[away], patience_s=PATIENCE_S))
        ours, theirs = [(await one.conversation(conversation.id)).log for one in (here, there)]
        tail = await stack.enter_async_context(theirs.follow(f"{base}.f.*"))
        await take(tail, 1)
        lost = Draft(f"{base}.f.lost", b"from the node that is cut off", guard=Guard(f"{base}.f.*", first))
        plain = Draft(f"{base}.f.plain", b"of no guard", id=f"{conversation.id}/plain")
        lines.cut(away)
        try:
            with anyio.fail_after(60):
                for draft in (lost, plain):
                    with pytest.raises(MaybeAppended, match="Append the same record again"):
                        await theirs.append(draft)
                # What it can still say is the past, and no more; a follower alone has nobody to ask.
                with contextlib.suppress(BusUnavailable):
                    assert [record.body for record in await read_all(theirs, f"{base}.f.*")] == [b"before"]
                places = [await ours.append(Draft(f"{base}.f.b", b"by the two", guard=Guard(f"{base}.f.*", first)))]
                for number in range(20):
                    guard = Guard(f"{base}.f.*", places[-1])
                    places.append(await ours.append(Draft(f"{base}.f.c", str(number).encode(), guard=guard)))
        finally:
            lines.heal()
        with anyio.fail_after(60):
            with pytest.raises(Conflict):
                await eventually(theirs.append, lost)
            place = await eventually(theirs.append, plain)
            assert await ours.append(plain) == place
            expected = [first, *places, place]
            found = [record.seq for record in await take(tail, len(places) + 1)]
            assert found == expected[1:]
        logs: list[list[Record]] = []
        for url in cluster.urls.values():
            bus = await ready(stack, url)
            # A leader that was cut off may take itself for one for some seconds more, and give old reads.
            held = await whole(bus, conversation.id, base)
            with anyio.move_on_after(30):
                while len(held) < len(expected):
                    held = await whole(bus, conversation.id, base)
            logs.append(held)
        assert [record.seq for record in logs[0]] == expected
        assert logs[0] == logs[1] == logs[2]


async def eventually(append: Callable[[Draft], Awaitable[int]], draft: Draft) -> int:
    """Append as often as it takes: the nodes may not have found one another again yet."""
    while True:
        try:
            return await append(draft)
        except MaybeAppended:
            continue


async def made(bus: Bus, name: str) -> Conversation:
    """A conversation, as soon as all nodes are there that its stream needs."""
    with anyio.fail_after(60):
        while True:
            try:
                return await bus.conversation(name)
            except BusUnavailable:
                await anyio.lowlevel.checkpoint()


async def whole(bus: Bus, name: str, base: str) -> list[Record]:
    return await read_all((await bus.conversation(name)).log, f"{base}.f.*")
