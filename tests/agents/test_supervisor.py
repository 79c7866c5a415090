"""The supervisor: what it decides, and what it does when there are several, or none for a while."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents import (
    Close,
    Grant,
    Participant,
    Plan,
    Revoke,
    Say,
    Turn,
    Wait,
    decide,
    host_seats,
    supervise,
)
from convive.bus import (
    HOST,
    Bus,
    Chair,
    Conversation,
    Draft,
    Ended,
    Floor,
    Granted,
    Interjected,
    Opened,
    RunContext,
    Said,
    SeatName,
    Tail,
    event_of,
    fold_floor,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import Records, read_all, run_number, server

pytestmark = pytest.mark.anyio

ADA, BOB, CLEO = SeatName("ada"), SeatName("bob"), SeatName("cleo")
SEATS = (ADA, BOB, CLEO)
RUN = RunContext.root()
QUIET = Plan(turns=2, opens=False, toasts=False)


class Talker:
    """Says where it stands, at once."""

    async def take_turn(self, turn: Turn) -> Say:
        return Say(f"{turn.seat} in turn {turn.grant.turn}")


class Sleeper:
    """Has the floor and never says a word. `granted` tells that it has it."""

    def __init__(self) -> None:
        self.granted = anyio.Event()

    async def take_turn(self, turn: Turn) -> Say:
        self.granted.set()
        await anyio.sleep_forever()
        return Say("never")


# decide


class Story:
    """A floor to be decided on."""

    def __init__(self, *seats: SeatName) -> None:
        self.records = Records()
        opened = Opened(run_id=run_number(0), topic="", chairs=tuple(Chair(seat=seat) for seat in seats))
        self.floor = fold_floor(Floor(), self.records.link(HOST, opened))

    def grant(self, seat: SeatName, deadline_s: float = 0) -> "Story":
        turn = self.floor.turn + 1
        granted = Granted(link=self.floor.links, turn=turn, seat=seat, run_id=run_number(turn), deadline_s=deadline_s)
        self.floor = fold_floor(self.floor, self.records.link(HOST, granted))
        return self

    def say(self, seat: SeatName) -> "Story":
        turn = self.floor.turn
        said = Said(link=self.floor.links, turn=turn, run_id=run_number(turn), text="hm")
        self.floor = fold_floor(self.floor, self.records.link(seat, said))
        return self


def test_a_conversation_goes_from_the_opening_over_the_turns_to_the_toast_and_the_end() -> None:
    plan, story = Plan(turns=2), Story(ADA, BOB)
    for expected in (Grant(HOST, "open"), Grant(ADA), Grant(BOB), Grant(HOST, "toast")):
        assert decide(story.floor, plan, 0) == expected
        assert isinstance(expected, Grant)
        story.grant(expected.seat).say(expected.seat)
    assert isinstance(decide(story.floor, plan, 0), Close)


def test_without_opening_and_toast_there_are_only_the_turns() -> None:
    story = Story(ADA)
    for _ in range(2):
        assert decide(story.floor, QUIET, 0) == Grant(ADA)
        story.grant(ADA).say(ADA)
    assert isinstance(decide(story.floor, QUIET, 0), Close)


def test_there_is_nothing_to_do_before_the_opening_and_behind_the_end() -> None:
    assert decide(Floor(), QUIET, 0) == Wait()
    story = Story(ADA)
    ended = fold_floor(story.floor, story.records.link(HOST, Ended(link=1)))
    assert decide(ended, QUIET, 0) == Wait()


def test_without_guests_it_waits_for_one() -> None:
    assert decide(Story().floor, QUIET, 0) == Wait()


def test_a_grant_is_revoked_once_its_deadline_and_the_grace_have_passed() -> None:
    plan = Plan(turns=2, turn_s=10, grace_s=2)
    floor = Story(ADA).grant(ADA, deadline_s=100).floor
    assert decide(floor, plan, 101.9) == Wait(102)
    assert isinstance(decide(floor, plan, 102), Revoke)


def test_a_supervisor_that_has_just_begun_gives_an_old_grant_a_whole_turns_time() -> None:
    plan = Plan(turns=2, turn_s=10, grace_s=2)
    floor = Story(ADA).grant(ADA, deadline_s=100).floor
    assert decide(floor, plan, 500, seen_s=500) == Wait(512)
    assert isinstance(decide(floor, plan, 512, seen_s=500), Revoke)
    assert decide(floor, plan, 99, seen_s=80) == Wait(102)


@given(
    now=st.floats(-1e6, 1e6),
    since=st.floats(0, 1e6),
    turns=st.integers(0, 4),
    opens=st.booleans(),
    toasts=st.booleans(),
    granted=st.integers(0, 6),
    open_grant=st.booleans(),
)
def test_a_decision_to_wait_is_never_for_a_moment_that_has_passed(
    now: float, since: float, turns: int, opens: bool, toasts: bool, granted: int, open_grant: bool
) -> None:
    story = Story(ADA, BOB)
    for _ in range(granted):
        story.grant(ADA).say(ADA)
    if open_grant:
        story.grant(BOB, deadline_s=50)
    decision = decide(story.floor, Plan(turns, opens=opens, toasts=toasts), now, since)
    if isinstance(decision, Wait) and decision.until_s is not None:
        assert decision.until_s > now
    if isinstance(decision, Grant):
        assert not open_grant


# supervise


@pytest.fixture(scope="module")
async def url() -> AsyncGenerator[str]:
    async with server() as own:
        yield own.url


async def opened(bus: Bus, *seats: SeatName, name: str = "") -> Conversation:
    conversation = await bus.conversation(name or f"party-{mint_run_id()}")
    await conversation.open(RUN, "figs", [Chair(seat=seat) for seat in seats or SEATS])
    return conversation


async def play(conversation: Conversation, plan: Plan, guests: Mapping[SeatName, Participant]) -> Floor:
    """Lead a conversation with these guests to its end."""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, guests)
            await supervise(conversation, plan, RUN)
    return await conversation.floor()


async def until(tail: Tail, kind: type[object], count: int = 1) -> None:
    """Read until so many events of a kind have come."""
    with anyio.fail_after(20):
        while count:
            record = await tail.next()
            assert record is not None
            count -= isinstance(event_of(record), kind)


async def test_a_whole_conversation_is_led_to_its_end() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus)
        floor = await play(conversation, Plan(turns=6), dict.fromkeys((*SEATS, HOST), Talker()))
        world = await conversation.world()
    assert floor.closed is not None
    assert floor.damage == ()
    assert [utterance.seat for utterance in world.heard] == [HOST, *SEATS, *SEATS, HOST]


async def test_supervising_what_is_closed_returns_its_floor_at_once() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus)
        await conversation.close(await conversation.floor(), RUN, "over")
        with anyio.fail_after(5):
            floor = await supervise(conversation, QUIET, RUN)
    assert floor.closed is not None
    assert floor.links == 2


async def test_a_seat_that_says_nothing_is_revoked_and_the_next_one_has_the_floor() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus, ADA, BOB)
        plan = Plan(turns=2, turn_s=0.05, grace_s=0, opens=False, toasts=False)
        floor = await play(conversation, plan, {ADA: Sleeper(), BOB: Talker()})
        world = await conversation.world()
    assert [utterance.seat for utterance in world.heard] == [BOB]
    assert (floor.turn, floor.said_turns, floor.damage) == (2, 1, ())


async def test_a_deadline_is_kept_although_there_is_much_else_on_the_bus() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus, ADA)

        async def heckle() -> None:
            while True:
                await conversation.aside(BOB, Interjected(text="boo"), RUN)
                await anyio.sleep(0.001)  # the load of this test, not a wait for something

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heckle)
            plan = Plan(turns=1, turn_s=0.1, grace_s=0, opens=False, toasts=False)
            await play(conversation, plan, {ADA: Sleeper()})
            tasks.cancel_scope.cancel()
        floor = await conversation.floor()
    assert (floor.turn, floor.said_turns) == (1, 0)


@pytest.mark.parametrize("supervisors", [2, 4])
async def test_several_supervisors_make_one_whole_chain(url: str, supervisors: int) -> None:
    name = f"party-{mint_run_id()}"
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(open_bus(url)) for _ in range(supervisors)]
        conversation = await opened(buses[0], name=name)
        plan = Plan(turns=12, opens=False, toasts=False)
        floors: list[Floor] = []

        async def lead(bus: Bus) -> None:
            floors.append(await supervise(await bus.conversation(name), plan, RUN))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for bus in buses:
                    tasks.start_soon(lead, bus)
                # Every seat is doubled: in two processes sits the same guest.
                for bus in buses[:2]:
                    tasks.start_soon(host_seats, await bus.conversation(name), dict.fromkeys(SEATS, Talker()))
        records = await read_all(conversation.log, conversation.subjects.floor)
        world = await conversation.world()
    assert [getattr(event_of(record), "link", None) for record in records] == list(range(26))
    assert {(floor.links, floor.turn, floor.said_turns, floor.damage) for floor in floors} == {(26, 12, 12, ())}
    assert [utterance.text for utterance in world.heard] == [
        f"{SEATS[turn % 3]} in turn {turn + 1}" for turn in range(12)
    ]


async def test_a_restarted_supervisor_goes_on_from_the_open_grant() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus, ADA)
        sleeper = Sleeper()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as first:
                first.start_soon(supervise, conversation, QUIET, RUN)
                first.start_soon(host_seats, conversation, {ADA: sleeper})
                await sleeper.granted.wait()
                first.cancel_scope.cancel()
            held = (await conversation.floor()).open_grant
            assert held is not None
            floor = await play(conversation, QUIET, {ADA: Talker()})
        records = await read_all(conversation.log, conversation.subjects.floor)
    assert (floor.turn, floor.said_turns) == (2, 2)
    said = event_of(records[2])
    assert isinstance(said, Said)
    assert said.run_id == held.grant.run_id


async def test_a_supervisor_restarted_long_after_a_deadline_lets_the_seat_have_its_turn() -> None:
    async with memory_bus() as bus:
        conversation = await opened(bus, ADA)
        await conversation.grant(await conversation.floor(), ADA, RUN.child(), deadline_s=1)
        with anyio.fail_after(10):
            async with conversation.follow() as tail, anyio.create_task_group() as tasks:
                tasks.start_soon(supervise, conversation, QUIET, RUN)
                await until(tail, Granted)
                await anyio.wait_all_tasks_blocked()
                assert (await conversation.floor()).open_grant is not None
                tasks.start_soon(host_seats, conversation, {ADA: Talker()})
                await until(tail, Ended)
        floor = await conversation.floor()
    assert (floor.turn, floor.said_turns) == (2, 2)


async def test_records_that_are_not_ours_do_not_stop_a_conversation() -> None:
    junk = (b"", b"\xff\x00", b'{"type":"something else"}', Said(link=0, turn=1, run_id=run_number(9), text="x").body())
    async with memory_bus() as bus:
        conversation = await opened(bus)
        subjects = conversation.subjects

        class Litterer:
            """Makes a mess of the bus before it speaks."""

            async def take_turn(self, turn: Turn) -> Say:
                for body in junk:
                    for subject in (subjects.link(BOB), subjects.link(HOST), subjects.aside(ADA), subjects.memory(ADA)):
                        await conversation.log.append(Draft(subject, body))
                return Say("what a mess")

        plan = Plan(turns=4, opens=False, toasts=False)
        floor = await play(conversation, plan, dict.fromkeys(SEATS, Litterer()))
    assert (floor.turn, floor.said_turns, len(floor.damage)) == (4, 4, 10)


async def test_a_server_killed_in_the_middle_costs_no_turn_and_doubles_none() -> None:
    async with server() as own, open_bus(own.url) as bus, open_bus(own.url) as elsewhere:
        conversation = await opened(bus, name="table")
        plan = Plan(turns=60, opens=False, toasts=False)
        with anyio.fail_after(30):
            async with conversation.follow() as tail, anyio.create_task_group() as tasks:
                tasks.start_soon(supervise, conversation, plan, RUN)
                there = await elsewhere.conversation("table")
                tasks.start_soon(host_seats, there, dict.fromkeys(SEATS, Talker()))
                for _ in range(3):
                    await until(tail, Said, 12)
                    own.kill()
                    await own.start()
                await until(tail, Ended)
        world = await conversation.world()
    assert world.floor.damage == ()
    assert [utterance.text for utterance in world.heard] == [
        f"{SEATS[turn % 3]} in turn {turn + 1}" for turn in range(60)
    ]
