"""Several supervisors of one conversation: one leads, the others stand by, and nobody fights over it."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import cast

import anyio
import pytest

from convive.agents import Plan, Say, Turn, host_seats, standby, supervise
from convive.bus import (
    Chair,
    Conflict,
    Conversation,
    Draft,
    Ended,
    Granted,
    Log,
    Noted,
    RunContext,
    RunId,
    SeatName,
    Tail,
    event_of,
    memory_bus,
    mint_run_id,
    open_bus,
)
from convive.bus.testing import read_all, server

pytestmark = pytest.mark.anyio

SEATS = tuple(SeatName(name) for name in ("ada", "bob", "cleo"))
RUN = RunContext.root()


class Talker:
    """Says where it stands, at once."""

    async def take_turn(self, turn: Turn) -> Say:
        return Say(f"{turn.seat} in turn {turn.grant.turn}")


class Counted:
    """A log that counts the appends it refused because another record came first."""

    def __init__(self, log: Log) -> None:
        self.refused = 0
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, draft: Draft) -> int:
        try:
            return await self._log.append(draft)
        except Conflict:
            self.refused += 1
            raise


class Chief:
    """A supervisor over a connection of its own; `changes` is what it was told: whether it leads, since which turn."""

    def __init__(self, conversation: Conversation, plan: Plan, clock: Callable[[], float] = time.time) -> None:
        self.log = Counted(conversation.log)
        self.run = RunContext.root()
        """In the headers of its grants, to tell them from others'."""
        self.changes: list[tuple[bool, int]] = []
        self._conversation = Conversation(cast("Log", self.log), conversation.id, conversation.subjects)
        self._plan = plan
        self._clock = clock
        self._scope = anyio.CancelScope()

    async def lead(self) -> None:
        with self._scope:
            await supervise(self._conversation, self._plan, self.run, self._clock, self._changed)

    def kill(self) -> None:
        self._scope.cancel()

    def _changed(self, leads: bool, turn: int) -> None:
        self.changes.append((leads, turn))


@asynccontextmanager
async def connected(count: int) -> AsyncGenerator[list[Conversation]]:
    """One new conversation over as many connections to a server of its own."""
    async with server() as own, AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(open_bus(own.url)) for _ in range(count)]
        await opened(await buses[0].conversation("table"))
        yield [await bus.conversation("table") for bus in buses]


async def opened(conversation: Conversation) -> Conversation:
    await conversation.open(RUN, "figs", [Chair(seat=seat) for seat in SEATS])
    return conversation


def plan(turns: int, turn_s: float = 120.0) -> Plan:
    return Plan(turns=turns, turn_s=turn_s, opens=False, toasts=False)


async def until(tail: Tail, kind: type[object], count: int = 1) -> None:
    """Read until so many events of a kind have come."""
    with anyio.fail_after(30):
        while count:
            record = await tail.next()
            assert record is not None
            count -= isinstance(event_of(record), kind)


async def check(conversation: Conversation, turns: int) -> None:
    """Every turn once, by whose turn it was, and not a link more than that takes."""
    records = await read_all(conversation.log, conversation.subjects.floor)
    assert [getattr(event_of(record), "link", None) for record in records] == list(range(2 * turns + 2))
    world = await conversation.world()
    assert world.floor.damage == ()
    assert [one.text for one in world.heard] == [f"{SEATS[turn % 3]} in turn {turn + 1}" for turn in range(turns)]


async def leaders(conversation: Conversation, *chiefs: Chief) -> list[int]:
    """Which of them gave each turn."""
    records = await read_all(conversation.log, conversation.subjects.floor)
    roots = [one.headers["traceparent"].split("-")[1] for one in records if isinstance(event_of(one), Granted)]
    return [[chief.run.run_id for chief in chiefs].index(RunId(root)) for root in roots]


@pytest.mark.parametrize("supervisors", [2, 5])
async def test_of_supervisors_that_all_begin_one_leads_and_the_others_try_once(supervisors: int) -> None:
    """No flapping: each that begins tries once, so over 30 turns no more appends are refused than there are others."""
    async with connected(supervisors + 1) as (seats, *others):
        chiefs = [Chief(each, plan(30)) for each in others]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host_seats, seats, dict.fromkeys(SEATS, Talker()))
                for chief in chiefs:
                    tasks.start_soon(chief.lead)
        await check(seats, 30)
        who = await leaders(seats, *chiefs)
    assert sum(one != other for one, other in pairwise(who)) <= supervisors - 1
    assert sum(chief.log.refused for chief in chiefs) <= supervisors - 1
    assert [[leads for leads, _ in chief.changes] for chief in chiefs].count([]) <= 1
    assert not any(leads for chief in chiefs for leads, _ in chief.changes)


