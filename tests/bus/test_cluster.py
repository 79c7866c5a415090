"""The floor on three nodes: rivals on different servers, guarded writes in flight, appends that are tried again."""

import json
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
    Job,
    Record,
    Remembered,
    RunContext,
    SeatName,
    Tail,
    event_of,
    mint_run_id,
    open_bus,
)
from convive.bus.jetstream._connect import connect
from convive.bus.jetstream._jetstream_publisher import Publisher
from convive.bus.log._log import MESSAGE_ID
from convive.bus.testing import drafts, read_all, take, take_job

if TYPE_CHECKING:
    from tests.bus.conftest import Ready
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
RUN = RunContext.root()


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


async def test_an_append_sent_again_while_its_first_copy_is_on_its_way_to_the_replicas_is_stored_once(
    cluster: "Cluster",
) -> None:
    async with AsyncExitStack() as stack:
        name = f"T_{mint_run_id()}"
        connection = await stack.enter_async_context(connect(cluster.url))
        made = {"name": name, "subjects": [f"{name}.>"], "num_replicas": 3}
        leader = (await connection.api(f"STREAM.CREATE.{name}", made))["cluster"]["leader"]
        connection = await stack.enter_async_context(connect(cluster.urls[leader]))
        publisher = Publisher(connection, 20)
        await publisher.start()
        draft = Draft(f"{name}.a", b"once", id="the same")
        places: list[int] = []

        async def append() -> None:
            places.append(await publisher.append(name, draft))

        async def refused() -> int:
            """What the server says to a further copy; it has seen every earlier one on this connection."""
            answer = await connection.client.request(draft.subject, draft.body, headers={MESSAGE_ID: "the same"})
            return int(json.loads(answer.data)["error"]["err_code"])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                try:
                    for node in cluster.urls.keys() - {leader}:
                        cluster.pause(node)
                    for _ in range(2):
                        tasks.start_soon(append)
                        await anyio.wait_all_tasks_blocked()
                        assert await refused() == 10158  # a duplicate of what is not stored yet
                finally:
                    cluster.restore()
        assert places == [1, 1]
        assert (await connection.api(f"STREAM.DELETE.{name}"))["success"]


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


async def test_a_reader_on_a_server_that_was_left_behind_reads_everything(buses: list[Bus], cluster: "Cluster") -> None:
    seats = dict(zip(cluster.urls, await tables(buses), strict=True))
    subject = f"{next(iter(seats.values())).subjects.base}.stream.a"
    first = await next(iter(seats.values())).log.append(Draft(subject, b"first"))
    # A leader that wakes up takes itself for one for some seconds more: guarantees.md says so.
    leader = await leader_of(next(iter(seats.values())), cluster)
    behind, other = [name for name in seats if name != leader]
    here, there = seats[other], seats[behind]
    with anyio.fail_after(60):
        async with there.log.follow(subject) as tail:
            assert await tail.catch_up() is not None
            cluster.pause(behind)
            try:
                places = await here.log.append_all(drafts(subject, 2_000))
            finally:
                cluster.resume(behind)
            # What it has slept through is still on its way to it.
            async with there.log.follow(subject, after=first) as late:
                caught_up = [record.seq async for record in until_caught_up(late)]
            assert caught_up == places
            assert [record.seq for record in await read_all(there.log, subject)] == [first, *places]
            assert [record.seq for record in await take(tail, len(places))] == places
    cluster.restore()


async def until_caught_up(tail: Tail) -> AsyncGenerator[Record]:
    while (record := await tail.catch_up()) is not None:
        yield record


async def test_a_leader_that_is_paused_is_replaced_and_takes_over_what_happened_when_it_wakes_up(
    cluster: "Cluster", ready: "Ready"
) -> None:
    async with AsyncExitStack() as stack:
        bus = await ready(stack, cluster.url)
        conversation = await bus.conversation(f"race-{mint_run_id()}")
        guarded = conversation.subjects.floor
        places = [await conversation.log.append(Draft(conversation.subjects.link(ADA), b"0", guard=Guard(guarded, 0)))]
        leader = await leader_of(conversation, cluster)
        others = ",".join(url for name, url in cluster.urls.items() if name != leader)
        elsewhere = await stack.enter_async_context(open_bus(others))
        there = await elsewhere.conversation(conversation.id)
        cluster.pause(leader)
        try:
            with anyio.fail_after(40):
                for number in range(1, 20):
                    draft = Draft(there.subjects.link(ADA), str(number).encode(), guard=Guard(guarded, places[-1]))
                    places.append(await there.log.append(draft))
        finally:
            cluster.restore()
        woken = await ready(stack, cluster.urls[leader])
        records = await read_all((await woken.conversation(conversation.id)).log, guarded)
    assert [(record.seq, record.body) for record in records] == [
        (place, str(number).encode()) for number, place in enumerate(places)
    ]


async def leader_of(conversation: Conversation, cluster: "Cluster") -> str:
    """The name of the node that leads a conversation's stream."""
    async with connect(cluster.url) as connection:
        stream = await connection.api(f"STREAM.INFO.CONVIVE_{conversation.subjects.base.split('.')[1]}")
    return str(stream["cluster"]["leader"])


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


async def test_jobs_are_listed_at_once_on_every_server(buses: list[Bus]) -> None:
    """Whichever answers for a page, and however far it lags."""
    name = f"q-{str(mint_run_id())[-16:]}"
    queues = [await bus.work_queue(name) for bus in buses]
    busy = await buses[0].work_queue(f"{name}-busy")

    async def load() -> None:
        for number in range(10_000):  # so that one server or another lags behind the leader
            await busy.send(Job(f"job-{number}", b"x" * 10_000))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(load)
        for number in range(60):
            job = Job(f"job-{number}", b"work")
            await queues[number % 3].send(job)
            for queue in queues:
                assert job in await queue.jobs(), f"server {queues.index(queue)}, {number}"
        tasks.cancel_scope.cancel()


async def test_new_streams_are_made_while_a_node_is_away_and_it_has_them_when_it_is_back(
    cluster: "Cluster", ready: "Ready"
) -> None:
    name, prefix = f"race-{mint_run_id()}", f"new{mint_run_id()[-8:]}"
    async with AsyncExitStack() as stack:
        away, url = next(iter(cluster.urls.items()))
        others = ",".join(one for one in cluster.urls.values() if one != url)
        await ready(stack, others)
        fresh = await stack.enter_async_context(open_bus(others, replicas=3, prefix=prefix))
        cluster.end(away)
        try:
            conversation = await fresh.conversation(name)
            await conversation.open(RUN, "figs", [Chair(seat=ADA)])
            await (await fresh.work_queue(name)).send(Job("job", b"work"))
        finally:
            cluster.restore()
        back = await stack.enter_async_context(open_bus(url, prefix=prefix))
        assert (await (await back.existing(name)).floor()).links == 1
        assert (await take_job(await back.work_queue(name))).job.body == b"work"


async def test_more_copies_than_nodes_are_refused_with_the_reason(cluster: "Cluster") -> None:
    async with open_bus(cluster.url, replicas=5, prefix=f"five{mint_run_id()[-8:]}") as bus:
        for ask in (bus.conversation, bus.work_queue):
            with pytest.raises(BusUnavailable, match=r"no suitable peers .* Nothing was changed"):
                await ask("figs")


async def test_a_turn_is_committed_although_the_leader_of_its_stream_is_killed(
    cluster: "Cluster", ready: "Ready"
) -> None:
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
            leader = await leader_of(here, cluster)
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
