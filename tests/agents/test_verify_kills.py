"""However often the processes of a party are killed, wherever they stand: what is left verifies."""

from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Pass,
    Plan,
    Request,
    Say,
    ToolUse,
    Turn,
    host_seats,
    supervise,
    tool,
    verify,
)
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Chair,
    Closed,
    Conflict,
    Conversation,
    Draft,
    LogAround,
    MemoryLog,
    RunContext,
    SeatName,
    memory_bus,
)

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
PLAN = Plan(turns=4, opens=False, toasts=False, standby_s=0.02)  # else whoever lost the lead waits for seconds


class Killed(BaseException):
    """The process is gone."""


class Mortal(LogAround):
    """A log as a process sees it that dies at an append: before the record is stored, or behind it."""

    def __init__(self, log: MemoryLog, appends: int, *, stored: bool) -> None:
        super().__init__(log)
        self._left = appends
        self._stored = stored

    async def append(self, draft: Draft) -> int:
        await anyio.lowlevel.checkpoint()
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._stored):
            raise Killed
        place = await self.inner.append(draft)
        if self._left == 0:
            raise Killed
        return place

    async def append_all(self, drafts: Sequence[Draft]) -> list[int]:
        return [await self.append(draft) for draft in drafts]

    async def post(self, draft: Draft) -> None:
        if self._left > 0:
            await self.inner.post(draft)


class Thinker:
    """A seat whose agent asks another agent by a tool in each turn, and remembers."""

    def __init__(self) -> None:
        helper = Agent("helper", model=ScriptedModel(lambda request: "so they say"))

        @tool
        async def ask() -> str:
            """Ask somebody."""
            return (await helper.prompt("what do they say?")).text

        call = Answer(parts=(ToolUse(id="1", name="ask", arguments={}),), stop_reason="tool_use")

        def answer(request: Request) -> Answer | str:
            asked = any(part.type == "tool_result" for part in request.messages[-1].parts)
            return "I heard." if asked else call

        self._seat = AgentSeat(Agent("thinker", model=ScriptedModel(answer), tools=[ask]))

    async def take_turn(self, turn: Turn) -> Say | Pass:
        said = await self._seat.take_turn(turn)
        turn.remember(f"turn {turn.grant.turn}")
        turn.remember("so they say")
        return said


def seen_by(conversation: Conversation, chance: Random) -> Conversation:
    """The conversation as the next process sees it."""
    assert isinstance(conversation.log, MemoryLog)
    log = Mortal(conversation.log, chance.randint(1, 14), stored=chance.random() < 0.5)
    return Conversation(log, conversation.id, conversation.subjects)


def only_killed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(only_killed(one) for one in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return isinstance(error, Killed)


@given(seed=st.integers(0, 2**32), doubles=st.integers(1, 2))
@settings(max_examples=15)
async def test_a_party_with_kills_anywhere_is_whole_at_every_place(seed: int, doubles: int) -> None:
    chance, run, kills = Random(seed), RunContext.root(), 0  # noqa: S311 - a schedule, not a secret

    async def live(what: str) -> None:
        """One process after the other, each killed at some append, until the conversation is closed."""
        nonlocal kills
        while (await conversation.floor()).closed is None:
            here = seen_by(conversation, chance)
            try:
                if what == "supervisor":
                    await supervise(here, PLAN, run)
                elif what == "nemesis":
                    await anyio.lowlevel.checkpoint()
                    await revoke(here)
                else:
                    await host_seats(here, {SeatName(what): Thinker()})
            except BaseException as error:
                if not only_killed(error):
                    raise
                kills += 1

    async def revoke(here: Conversation) -> None:
        floor = await here.floor()
        if floor.open_grant is not None and chance.random() < 0.02:
            with suppress(Conflict, Closed):
                await here.revoke(floor, floor.open_grant, run, "a whim")

    async with memory_bus() as bus:
        conversation = await bus.conversation("party")
        await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for what in ("supervisor", ADA, BOB) * doubles + ("nemesis",):
                    tasks.start_soon(live, what)
        verdict = await verify(conversation)
        assert verdict.findings == ()
        assert sum(verdict.bus.fates.values()) == PLAN.turns
        assert kills or verdict.bus.fates.get("revoked")
        for until in range(0, verdict.bus.through, 7):
            assert (await verify(conversation, until)).findings == ()
        world = await conversation.world(ADA, BOB)
        assert verdict.bus.memories == sum(len(private.memory.held) for private in world.private.values())
