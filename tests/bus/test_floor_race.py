"""The floor protocol under contention on a real server: whoever races, there is one chain and it is whole."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from random import Random

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.bus import (
    BadRecord,
    Bus,
    Chair,
    Closed,
    Conflict,
    Conversation,
    Draft,
    Floor,
    Granted,
    OpenGrant,
    Remembered,
    RunContext,
    Said,
    SeatName,
    event_of,
    fold_floor,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import read_all

pytestmark = pytest.mark.anyio

ADA, BOB, CLEO = SeatName("ada"), SeatName("bob"), SeatName("cleo")
SEATS = (ADA, BOB, CLEO)
RUN = RunContext.root()


@pytest.fixture(scope="module")
async def buses(url: str) -> AsyncGenerator[list[Bus]]:
    """Several connections, as several processes have them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_bus(url)) for _ in range(3)]


async def table(buses: list[Bus]) -> list[Conversation]:
    """The same new conversation, seen through each connection, opened."""
    name = f"race-{mint_run_id()}"
    tables = [await bus.conversation(name) for bus in buses]
    await tables[0].open(RUN, "figs", [Chair(seat=seat) for seat in SEATS])
    return tables


async def granted(conversation: Conversation, seat: SeatName = ADA) -> tuple[Floor, OpenGrant]:
    await conversation.grant(await conversation.floor(), seat, RUN.child(), 0)
    floor = await conversation.floor()
    assert floor.open_grant is not None
    return floor, floor.open_grant


async def lead(conversation: Conversation, chance: Random, turns: int) -> None:
    """A supervisor that decides on what it read last, which may be old by then, and revokes at a whim."""
    while True:
        floor = await conversation.floor()
        if floor.closed is not None:
            return
        try:
            if floor.open_grant is not None:
                if chance.random() < 0.2:
                    await conversation.revoke(floor, floor.open_grant, RUN, f"whim {chance.random()}")
            elif floor.turn < turns:
                await conversation.grant(floor, chance.choice(SEATS), RUN.child(), 0)
            else:
                await conversation.close(floor, RUN)
        except (Conflict, Closed):
            continue


async def sit(conversation: Conversation, seat: SeatName, name: str, won: list[tuple[int, str]]) -> None:
    """A seat that speaks whenever it read that it has the floor, and notes the turns that it was told it got."""
    while True:
        floor = await conversation.floor()
        if floor.closed is not None:
            return
        held = floor.open_grant
        if held is None or held.grant.seat != seat:
            continue
        try:
            await conversation.say(floor, held, name, RUN)
        except (Conflict, Closed):
            continue
        won.append((held.grant.turn, name))


@given(seed=st.integers(0, 2**32), supervisors=st.integers(1, 4), doubles=st.integers(1, 3))
@settings(max_examples=8)
async def test_however_many_race_there_is_one_chain_and_each_turn_is_said_once_by_its_grantee(
    buses: list[Bus], seed: int, supervisors: int, doubles: int
) -> None:
    turns, chance = 10, Random(seed)  # noqa: S311 - a schedule, not a secret
    tables = await table(buses)
    won: list[tuple[int, str]] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(supervisors):
                tasks.start_soon(lead, tables[number % 3], Random(chance.random()), turns)  # noqa: S311
            for seat in SEATS:
                for number in range(doubles):
                    name = f"{seat} {number}"
                    tasks.start_soon(sit, tables[number % 3], seat, name, won)
    records = await read_all(tables[0].log, tables[0].subjects.floor)
    floor = Floor()
    said: list[tuple[int, str]] = []
    for number, record in enumerate(records):
        event = event_of(record)
        assert getattr(event, "link", None) == number
        holder = floor.open_grant
        floor = fold_floor(floor, record)
        if isinstance(event, Said):
            assert holder is not None
            assert record.subject.endswith(f".{holder.grant.seat}")
            assert event.text.startswith(holder.grant.seat)
            said.append((event.turn, event.text))
    assert floor.damage == ()
    assert floor.closed is not None
    assert floor.turn == turns
    # Whoever was told that he spoke did speak, and nobody else: one voice a turn.
    assert sorted(won) == sorted(said)
    assert len({turn for turn, _ in said}) == len(said)


async def test_of_two_that_open_a_conversation_one_succeeds(buses: list[Bus]) -> None:
    name = f"race-{mint_run_id()}"
    outcomes: list[str] = []

    async def attempt(bus: Bus) -> None:
        try:
            await (await bus.conversation(name)).open(RunContext.root(), "figs")
            outcomes.append("opened")
        except Conflict:
            outcomes.append("conflict")

    async with anyio.create_task_group() as tasks:
        for bus in buses:
            tasks.start_soon(attempt, bus)
    assert sorted(outcomes) == ["conflict", "conflict", "opened"]