async def test_a_standby_leads_on_at_once_from_turn_to_turn_when_the_leader_is_gone() -> None:
    """It waits for the leader once, and not once a turn: twenty turns take less than twenty times that."""
    async with connected(3) as (seats, *others):
        first, second = Chief(others[0], plan(25)), Chief(others[1], standby(plan(25), 1.0))
        async with seats.follow() as tail, anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, seats, dict.fromkeys(SEATS, Talker()))
            tasks.start_soon(first.lead)
            tasks.start_soon(second.lead)
            await until(tail, Granted, 5)
            first.kill()
            with anyio.fail_after(15):
                await until(tail, Ended)
        await check(seats, 25)
        who = await leaders(seats, first, second)
    turn = who.index(1) + 1
    assert who == [0] * (turn - 1) + [1] * (26 - turn)
    assert second.changes == [(True, turn)]
    assert (first.log.refused, second.log.refused) == (0, 0)


async def test_a_leader_that_comes_back_is_followed_or_follows_but_does_not_fight() -> None:
    async with connected(3) as (seats, *others):
        chiefs = [Chief(others[0], plan(40)), Chief(others[1], standby(plan(40), 0.2)), Chief(others[0], plan(40))]
        async with seats.follow() as tail, anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, seats, dict.fromkeys(SEATS, Talker()))
            tasks.start_soon(chiefs[0].lead)
            tasks.start_soon(chiefs[1].lead)
            await until(tail, Granted, 5)
            chiefs[0].kill()
            await until(tail, Granted, 5)
            tasks.start_soon(chiefs[2].lead)
            await until(tail, Ended)
        await check(seats, 40)
        who = await leaders(seats, *chiefs)
    assert sorted(who) in (who, [each for each in (0, 2, 1) for _ in range(who.count(each))])
    assert sum(chief.log.refused for chief in chiefs) <= 1
    assert len(chiefs[2].changes) + len(chiefs[1].changes) <= 2


async def test_a_standby_that_was_stopped_gives_the_leader_its_time_once_more() -> None:
    """Its clock jumps by an hour, as that of a process that was stopped does: it first hears what has happened."""
    jumped_s = 0.0
    async with memory_bus() as bus:
        table = await opened(await bus.conversation(f"party-{mint_run_id()}"))
        woken = Chief(table, standby(plan(1, turn_s=60), 60), lambda: time.time() + jumped_s)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(woken.lead)
            await table.grant(await table.floor(), SEATS[0], RUN.child(), time.time() + 60)
            await anyio.wait_all_tasks_blocked()
            jumped_s = 3_600.0
            await table.aside(SEATS[1], Noted(text="wake up"), RUN)
            for _ in range(10):  # whatever it is about to do, it does now
                await anyio.wait_all_tasks_blocked()
            assert (await table.floor()).open_grant is not None
            tasks.cancel_scope.cancel()
    assert (woken.log.refused, woken.changes) == (0, [])


async def test_a_standby_with_another_clock_leaves_a_turn_its_time() -> None:
    """The deadline of a grant is on the clock of whoever gave it; a standby counts from when it saw the grant."""
    ahead_s = 0.0
    async with memory_bus() as bus:
        table = await opened(await bus.conversation(f"party-{mint_run_id()}"))
        eager = Chief(table, standby(plan(1, turn_s=600), 1e-9), lambda: time.time() + ahead_s)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(eager.lead)
            async with table.follow() as tail:
                await until(tail, Granted)
                ahead_s = 86_400.0
                floor = await table.floor()
                assert floor.open_grant is not None
                await table.revoke(floor, floor.open_grant, RUN, "by another process, whose clock is behind")
                await table.grant(await table.floor(), SEATS[0], RUN.child(), time.time() + 600)
                await until(tail, Granted)
            for _ in range(10):  # whatever it is about to do, it does now
                await anyio.wait_all_tasks_blocked()
            assert (await table.floor()).open_grant is not None
            tasks.cancel_scope.cancel()
