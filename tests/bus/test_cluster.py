"""The floor on three nodes: rivals on different servers, guarded writes in flight, appends that are tried again."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.bus import (
    Bus,
    BusUnavailable,
    Chair,
    Closed,
    Conflict,
    Conversation,
    Draft,
    Guard,
    Remembered,
    RunContext,
    SeatName,
    event_of,
    mint_run_id,
    open_bus,
)
from convive.bus._connect import connect
from convive.bus.testing import drafts, read_all, take

if TYPE_CHECKING:
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
RUN = RunContext.root()


@pytest.fixture(scope="module")
async def buses(cluster: "Cluster") -> AsyncGenerator[list[Bus]]:
    """A connection to each node."""
    async with AsyncExitStack() as stack:
        yield [await ready(stack, url) for url in cluster.urls.values()]


async def ready(stack: AsyncExitStack, url: str) -> Bus:
    """A bus on a cluster that may still be electing its leader: until then it answers nobody."""
    with anyio.fail_after(60):
        while not await _answers(url):
            await anyio.lowlevel.checkpoint()
    return await stack.enter_async_context(open_bus(url, replicas=3))


async def _answers(url: str) -> bool:
    try:
        async with open_bus(url, replicas=3):
            return True
    except BusUnavailable:
        return False


async def tables(buses: list[Bus]) -> list[Conversation]:
    """The same new conversation through each node. Its stream is made when the first one asks."""
    name = f"race-{mint_run_id()}"
    return [await bus.conversation(name) for bus in buses]


async def test_rivals_on_three_servers_get_one_winner_for_each_link(buses: list[Bus]) -> None:
    links = 60
    seats = await tables(buses)
    guarded = seats[0].subjects.floor
    won: list[int] = []

    async def rival(conversation: Conversation, name: str) -> None:
        last = 0
        while len(won) < links:
            draft = Draft(conversation.subjects.link(SeatName(name)), name.encode(), guard=Guard(guarded, last))
            try:
                last = await conversation.log.append(draft)
                won.append(last)
            except Conflict as conflict:
                last = conflict.actual

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(rival, seats[number % 3], f"rival-{number}")
    there = [record.seq for record in await read_all(seats[0].log, guarded)]
    assert sorted(won) == there
    assert len(set(won)) == len(won) >= links


async def test_a_whole_floor_is_played_by_rivals_on_three_servers(buses: list[Bus]) -> None:
    turns, seats = 12, await tables(buses)
    await seats[0].open(RUN, "figs", [Chair(seat=ADA)])
    won: list[int] = []

    async def lead(conversation: Conversation) -> None:
        while (floor := await conversation.floor()).closed is None:
            try:
                if floor.open_grant is None and floor.turn < turns:
                    await conversation.grant(floor, ADA, RUN.child(), 0)
                elif floor.open_grant is None:
                    await conversation.close(floor, RUN)
            except (Conflict, Closed):
                continue

    async def sit(conversation: Conversation, name: str, told: Callable[[int], None]) -> None:
        while (floor := await conversation.floor()).closed is None:
            held = floor.open_grant
            if held is None:
                continue
            try:
                await conversation.say(floor, held, name, RUN)
            except (Conflict, Closed):
                continue
            told(held.grant.turn)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number, conversation in enumerate(seats):
                tasks.start_soon(lead, conversation)
                tasks.start_soon(sit, conversation, f"ada {number}", won.append)
    records = await read_all(seats[1].log, seats[1].subjects.floor)
    floor = await seats[2].floor()
    assert [getattr(event_of(record), "link", None) for record in records] == list(range(2 * turns + 2))
    assert (floor.turn, floor.said_turns, floor.damage) == (turns, turns, ())
    assert sorted(won) == list(range(1, turns + 1))


async def test_an_append_that_is_tried_again_is_answered_with_its_own_place(buses: list[Bus]) -> None:
    """Three nodes check duplicates before guards and one node the other way round; the answer is the same."""
    here, elsewhere, _ = await tables(buses)
    base = here.subjects.base
    first = await here.log.append(Draft(f"{base}.f.a", b"1", guard=Guard(f"{base}.f.*", 0)))
    for key in (None, f"{base}/2"):
        draft = Draft(f"{base}.f.b", b"2", id=key, guard=Guard(f"{base}.f.*", first))
        place = await here.log.append(draft)
        assert await elsewhere.log.append(draft) == place
        first = await here.log.append(Draft(f"{base}.f.a", b"3", guard=Guard(f"{base}.f.*", place)))
        assert await elsewhere.log.append(draft) == place
        with pytest.raises(Conflict) as conflict:
            await elsewhere.log.append(Draft(f"{base}.f.c", b"other", guard=draft.guard))
        assert conflict.value.actual == first


async def test_what_was_acknowledged_is_found_by_reading_on_every_server(buses: list[Bus]) -> None:
    seats = await tables(buses)
    subject = f"{seats[0].subjects.base}.stream.a"

    async def load() -> None:
        while True:  # so that one server or another lags behind the leader
            await seats[0].log.append_all(drafts(f"{seats[0].subjects.base}.stream.load", 200))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(load)
        for number in range(40):
            place = await seats[number % 3].log.append(Draft(subject, str(number).encode()))
            for conversation in seats:
                found = await read_all(conversation.log, subject)
                assert [record.seq for record in found][-1:] == [place], f"server {seats.index(conversation)}, {number}"
        tasks.cancel_scope.cancel()


async def test_tails_on_three_servers_see_the_same(buses: list[Bus]) -> None:
    seats = await tables(buses)
    subject = f"{seats[0].subjects.base}.stream.a"
    found: list[list[int]] = []

    async def listen(conversation: Conversation) -> None:
        async with conversation.log.follow(subject) as tail:
            found.append([record.seq for record in await take(tail, 300)])

    async with anyio.create_task_group() as tasks:
        for conversation in seats:
            tasks.start_soon(listen, conversation)
        for conversation in seats:
            tasks.start_soon(conversation.log.append_all, drafts(subject, 100))
    assert found[0] == found[1] == found[2] == sorted(found[0])


async def test_a_party_goes_on_when_the_leader_of_its_stream_is_killed(cluster: "Cluster") -> None:
    async with AsyncExitStack() as stack:
        buses = [await ready(stack, cluster.url) for _ in range(2)]
        name = f"race-{mint_run_id()}"
        here, there = [await bus.conversation(name) for bus in buses]
        await here.open(RUN, "figs", [Chair(seat=ADA)])
        floor = await here.floor()
        await here.grant(floor, ADA, RUN.child(), 0)
        floor = await here.floor()
        assert floor.open_grant is not None
        async with there.follow(seats=[ADA]) as tail:
            await take(tail, 2)
            async with connect(cluster.url) as connection:
                stream = await connection.api(f"STREAM.INFO.CONVIVE_{here.subjects.base.split('.')[1]}")
            leader = stream["cluster"]["leader"]
            cluster.kill(leader)
            run = RunContext(floor.open_grant.grant.run_id, RUN.run_id, RUN.run_id)
            places = await here.remember(ADA, [Remembered(text="it went dark", run_id=run.run_id)], run)
            await here.say(floor, floor.open_grant, "where were we?", run, memories=places)
            assert len(await take(tail, 2)) == 2
        cluster.start(leader)
        await anyio.to_thread.run_sync(cluster.wait_until_healthy)
        world = await there.world(ADA)
    assert [utterance.text for utterance in world.heard] == ["where were we?"]
    assert len(world.private[ADA].memory.held) == 1


async def test_a_draft_that_is_sent_again_while_its_first_copy_is_on_its_way_is_one_record(buses: list[Bus]) -> None:
    """The server answers the second with 10158, which says nothing of the first."""
    conversation = await buses[0].conversation(f"again-{mint_run_id()}")
    subject = f"{conversation.subjects.base}.a"
    for number in range(20):
        draft = Draft(subject, str(number).encode(), id=f"{conversation.id}-{number}")
        places = await conversation.log.append_all([draft] * 50)
        assert len(set(places)) == 1
    assert [record.body for record in await read_all(conversation.log, subject)] == [b"%d" % n for n in range(20)]
