"""A standby asks whether anybody leads: when nobody does it need not wait once more; while somebody does it waits."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from convive.agents import Plan, standby, supervise
from convive.agents.seats._doubles import LOOKS
from convive.bus import HOST, BusUnavailable, Conversation, Log, LogAround, Record, interject, open_bus
from convive.bus.testing import server
from tests.agents.seats import RUN, grant, held, opened
from tests.agents.test_silence import Looking, over

pytestmark = pytest.mark.anyio

MANY = 4 * LOOKS


def plan(turns: int = 9) -> Plan:
    return Plan(turns=turns, turn_s=3_600.0, opens=False, toasts=False)


class Away(LogAround):
    """A log of which a server answers nothing about who is there, until it is back."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.is_back = False

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        return await self.inner.is_present(subject, timeout_s) if self.is_back else None

    async def last(self, subject: str) -> Record | None:
        if not self.is_back:
            raise BusUnavailable("the server is away")
        return await self.inner.last(subject)


class StandingBy:
    """A standby whose clock stands still: however long something is due, it is not due for long enough by that."""

    def __init__(self, table: Conversation, standby_s: float = 0.25) -> None:
        self.looking = Looking(table.log)
        self.changes: list[tuple[bool, int]] = []
        self._table = over(table, self.looking)
        self._plan = standby(plan(), standby_s)

    async def lead(self) -> None:
        def changed(leads: bool, turn: int) -> None:
            self.changes.append((leads, turn))

        await supervise(self._table, self._plan, RUN, lambda: 0.0, changed)

    async def looks(self, *expected: bool | None) -> None:
        """Until it has looked often, and found nothing but this."""
        self.looking.found.clear()
        await self.looking.until(lambda found: len(found) >= MANY)
        assert set(self.looking.found) <= set(expected)

    async def hears_nobody(self) -> None:
        self.looking.found.clear()
        await self.looking.until(lambda found: found[-LOOKS:] == [False] * LOOKS)


@asynccontextmanager
async def standing_by(table: Conversation, standby_s: float = 0.25) -> AsyncGenerator[StandingBy]:
    one = StandingBy(table, standby_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.lead)
        yield one
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def leading(table: Conversation) -> AsyncGenerator[Callable[[], None]]:
    """Somebody who leads; gives what ends it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, table, plan(), RUN)
        yield tasks.cancel_scope.cancel
        tasks.cancel_scope.cancel()


async def granted(table: Conversation, turn: int) -> None:
    with anyio.fail_after(20):
        async with table.follow() as tail:
            while (floor := await table.floor()).turn < turn or floor.open_grant is None:
                await tail.next()


async def speaks(table: Conversation) -> None:
    floor = await table.floor()
    assert floor.open_grant is not None
    await table.say(floor, floor.open_grant, "well", RUN.child(floor.open_grant.grant.run_id))


async def test_a_standby_that_heard_the_leader_go_silent_leads_as_soon_as_something_is_due(
    table: Conversation,
) -> None:
    """As in a turn that the leader hosted itself: it was waited for there, and is not waited for again."""
    async with standing_by(table) as waits:
        async with leading(table) as kill:
            await granted(table, 1)
            await waits.looks(True)
            kill()
        await waits.hears_nobody()
        assert (await table.floor()).turn == 1
        await speaks(table)
        await granted(table, 2)
        assert waits.changes == [(True, 2)]
        # and it can be asked for itself
        assert await table.log.is_present(table.subjects.link(HOST), 1)


async def test_a_leader_that_is_late_and_there_is_not_overtaken(table: Conversation) -> None:
    """It thinks about who is next for long: a standby gives it its time, which it counts by its clock."""
    async with standing_by(table) as waits, table.log.present(table.subjects.link(HOST)):
        await waits.looks(True)
        assert (await table.floor()).open_grant is None
        assert waits.changes == []


async def test_a_leader_that_comes_back_before_something_is_due_is_not_overtaken(table: Conversation) -> None:
    async with standing_by(table) as waits:
        await grant(table)
        async with table.log.present(table.subjects.link(HOST)):
            await waits.looks(True)
        await waits.hears_nobody()
        async with table.log.present(table.subjects.link(HOST)):
            await speaks(table)
            await waits.looks(True)
            assert (await table.floor()).open_grant is None


async def test_a_leader_that_comes_back_is_looked_for_once_more_whatever_somebody_says_meanwhile(
    table: Conversation,
) -> None:
    async with standing_by(table, 2.5) as waits:
        await grant(table)
        async with table.log.present(table.subjects.link(HOST)):
            await waits.looking.until(lambda found: True in found)
        await waits.hears_nobody()
        async with table.log.present(table.subjects.link(HOST)):
            await speaks(table)
            waits.looking.found.clear()
            await anyio.wait_all_tasks_blocked()
            await interject(table, "eve", "hear, hear")
            await waits.looking.until(lambda found: True in found)
            assert (await table.floor()).open_grant is None
            assert waits.changes == []


async def test_a_leader_that_was_never_heard_gets_its_time(table: Conversation) -> None:
    """One of an earlier version does not answer, and writes all the same."""
    async with standing_by(table) as waits:
        await grant(table)
        await waits.looks(False)
        await speaks(table)
        await waits.looks(False)
        assert (await table.floor()).open_grant is None


async def test_a_leader_that_is_not_heard_gets_its_time_also_after_one_that_was(table: Conversation) -> None:
    async with standing_by(table) as waits:
        await grant(table)
        async with table.log.present(table.subjects.link(HOST)):
            await waits.looks(True)
        await waits.hears_nobody()
        await table.revoke(await table.floor(), await held(table), RUN, "by another one, that does not answer")
        await waits.looks(False)
        assert (await table.floor()).open_grant is None


async def test_while_the_server_is_away_no_leader_is_taken_for_gone() -> None:
    async with server() as own, open_bus(own.url) as here, open_bus(own.url) as there:
        table = await opened(here)
        async with leading(table), standing_by(await there.conversation(table.id), 1.0) as waits:
            await granted(table, 1)
            await waits.looking.until(lambda found: True in found)
            own.kill()
            await waits.looking.until(lambda found: None in found)
            await own.start()
            await waits.looks(True, False, None)
            await waits.looking.until(lambda found: found[-1] is True)
            await speaks(table)
            await granted(table, 2)
            assert waits.changes == []


async def test_a_server_that_was_away_is_no_leader_that_was_heard(table: Conversation) -> None:
    """A look that found out nothing makes no leader of an earlier version one that can be heard."""
    away = Away(table.log)
    await grant(table)
    async with standing_by(over(table, away)) as waits:
        await waits.looking.until(lambda found: len(found) >= LOOKS)
        away.is_back = True
        await waits.hears_nobody()
        await speaks(table)
        await waits.looks(False)
        assert (await table.floor()).open_grant is None
        assert waits.changes == []


async def test_who_was_overtaken_is_not_taken_for_whoever_leads(table: Conversation) -> None:
    """It stands by, and who looks for the leader does not hear it."""
    async with leading(table):
        await granted(table, 1)
        assert await table.log.is_present(table.subjects.link(HOST), 1)
        await table.revoke(await table.floor(), await held(table), RUN, "by another one")
        with anyio.fail_after(20):
            while await table.log.is_present(table.subjects.link(HOST), 1):
                await anyio.lowlevel.checkpoint()
