"""Redrive of parties in which more happened than words: turns that waited, were revoked or passed, guests that left."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Approve,
    Deny,
    Edit,
    FunctionSeat,
    Participant,
    Pass,
    Plan,
    Redriven,
    Request,
    Resolution,
    Result,
    Say,
    Suspension,
    ToolUse,
    Turn,
    answer,
    cancel_run,
    client_tool,
    host_seats,
    pending,
    redrive,
    supervise,
    tool,
)
from convive.agents.models._messages import ToolResult
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    Interjected,
    Joined,
    Left,
    RunContext,
    SeatName,
    Whispered,
    fork,
    memory_bus,
)

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
PLAN = Plan(turns=4, opens=False, toasts=False)
RUN = RunContext.root()


class Payment(BaseModel):
    """What to pay."""

    amount: int


class Bank:
    """Pays when somebody approves; `below` puts the agent that pays behind another one."""

    def __init__(self, *, below: bool = False, remote: bool = False, expires_s: float | None = None) -> None:
        self.paid: list[int] = []
        self._below, self._remote, self._expires_s = below, remote, expires_s

    def seats(self) -> dict[SeatName, Participant]:
        @tool(needs_approval=True)
        async def pay(amount: int) -> str:
            """Pay the bill."""
            self.paid.append(amount)
            return f"paid {amount}"

        elsewhere = client_tool("pay", "Pay the bill.", Payment)
        agent = Agent(
            "ada",
            model=ScriptedModel(_reply("pay", {"amount": 3})),
            tools=[elsewhere if self._remote else pay],
            expires_s=self._expires_s,
        )
        if self._below:
            model = ScriptedModel(_reply("clerk", {"prompt": "pay 3"}))
            agent = Agent("ada", model=model, tools=[agent.as_tool("clerk", "Pays")], expires_s=self._expires_s)
        return {ADA: AgentSeat(agent), BOB: FunctionSeat(_bob)}


def _reply(name: str, arguments: dict[str, object]) -> Callable[[Request], Answer | str]:
    def reply(request: Request) -> Answer | str:
        heard = [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]
        if heard:
            return f"It said: {heard[0].content}."
        return Answer(parts=(ToolUse(id="1", name=name, arguments=dict(arguments)),), stop_reason="tool_use")  # type: ignore[arg-type]

    return reply


async def _bob(turn: Turn) -> str:
    turn.remember(f"{len(turn.heard)} heard, {len(turn.whispers)} whispered")
    return f"Bob, after {turn.heard[-1].text if turn.heard else 'nothing'}"


async def opened(bus: Bus) -> Conversation:
    conversation = await bus.conversation("table")
    await conversation.open(RUN, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    return conversation


@asynccontextmanager
async def led(
    conversation: Conversation, seats: dict[SeatName, Participant], plan: Plan = PLAN
) -> AsyncGenerator[None]:
    """A party that goes on until it is over, beside what the block does."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, seats)
            tasks.start_soon(supervise, conversation, plan, RUN)
            yield


async def waiting(conversation: Conversation, asked: set[str]) -> Suspension:
    """The next run that waits for somebody."""
    async with conversation.log.follow(f"{conversation.subjects.base}.run.*.*") as tail:
        while True:
            new = [one for one in await pending(conversation) if one.token not in asked]
            if new:
                asked.add(new[0].token)
                return new[0]
            await tail.next()


ANSWERS: dict[str, tuple[Bank, Resolution]] = {
    "approved": (Bank(), Approve()),
    "denied": (Bank(), Deny("too much")),
    "edited": (Bank(), Edit({"amount": 1})),
    "paid elsewhere": (Bank(remote=True), Result("paid by hand")),
    "approved below": (Bank(below=True), Approve()),
    "denied below": (Bank(below=True), Deny("too much")),
}


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize("kind", ANSWERS)
async def test_turns_that_waited_for_an_answer_come_out_the_same(kind: str, forked: bool) -> None:
    bank, resolution = ANSWERS[kind]
    async with memory_bus() as bus:
        conversation, asked = await opened(bus), set[str]()
        async with led(conversation, bank.seats()):
            for _ in range(2):
                one = await waiting(conversation, asked)
                await answer(conversation, one.run_id, {each.id: resolution for each in one.interrupts})
        again = Bank(below=bank._below, remote=bank._remote)  # pyright: ignore[reportPrivateUsage]
        copy = await fork(bus, conversation, "copy") if forked else conversation
        found = await redrive(copy, again.seats(), PLAN)
    assert (found.turns, found.copied, found.deviation) == (4, 0, None)
    assert again.paid == []


