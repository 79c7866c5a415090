"""Turns that need an answer: the seat waits with the floor, the supervisor lets it, and anybody may answer."""

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Approve,
    Deny,
    Interrupt,
    Participant,
    Pause,
    Plan,
    Request,
    Revoke,
    Say,
    Suspension,
    ToolUse,
    Turn,
    TurnOver,
    Wait,
    answer,
    cancel_run,
    decide,
    host_seats,
    pending,
    run_events,
    standby,
    supervise,
    tool,
)
from convive.agents.models._messages import ToolResult
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    Ended,
    Floor,
    Granted,
    Opened,
    OpenGrant,
    Passed,
    Revoked,
    RunContext,
    SeatName,
    event_of,
    fold_floor,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import Records, read_all, run_number, server

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
RUN = RunContext.root()
ONE_TURN = Plan(turns=1, opens=False, toasts=False)


@pytest.fixture(params=["memory", "server"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    server: AbstractAsyncContextManager[Bus] = open_bus(nats_url, prefix=f"s{time.time_ns()}", partitions=2)
    async with memory_bus() if request.param == "memory" else server as made:
        yield made


@pytest.fixture
async def table(bus: Bus) -> Conversation:
    conversation = await bus.conversation(f"party-{mint_run_id()}")
    await conversation.open(RUN, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    return conversation


class Payer:
    """What an agent that pays by a tool which needs an approval has done; every process makes its own agent."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.asked = 0

    def seat(self, **options: float) -> AgentSeat:
        @tool(needs_approval=True)
        async def pay(amount: int) -> str:
            """Pay the bill."""
            self.paid.append(amount)
            return f"paid {amount}"

        def reply(request: Request) -> Answer | str:
            self.asked += 1
            heard = [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]
            if heard:
                return f"I {heard[0].content}."
            return Answer(parts=(ToolUse(id="1", name="pay", arguments={"amount": 3}),), stop_reason="tool_use")

        expires_s = options.get("expires_s")
        return AgentSeat(Agent("ada", model=ScriptedModel(reply), tools=[pay], expires_s=expires_s))


class Talker:
    async def take_turn(self, turn: Turn) -> Say:
        return Say("Well.")


def guests(payer: Payer) -> dict[SeatName, Participant]:
    return {ADA: payer.seat(), BOB: Talker()}


@asynccontextmanager
async def seated(conversation: Conversation, *participants: Participant) -> AsyncGenerator[None]:
    """Each of them sits in ada's seat, as in a process of its own."""
    async with anyio.create_task_group() as tasks:
        for participant in participants:
            tasks.start_soon(host_seats, conversation, {ADA: participant})
        yield
        tasks.cancel_scope.cancel()


async def grant(conversation: Conversation) -> OpenGrant:
    place = await conversation.grant(await conversation.floor(), ADA, RUN.child(), 0)
    held = (await conversation.floor(place)).open_grant
    assert held is not None
    return held


async def suspended(conversation: Conversation, held: OpenGrant) -> Suspension:
    """Wait until the run of a turn waits for an answer."""
    with anyio.fail_after(20):
        async with conversation.log.follow(f"{conversation.subjects.base}.run.*.{held.grant.run_id}") as tail:
            async for record in tail:
                if b'"suspended"' in record.body:
                    break
    (found,) = await pending(conversation)
    assert found.run_id == held.grant.run_id
    return found


async def turn_over(conversation: Conversation, held: OpenGrant) -> Floor:
    with anyio.fail_after(20):
        async with conversation.follow(after=held.seq) as tail:
            while (floor := await conversation.floor()).open_grant == held:
                await tail.next()
    return floor


def approved(waiting: Suspension) -> dict[str, Approve]:
    interrupts: tuple[Interrupt, ...] = waiting.interrupts
    return {each.id: Approve() for each in interrupts}


# The seat


async def test_a_turn_waits_with_the_floor_and_goes_on_with_the_answer(bus: Bus, table: Conversation) -> None:
    """G24, G40: the same turn, the same run; whoever answers needs nothing but the run's id"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
        assert (waiting.seat, waiting.agent, waiting.conversation) == (ADA, "ada", table.id)
        assert await pending(bus) == [waiting]
        assert (await table.floor()).open_grant == held
        assert await answer(bus, waiting.run_id, approved(waiting)) == "seat"
        floor = await turn_over(table, held)
    assert floor.heard is not None
    assert (floor.heard.text, payer.paid, payer.asked) == ("I paid 3.", [3], 2)
    assert await pending(bus) == []
    async with run_events(bus, held.grant.run_id) as events:
        kinds = [each.event.type async for each in events]
    assert (kinds.count("run_suspended"), kinds[-1]) == (1, "run_finished")


async def test_a_denied_turn_is_said_with_what_the_model_makes_of_it(table: Conversation) -> None:
    """G33"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
        await answer(table, waiting.run_id, {waiting.interrupts[0].id: Deny("too much")})
        floor = await turn_over(table, held)
    assert floor.heard is not None
    assert "too much" in floor.heard.text
    assert payer.paid == []


async def test_a_seat_that_comes_back_waits_again(table: Conversation) -> None:
    """G46: what the model answered before is not asked for again"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        await suspended(table, held)
    async with seated(table, payer.seat()):
        waiting = await suspended(table, held)
        await answer(table, waiting.run_id, approved(waiting))
        floor = await turn_over(table, held)
    assert floor.heard is not None
    assert (floor.heard.text, payer.paid, payer.asked) == ("I paid 3.", [3], 2)


async def test_a_turn_that_is_answered_while_nobody_sits_there_goes_on_when_somebody_does(table: Conversation) -> None:
    """G46"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
    assert await answer(table, waiting.run_id, approved(waiting)) == "seat"
    async with seated(table, payer.seat()):
        await turn_over(table, held)
    assert (payer.paid, payer.asked) == ([3], 2)


async def test_a_doubled_seat_pays_once(table: Conversation) -> None:
    """Conformance test 1, for those who go on"""
    one, two = Payer(), Payer()
    async with seated(table, one.seat(), two.seat(), two.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
        await anyio.wait_all_tasks_blocked()
        await answer(table, waiting.run_id, approved(waiting))
        floor = await turn_over(table, held)
    assert floor.heard is not None
    assert (floor.heard.text, one.paid + two.paid) == ("I paid 3.", [3])
    assert floor.said_turns == 1


async def test_a_server_that_is_killed_while_a_turn_waits_loses_neither_the_turn_nor_the_answer() -> None:
    """G46"""
    payer = Payer()
    async with server() as own, open_bus(own.url) as here, open_bus(own.url) as there:
        table = await here.conversation("party")
        await table.open(RUN, "figs", [Chair(seat=ADA)])
        async with seated(table, payer.seat()):
            held = await grant(table)
            waiting = await suspended(table, held)
            own.kill()
            await own.start()
            assert await answer(there, waiting.run_id, approved(waiting)) == "seat"
            floor = await turn_over(table, held)
    assert floor.heard is not None
    assert (floor.heard.text, payer.paid) == ("I paid 3.", [3])


async def test_a_turn_that_nobody_may_answer_any_more_is_passed(table: Conversation) -> None:
    """G44: the agent's own time to answer"""
    payer = Payer()
    async with seated(table, payer.seat(expires_s=0.05)):
        held = await grant(table)
        floor = await turn_over(table, held)
    assert isinstance(floor.last_outcome, Passed)
    assert floor.last_outcome.reason == "nobody answered about pay in time"
    assert payer.paid == []


async def test_a_turn_whose_run_is_called_off_is_passed(table: Conversation) -> None:
    """Conformance test 23: a parked run"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
        assert await cancel_run(table, waiting.run_id, "not today")
        floor = await turn_over(table, held)
    assert isinstance(floor.last_outcome, Passed)
    assert floor.last_outcome.reason == "not today"


async def test_an_answer_to_a_turn_that_is_over_is_refused(bus: Bus, table: Conversation) -> None:
    """G44: an error of its own; nothing changed, and it is not listed any more"""
    payer = Payer()
    async with seated(table, payer.seat()):
        held = await grant(table)
        waiting = await suspended(table, held)
        await table.revoke(await table.floor(), held, RUN, "too long")
        with pytest.raises(TurnOver, match="the turn of ada is over"):
            await answer(table, waiting.run_id, approved(waiting))
        await anyio.wait_all_tasks_blocked()
    assert await pending(bus) == []
    assert payer.paid == []
    last = await table.log.last(f"{table.subjects.base}.run.*.{waiting.run_id}")
    assert last is not None
    assert b'"suspended"' in last.body


# The supervisor


class Clock:
    """The time that a supervisor sees; `seen` waits until it has looked at it after a moment."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._looked = anyio.Event()
        self._until_s = 0.0

    def __call__(self) -> float:
        now_s = time.time() + self._offset_s
        if now_s >= self._until_s:
            self._looked.set()
        return now_s

    async def passes(self, seconds: float) -> None:
        """Wait until the supervisor has looked at a clock that is so much later."""
        self._until_s, self._looked = time.time() + self._offset_s + seconds, anyio.Event()
        with anyio.fail_after(20):
            await self._looked.wait()


async def test_a_turn_that_waits_is_not_taken_for_one_that_is_dead(bus: Bus, table: Conversation) -> None:
    """The turn's time has passed three times over; then there is an answer, and the turn is said"""
    payer, clock = Payer(), Clock()
    plan = Plan(turns=1, turn_s=0.2, grace_s=0.0, opens=False, toasts=False)
    async with anyio.create_task_group() as tasks:
        for each in (plan, standby(plan, 0.1)):
            tasks.start_soon(supervise, table, each, RUN, clock)
        tasks.start_soon(host_seats, table, guests(payer))
        waiting = await granted(table, bus)
        await clock.passes(0.6)
        assert await answer(bus, waiting.run_id, approved(waiting)) == "seat"
    floor = await table.floor()
    assert floor.heard is not None
    assert (floor.heard.text, floor.turn, payer.paid) == ("I paid 3.", 1, [3])


async def granted(table: Conversation, bus: Bus) -> Suspension:
    """Wait for the first grant, and until its run waits."""
    with anyio.fail_after(20):
        async with table.follow() as tail:
            async for record in tail:
                if isinstance(event_of(record), Granted):
                    break
    held = (await table.floor()).open_grant
    assert held is not None
    return await suspended(table, held)


@pytest.mark.parametrize("answer_s", [0.0, 0.3])
async def test_a_turn_that_waits_for_too_long_is_taken_back_and_the_next_guest_speaks(
    bus: Bus, table: Conversation, answer_s: float
) -> None:
    """G44: the answer comes too late then; 0 is no longer than any turn"""
    payer = Payer()
    plan = Plan(turns=2, turn_s=0.1, grace_s=0.0, answer_s=answer_s, opens=False, toasts=False)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise, table, plan, RUN)
            tasks.start_soon(host_seats, table, guests(payer))
    events = [event_of(record) for record in await read_all(table.log, table.subjects.floor)]
    revoked = next(event for event in events if isinstance(event, Revoked))
    assert revoked.reason == "nobody answered ada in time"
    assert isinstance(events[-1], Ended)
    assert (await table.floor()).said_turns == 1
    assert payer.paid == []
    assert await pending(bus) == []


def story() -> Floor:
    records = Records()
    floor = fold_floor(Floor(), records.link("host", Opened(run_id=run_number(0), topic="", chairs=(Chair(seat=ADA),))))
    granted = Granted(link=1, turn=1, seat=ADA, run_id=run_number(1), deadline_s=100)
    return fold_floor(floor, records.link("host", granted))


PLAN = Plan(turns=2, turn_s=10, grace_s=2, answer_s=60)


@pytest.mark.parametrize(
    ("now_s", "seen_s", "pause", "expected"),
    [
        (101, 0, Pause(95), Wait(113)),  # it is looked at again after a turn's time
        (150, 0, Pause(95), Wait(157)),  # 95 + 60 + 2
        (157, 0, Pause(95), Revoke("nobody answered ada in time")),
        (101, 0, Pause(95, expires_at=98), Wait(102)),
        (102, 0, Pause(95, expires_at=98), Revoke("nobody answered ada in time")),
        (110, 0, Pause(95, expires_at=112), Wait(114)),
        (130, 0, Pause(95, answered_s=125), Wait(137)),  # a whole turn's time from the answer on
        (137, 0, Pause(95, answered_s=125), Revoke("no word from ada in time")),
        (1_000, 1_000, Pause(95), Wait(1_012)),  # a supervisor that has just begun
        (1_061, 1_000, Pause(95), Wait(1_062)),
        (1_062, 1_000, Pause(95), Revoke("nobody answered ada in time")),
    ],
)
def test_how_long_a_turn_may_wait(now_s: float, seen_s: float, pause: Pause, expected: Wait | Revoke) -> None:
    assert decide(story(), PLAN, now_s, seen_s, pause) == expected
    never = Plan(turns=2, turn_s=10, grace_s=2, answer_s=0)
    assert type(decide(story(), never, now_s, seen_s, pause)) is type(decide(story(), never, now_s, seen_s))
