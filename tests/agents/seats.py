"""A table with two seats, for tests of turns: who has the floor, what was said, what is remembered."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from convive.agents import STANDBY_S, Participant, Pass, Say, Turn, host_seats
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    Floor,
    Interjected,
    OpenGrant,
    Remembered,
    RunContext,
    SeatName,
    Whispered,
    mint_run_id,
)

ADA, BOB = SeatName("ada"), SeatName("bob")


RUN = RunContext.root()

Act = Callable[[Turn], Awaitable[Say | Pass]]


class Acting:
    """A participant that does what a function says. `began` is set when it has the floor, `ended` when it is done."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self.began = anyio.Event()
        self.ended = anyio.Event()
        self.turns: list[Turn] = []

    async def take_turn(self, turn: Turn) -> Say | Pass:
        self.turns.append(turn)
        self.began.set()
        try:
            return await self._act(turn)
        finally:
            self.ended.set()


async def speak(turn: Turn) -> Say:
    return Say(f"{turn.seat} in turn {turn.grant.turn}")


async def never(turn: Turn) -> Say:
    await anyio.sleep_forever()
    raise AssertionError(turn)


async def fail(turn: Turn) -> Say:
    raise LookupError(f"lost in turn {turn.grant.turn}")


async def opened(bus: Bus) -> Conversation:
    conversation = await bus.conversation(f"party-{mint_run_id()}")
    await conversation.open(RUN, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    return conversation


async def grant(conversation: Conversation, seat: SeatName = ADA) -> OpenGrant:
    place = await conversation.grant(await conversation.floor(), seat, RUN.child(), 0)
    return await held(conversation, until=place)  # it may be answered already


async def held(conversation: Conversation, until: int | None = None) -> OpenGrant:
    found = (await conversation.floor(until)).open_grant
    assert found is not None
    return found


async def turn_over(conversation: Conversation, after: int) -> Floor:
    """The floor once the grant at `after` is settled."""
    with anyio.fail_after(20):
        async with conversation.follow(after=after) as tail:
            while (floor := await conversation.floor()).open_grant is not None:
                await tail.next(0.5)
            return floor


@asynccontextmanager
async def seated(
    conversation: Conversation, standby_s: float = STANDBY_S, /, **participants: Participant
) -> AsyncGenerator[anyio.CancelScope]:
    """They sit there; with the scope that is given, their process can be ended before the block is left."""
    scope = anyio.CancelScope()

    async def host() -> None:
        with scope:
            await host_seats(conversation, {SeatName(seat): one for seat, one in participants.items()}, standby_s)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host)
        yield scope
        tasks.cancel_scope.cancel()


async def texts(conversation: Conversation) -> list[str]:
    return [utterance.text for utterance in (await conversation.world()).heard]


async def memories(conversation: Conversation, seat: SeatName = ADA) -> list[str]:
    return [memory.event.text for memory in (await conversation.world(seat)).private[seat].memory.held]


async def tell(conversation: Conversation, text: str) -> None:
    await conversation.aside(BOB, Interjected(text=text), RUN)
    await conversation.whisper(ADA, Whispered(sender=BOB, text=text), RUN)
    await conversation.remember(ADA, [Remembered(text=text)], RUN)


def knowledge(turn: Turn) -> tuple[list[str], list[str], list[str]]:
    return (
        [utterance.text for utterance in turn.heard],
        [whisper.text for whisper in turn.whispers],
        [memory.text for memory in turn.memories],
    )
