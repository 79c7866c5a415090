"""A whole party on three nodes while they are killed, paused and restarted: every turn once, said and remembered."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.agents import Plan, Say, Turn, host_seats, supervise
from convive.bus import BusUnavailable, Chair, Conversation, RunContext, SeatName, event_of, mint_run_id, open_bus
from convive.bus.jetstream._connect import connect
from convive.bus.testing import read_all

if TYPE_CHECKING:
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio

SEATS = tuple(SeatName(name) for name in ("ada", "bob", "cleo"))
TURNS = 12
RUN = RunContext.root()

Fault = Callable[[], Awaitable[None]]


class Talker:
    """Says and remembers which turn it is. In some turns something happens to the nodes before it speaks."""

    def __init__(self, faults: dict[int, Fault]) -> None:
        self._faults = faults
        self._happening = anyio.Lock()

    async def take_turn(self, turn: Turn) -> Say:
        async with self._happening:  # the other process in this seat waits for the same
            fault = self._faults.pop(turn.grant.turn, None)
            if fault is not None:
                await fault()
        turn.remember(f"turn {turn.grant.turn}")
        return Say(f"{turn.seat} in turn {turn.grant.turn}")


async def leader_of(cluster: "Cluster", conversation: Conversation) -> str:
    async with connect(cluster.url) as connection:
        stream = await connection.api(f"STREAM.INFO.CONVIVE_{conversation.subjects.base.split('.')[1]}")
    return str(stream["cluster"]["leader"])


async def restored(cluster: "Cluster", *, caught_up: bool = False) -> None:
    cluster.restore()
    await anyio.to_thread.run_sync(partial(cluster.wait_until_healthy, caught_up=caught_up))


@asynccontextmanager
async def tables(cluster: "Cluster") -> AsyncGenerator[list[Conversation]]:
    """One new conversation over three connections, each to another node first."""
    name = f"party-{mint_run_id()}"
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(open_bus(url, replicas=3)) for url in cluster.urls.values()]
        found = [await bus.conversation(name) for bus in buses]
        await found[0].open(RUN, "figs", [Chair(seat=seat) for seat in SEATS])
        yield found


async def play(conversations: list[Conversation], faults: dict[int, Fault]) -> None:
    """Every process supervises; every seat is doubled."""
    plan = Plan(turns=TURNS, opens=False, toasts=False)
    talker = Talker(faults)
    async with anyio.create_task_group() as tasks:
        for conversation in conversations:
            tasks.start_soon(supervise, conversation, plan, RUN)
        for conversation in conversations[1:]:
            tasks.start_soon(host_seats, conversation, dict.fromkeys(SEATS, talker))


async def check_every_turn_once(conversation: Conversation) -> None:
    records = await read_all(conversation.log, conversation.subjects.floor)
    world = await conversation.world(*SEATS)
    assert [getattr(event_of(record), "link", None) for record in records] == list(range(2 * TURNS + 2))
    assert world.floor.damage == ()
    speakers = [(SEATS[turn % len(SEATS)], turn + 1) for turn in range(TURNS)]
    assert [utterance.text for utterance in world.heard] == [f"{seat} in turn {turn}" for seat, turn in speakers]
    for seat in SEATS:
        held = [memory.event.text for memory in world.private[seat].memory.held]
        assert held == [f"turn {turn}" for one, turn in speakers if one == seat]


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_a_party_whose_leader_is_lost_has_every_turn_once(cluster: "Cluster", fault: str) -> None:
    await ready(cluster)
    async with tables(cluster) as conversations:

        async def lose() -> None:
            leader = await leader_of(cluster, conversations[0])
            if fault == "killed":
                cluster.kill(leader)
            else:
                cluster.pause(leader)

        with anyio.fail_after(90):
            await play(conversations, {4: lose, 9: partial(restored, cluster)})
        for conversation in conversations:
            await check_every_turn_once(conversation)


async def test_a_party_goes_through_a_rolling_restart_with_every_turn_once(cluster: "Cluster") -> None:
    await ready(cluster)
    async with tables(cluster) as conversations:
        nodes = iter(tuple(cluster.urls))

        async def next_one() -> None:
            await restored(cluster, caught_up=True)
            if (node := next(nodes, None)) is not None:
                await anyio.to_thread.run_sync(cluster.end, node)

        with anyio.fail_after(120):
            await play(conversations, dict.fromkeys((2, 5, 8, 11), next_one))
        for conversation in conversations:
            await check_every_turn_once(conversation)


async def ready(cluster: "Cluster") -> None:
    """Wait until every node answers for JetStream."""
    for url in cluster.urls.values():
        while True:
            try:
                async with open_bus(url, replicas=3):
                    break
            except BusUnavailable:
                await anyio.lowlevel.checkpoint()