async def test_of_a_doubled_seat_one_speaks_and_only_its_memories_count(buses: list[Bus]) -> None:
    tables = await table(buses)
    floor, held = await granted(tables[0])
    run = RunContext(held.grant.run_id, RUN.run_id, RUN.run_id)
    outcomes: dict[str, bool] = {}

    async def speak(conversation: Conversation, name: str) -> None:
        memory = Remembered(text=f"I am {name}", run_id=run.run_id)
        places = await conversation.remember(ADA, [memory], run)
        try:
            await conversation.say(floor, held, name, run, memories=places)
            outcomes[name] = True
        except Conflict:
            outcomes[name] = False

    async with anyio.create_task_group() as tasks:
        for number, conversation in enumerate(tables):
            tasks.start_soon(speak, conversation, f"ada {number}")
    (winner,) = [name for name, spoke in outcomes.items() if spoke]
    world = await tables[0].world(ADA)
    assert [utterance.text for utterance in world.heard] == [winner]
    assert [memory.event.text for memory in world.private[ADA].memory.held] == [f"I am {winner}"]


async def test_a_late_speaker_is_refused_after_a_revoke_and_does_not_remember(buses: list[Bus]) -> None:
    table_here, elsewhere, _ = await table(buses)
    floor, held = await granted(table_here)
    run = RunContext(held.grant.run_id, RUN.run_id, RUN.run_id)
    places = await elsewhere.remember(ADA, [Remembered(text="secret", run_id=run.run_id)], run)
    await table_here.revoke(floor, held, RUN, "too slow")
    with pytest.raises(Conflict):
        await elsewhere.say(floor, held, "at last", run, memories=places)
    now = await elsewhere.floor()
    with pytest.raises(Conflict):  # not even with the newest floor: the grant is gone
        await elsewhere.say(now, held, "at last", run)
    world = await elsewhere.world(ADA)
    assert world.heard == []
    assert world.private[ADA].memory.held == []


async def test_a_revoke_is_refused_after_the_seat_has_spoken(buses: list[Bus]) -> None:
    table_here, elsewhere, _ = await table(buses)
    floor, held = await granted(table_here)
    place = await elsewhere.say(floor, held, "in time", RUN)
    with pytest.raises(Conflict) as conflict:
        await table_here.revoke(floor, held, RUN, "too slow")
    assert (conflict.value.expected, conflict.value.actual) == (held.seq, place)
    assert (await table_here.floor()).said_turns == 1


async def test_who_has_not_the_floor_is_refused_before_anything_is_sent(buses: list[Bus]) -> None:
    table_here, *_ = await table(buses)
    floor, held = await granted(table_here)
    await table_here.say(floor, held, "once", RUN)
    with pytest.raises(Conflict):
        await table_here.say(await table_here.floor(), held, "twice", RUN)
    assert (await table_here.floor()).said_turns == 1


async def test_a_closed_conversation_takes_no_further_links(buses: list[Bus]) -> None:
    table_here, elsewhere, _ = await table(buses)
    before = await elsewhere.floor()
    await table_here.close(before, RUN, "late")
    with pytest.raises(Conflict):
        await elsewhere.grant(before, ADA, RUN.child(), 0)
    with pytest.raises(Closed):
        await elsewhere.grant(await elsewhere.floor(), ADA, RUN.child(), 0)


async def test_the_same_link_appended_again_has_the_same_place(buses: list[Bus]) -> None:
    table_here, elsewhere, _ = await table(buses)
    floor, turn = await table_here.floor(), RUN.child()
    place = await table_here.grant(floor, ADA, turn, 1)
    assert await elsewhere.grant(floor, ADA, turn, 1) == place
    held = OpenGrant(Granted(link=1, turn=1, seat=ADA, run_id=turn.run_id, deadline_s=1), place)
    now = await table_here.floor()
    assert now.open_grant == held
    said = await table_here.say(now, held, "once", turn)
    await table_here.close(await table_here.floor(), RUN)
    assert await elsewhere.say(now, held, "once", turn) == said


async def test_garbage_on_the_floor_is_reported_and_the_holder_still_speaks(buses: list[Bus]) -> None:
    table_here, *_ = await table(buses)
    floor, held = await granted(table_here)
    for author, body in (("ada", b"\xff\x00"), ("bob", b'{"type":"other"}'), ("host", b"")):
        await table_here.log.append(Draft(f"{table_here.subjects.base}.bus.floor.{author}", body))
    with pytest.raises(Conflict):
        await table_here.say(floor, held, "as if nothing were there", RUN)
    now = await table_here.floor()
    assert len(now.damage) == 3
    assert now.open_grant == held
    with pytest.raises(BadRecord, match=f"record {now.damage[0].seq} on .*floor.ada: not an event of ours"):
        await table_here.floor(strict=True)
    assert (await table_here.floor(held.seq, strict=True)).damage == ()
    await table_here.say(now, held, "anyway", RUN)
    assert (await table_here.floor()).said_turns == 1
