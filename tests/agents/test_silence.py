"""When a double takes a turn over: when the process that has it is silent, and not when that one is merely slow."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents import Agent, AgentSeat, Say, Turn, host_seats
from convive.agents.seats._doubles import LOOKS, Silence, patience_after
from convive.agents.testing import ScriptedModel
from convive.bus import Conversation, Log, LogAround, memory_bus, open_bus
from convive.bus.testing import server
from tests.agents.seats import ADA, Acting, grant, opened, seated, speak, texts, turn_over

pytestmark = pytest.mark.anyio

LONG_S = 3_600.0
"""A double that waits for so long takes nothing over in a test."""

DEADLINE_S = 20.0


class Looking(LogAround):
    """A log that tells how often somebody was asked for, and what came of it."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.found: list[bool | None] = []
        self._looked = anyio.Event()

    async def is_present(self, subject: str, timeout_s: float) -> bool | None:
        self.found.append(await self.inner.is_present(subject, timeout_s))
        self._looked.set()
        self._looked = anyio.Event()
        return self.found[-1]

    async def until(self, enough: Callable[[list[bool | None]], bool]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not enough(self.found):
                await self._looked.wait()


class Deaf(LogAround):
    """A log beside which nobody hears whether somebody is present."""

    @asynccontextmanager
    async def _nobody(self) -> AsyncGenerator[None]:
        yield

    def present(self, subject: str) -> AbstractAsyncContextManager[None]:
        assert subject
        return self._nobody()


def over(conversation: Conversation, log: Log) -> Conversation:
    return Conversation(log, conversation.id, conversation.subjects)


class Thinking:
    """A guest whose model answers when it may; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.began, self.may_answer = anyio.Event(), anyio.Event()

    def seat(self) -> AgentSeat:
        """One process's guest, with a run that another one can go on with."""

        async def think() -> None:
            if not self.began.is_set():
                self.began.set()
            await self.may_answer.wait()

        def answer(request: object) -> str:
            assert request
            self.asked += 1
            return "figs"

        return AgentSeat(Agent("ada", model=ScriptedModel(answer, pause=think)))


# what is decided

LOOK = st.tuples(st.booleans(), st.integers(0, 2))
"""Whether somebody was there, and where the last record of the run stood."""


@given(st.lists(LOOK, max_size=4 * LOOKS))
def test_a_turn_is_taken_over_after_so_many_looks_in_a_row_without_a_sign_of_life(
    looks: list[tuple[bool, int]],
) -> None:
    silence, silent = Silence(), list[bool]()
    for number, (here, place) in enumerate(looks):
        silence = silence.after(here=here, place=place)
        before_here, before_place = looks[number - 1] if number else (True, 0)
        silent.append(not here and (before_here or place == before_place))
        assert silence.is_over == (len(silent) >= LOOKS and all(silent[-LOOKS:]))


@pytest.mark.parametrize(("had_s", "expected"), [(0.0, 5.0), (4.9, 5.0), (5.0, 10.0), (3_600.0, 10.0)])
def test_who_was_overtaken_at_its_turn_waits_twice_as_long(had_s: float, expected: float) -> None:
    assert patience_after(5.0, had_s) == expected


async def test_a_process_that_would_not_wait_is_refused(table: Conversation) -> None:
    with pytest.raises(ValueError, match="standby_s=0"):
        await host_seats(table, {ADA: Acting(speak)}, 0.0)


# what is done


async def test_a_guest_who_thinks_for_long_is_not_doubled(table: Conversation) -> None:
    """Without a record, without a word, for three times as long as a double waits: it is asked, and answers."""
    ada, looking = Thinking(), Looking(table.log)
    async with seated(table, ada=ada.seat()):
        open_grant = await grant(table)
        await ada.began.wait()
        async with seated(over(table, looking), 0.2, ada=ada.seat()):
            await looking.until(lambda found: len(found) > 3 * LOOKS)
            assert set(looking.found) == {True}
            ada.may_answer.set()
            await turn_over(table, open_grant.seq)
    assert (await texts(table), ada.asked) == (["figs"], 1)


async def test_of_two_who_sit_there_the_second_waits_for_the_first_however_long_it_thinks(table: Conversation) -> None:
    ada, looking = Thinking(), Looking(table.log)
    both = over(table, looking)
    async with seated(both, 0.2, ada=ada.seat()), seated(both, 0.2, ada=ada.seat()):
        await anyio.wait_all_tasks_blocked()
        open_grant = await grant(table)
        await looking.until(lambda found: len(found) > 3 * LOOKS)
        assert set(looking.found) == {True}
        ada.may_answer.set()
        await turn_over(table, open_grant.seq)
    assert (await texts(table), ada.asked) == (["figs"], 1)


async def test_who_sits_down_in_a_turn_leaves_it_to_the_process_that_is_at_it(table: Conversation) -> None:
    ada, looking = Thinking(), Looking(table.log)
    async with seated(table, ada=ada.seat()) as first:
        open_grant = await grant(table)
        await ada.began.wait()
        async with seated(over(table, looking), 0.2, ada=ada.seat()):
            await looking.until(lambda found: len(found) > LOOKS)
            assert (set(looking.found), ada.asked) == ({True}, 1)
            first.cancel()
            ada.may_answer.set()
            await turn_over(table, open_grant.seq)
    assert (await texts(table), ada.asked) == (["figs"], 2)
    assert looking.found[-LOOKS:] == [False] * LOOKS


async def test_who_sits_down_in_a_turn_that_nobody_is_at_takes_it_at_once(table: Conversation) -> None:
    ada = Thinking()
    open_grant = await grant(table)
    async with seated(table, ada=ada.seat()):
        await ada.began.wait()
    ada.may_answer.set()
    with anyio.fail_after(DEADLINE_S):
        async with seated(table, LONG_S, ada=ada.seat()):
            await turn_over(table, open_grant.seq)
    assert await texts(table) == ["figs"]


async def test_records_are_a_sign_of_life_of_a_process_that_is_not_heard(table: Conversation) -> None:
    """A host of an earlier version does not answer; its text shows that it is at it."""
    asked = 0

    def answer(request: object) -> str:
        nonlocal asked
        assert request
        asked += 1
        return "word " * 30

    async def slowly() -> None:
        await anyio.sleep(0.05)  # all in all, thrice as long as its double waits

    def busy() -> AgentSeat:
        return AgentSeat(Agent("ada", model=ScriptedModel(answer, pause=slowly)))

    deaf = over(table, Deaf(table.log))
    async with seated(deaf, 0.5, ada=busy()), seated(deaf, 0.5, ada=busy()):
        await anyio.wait_all_tasks_blocked()
        await turn_over(table, (await grant(table)).seq)
    assert asked == 1


async def test_while_the_server_is_away_nobody_is_taken_for_silent() -> None:
    async with server() as own, open_bus(own.url) as here, open_bus(own.url) as there:
        conversation = await opened(here)
        double = await there.conversation(conversation.id)
        ada, looking = Thinking(), Looking(double.log)
        async with seated(conversation, ada=ada.seat()):
            open_grant = await grant(conversation)
            await ada.began.wait()
            async with seated(over(double, looking), 2.0, ada=ada.seat()):
                await looking.until(lambda found: True in found)
                own.kill()
                await looking.until(lambda found: None in found)
                await own.start()
                looking.found.clear()
                await looking.until(lambda found: found.count(True) > LOOKS)
                ada.may_answer.set()
                await turn_over(conversation, open_grant.seq)
        assert (await texts(conversation), ada.asked) == (["figs"], 1)


async def test_who_goes_on_with_a_turn_can_be_asked_for_at_once(table: Conversation) -> None:
    """Or else the next one who sits down finds nobody there, and takes the turn again."""

    async def look(turn: Turn) -> Say:
        journal = table.subjects.journal(turn.run.root_run_id, turn.run.run_id)
        return Say(str(await table.log.is_present(journal, DEADLINE_S)))

    open_grant = await grant(table)
    async with seated(table, ada=Acting(look)):
        await turn_over(table, open_grant.seq)
    assert await texts(table) == ["True"]


def test_a_turn_that_takes_its_time_can_be_asked_for_on_any_loop() -> None:
    """Also on one that was started without AnyIO, as that of a web server is."""

    async def look(turn: Turn) -> Say:
        log, journal = turn.conversation.log, turn.conversation.subjects.journal(turn.run.root_run_id, turn.run.run_id)
        while not await log.is_present(journal, DEADLINE_S):
            await anyio.lowlevel.checkpoint()
        return Say("here")

    async def evening() -> list[str]:
        async with memory_bus() as bus, asyncio.timeout(DEADLINE_S):
            table, ada = await opened(bus), Acting(look)
            async with seated(table, ada=ada):
                await anyio.wait_all_tasks_blocked()
                await turn_over(table, (await grant(table)).seq)
            assert not ada.turns[0].resumed
            return await texts(table)

    assert asyncio.run(evening()) == ["here"]
