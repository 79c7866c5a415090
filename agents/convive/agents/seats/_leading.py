"""Whoever leads can be asked for, so that a standby knows before anything is due that nobody is there."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from convive.agents.seats._doubles import LOOKS, Silence, look
from convive.bus import HOST, Conversation

MIN_LOOK_S = 0.05


@asynccontextmanager
async def presence(conversation: Conversation) -> AsyncGenerator[Callable[[bool], Awaitable[None]]]:
    """Gives what is to be told whether this process leads: as long as it does, it answers that it is there."""
    async with AsyncExitStack() as stack:
        is_there = False

        async def lead(leads: bool) -> None:
            nonlocal is_there
            if leads and not is_there:
                await stack.enter_async_context(conversation.log.present(conversation.subjects.link(HOST)))
            elif is_there and not leads:
                await stack.aclose()
            is_there = leads

        yield lead


class Watch:
    """What a standby hears of whoever leads, by asking `LOOKS` times in `standby_s`."""

    def __init__(self, conversation: Conversation, standby_s: float) -> None:
        self._conversation = conversation
        self._look_s = max(standby_s / LOOKS, MIN_LOOK_S)
        self._silence = Silence()
        self._heard = False
        self._next_s = anyio.current_time()

    @property
    def rest_s(self) -> float:
        """How long until it is to look again."""
        return max(0.0, self._next_s - anyio.current_time())

    @property
    def looks(self) -> int:
        """How many looks in a row found nobody."""
        return self._silence.looks

    @property
    def is_alone(self) -> bool:
        """Whether nobody leads: somebody did who could be heard, and was silent for as long as a standby waits."""
        return self._heard and self._silence.is_over

    def wrote(self) -> None:
        """Another process has led. One that does so in silence, as one of an earlier version does, cannot be heard."""
        self._heard = self._heard and not self._silence.looks
        self._silence = Silence()

    async def look(self) -> None:
        """Ask once. Raises BusUnavailable when the bus is gone for good."""
        self._next_s = anyio.current_time() + self._look_s
        subject = self._conversation.subjects.link(HOST)
        self._silence = await look(self._conversation.log, subject, subject, self._look_s, self._silence)
        self._heard = self._heard or self._silence.heard