async def _expires(conversation: Conversation, one: Suspension) -> None:
    pass


async def _called_off(conversation: Conversation, one: Suspension) -> None:
    assert await cancel_run(conversation, one.run_id, "not today")


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("act", [_expires, _called_off])
async def test_turns_that_nobody_answered_are_passed_again(
    act: Callable[[Conversation, Suspension], Awaitable[None]], below: bool
) -> None:
    async with memory_bus() as bus:
        conversation, asked = await opened(bus), set[str]()
        bank = Bank(below=below, expires_s=0.05 if act is _expires else None)
        async with led(conversation, bank.seats()):
            for _ in range(2):
                await act(conversation, await waiting(conversation, asked))
        found = await redrive(conversation, Bank(below=below).seats(), PLAN)
    assert (found.turns, found.copied, found.deviation) == (4, 0, None)


async def test_a_turn_that_was_revoked_while_it_waited_is_taken_over() -> None:
    async with memory_bus() as bus:
        conversation, asked = await opened(bus), set[str]()
        plan = Plan(turns=4, opens=False, toasts=False, turn_s=0.2, grace_s=0.0, answer_s=0.01)
        async with led(conversation, Bank().seats(), plan):
            for _ in range(2):
                await waiting(conversation, asked)
        found = await redrive(conversation, Bank().seats(), plan)
    assert (found.turns, found.copied, found.deviation) == (2, 2, None)


async def test_a_fork_in_the_middle_of_a_turn_that_waits_is_gone_on_with_and_comes_out_the_same() -> None:
    async with memory_bus() as bus:
        conversation, asked = await opened(bus), set[str]()
        async with led(conversation, Bank().seats()):
            one = await waiting(conversation, asked)
            copy = await fork(bus, conversation, "copy")
            assert await pending(copy) == []
            for _ in range(2):
                await answer(conversation, one.run_id, {each.id: Approve() for each in one.interrupts})
                if len(asked) < 2:
                    one = await waiting(conversation, asked)
        bank, asked = Bank(), set[str]()
        async with led(copy, bank.seats()):
            one = await waiting(copy, asked)
            await answer(copy, one.run_id, {each.id: Approve() for each in one.interrupts})
        found = await redrive(copy, Bank().seats(), PLAN)
        floor = await copy.floor()
    assert (found.turns, found.copied, found.deviation) == (3, 1, None)
    assert (floor.damaged, floor.turn, bank.paid) == (0, 4, [3])


async def test_passes_whispers_words_from_beside_and_guests_that_come_and_leave_come_out_the_same() -> None:
    cleo = SeatName("cleo")

    async def mixed(turn: Turn) -> Say | Pass:
        if turn.grant.turn == 1:
            run = turn.run.child()
            await turn.conversation.aside(cleo, Joined(about="late"), run)
            await turn.conversation.aside(BOB, Interjected(text="Hear, hear"), run)
        if turn.grant.turn == 4:
            await turn.conversation.aside(BOB, Left(reason="tired"), turn.run.child())
            await turn.conversation.whisper(cleo, Whispered(sender=turn.seat, text="he left"), turn.run)
        turn.remember(f"turn {turn.grant.turn}: {len(turn.heard)} heard, {len(turn.whispers)} whispered")
        return Pass("no words") if turn.grant.turn % 3 == 2 else Say(f"{turn.seat} of {len(turn.floor.seats)}")

    seats: dict[SeatName, Participant] = dict.fromkeys((ADA, BOB, cleo), FunctionSeat(mixed))
    plan = Plan(turns=9, opens=False, toasts=False)
    async with memory_bus() as bus:
        conversation = await opened(bus)
        async with led(conversation, seats, plan):
            pass
        speakers = [one.seat for one in (await conversation.world()).heard]
        found = await redrive(conversation, seats, plan)
    assert found == Redriven(9, 0, 0, 0, None)
    assert cleo in speakers
