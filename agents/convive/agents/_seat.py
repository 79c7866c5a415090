"""Seats: what follows the bus, and takes the floor when it is granted.

All seats of one process share one subscription and one fold of the bus, since only one of them can have the floor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import anyio
import anyio.abc

from convive.agents._errors import ModelError
from convive.bus import (
    Conflict,
    Conversation,
    Floor,
    Granted,
    OpenGrant,
    Remembered,
    RunContext,
    RunId,
    SeatName,
    Utterance,
    Whispered,
    World,
)


@dataclass(frozen=True, slots=True)
class Say:
    """Use the floor: say `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Pass:
    """Give the floor back without a word."""

    reason: str = ""


@dataclass(slots=True)
class Turn:
    """One turn from the point of view of the seat that holds the floor: what it knew when it got it."""

    conversation: Conversation
    seat: SeatName
    grant: Granted
    floor: Floor
    run: RunContext
    """The run of this turn. The same after a restart, so that its journal is found again."""
    _world: World
    _heard: int
    _remembered: int
    _whispered: int
    _to_remember: list[Remembered] = field(default_factory=list[Remembered])

    @property
    def cue(self) -> str | None:
        """What the supervisor asks of this turn, if anything."""
        return self.grant.cue

    @property
    def heard(self) -> Sequence[Utterance]:
        """Everything that was said or interjected before this turn."""
        return self._world.heard[: self._heard]

    def heard_lately(self, count: int) -> Sequence[Utterance]:
        """The last `count` of `heard`, without a copy of the rest."""
        return self._world.heard[max(0, self._heard - count) : self._heard]

    @property
    def memories(self) -> Sequence[Remembered]:
        """What this seat remembers from its committed turns."""
        return [memory.event for memory in self._world.private[self.seat].memory.held[: self._remembered]]

    @property
    def whispers(self) -> Sequence[Whispered]:
        """What was said to this seat alone."""
        return self._world.private[self.seat].whispers[: self._whispered]

    def remember(self, text: str, kind: str = "note") -> None:
        """Keep something to oneself. It commits with the turn: said and remembered, or neither."""
        self._to_remember.append(Remembered(text=text, kind=kind, run_id=self.grant.run_id))

    @property
    def to_remember(self) -> Sequence[Remembered]:
        """What `remember` was given in this turn."""
        return self._to_remember


@runtime_checkable
class Participant(Protocol):
    """Whoever sits in a seat: an agent, a person at a keyboard, a plain function in a test."""

    async def take_turn(self, turn: Turn) -> Say | Pass:
        """Decide what to do with the floor. May be called again for the same turn after a restart.

        Is cancelled when the floor is revoked. A transient ModelError passes the turn, any other exception
        ends the seat with the floor still granted, so that a restart can try again.
        """
        ...


async def host_seats(conversation: Conversation, participants: Mapping[SeatName, Participant]) -> Floor:
    """Sit in these seats until the conversation is closed, and return its floor.

    Finds a grant that was open when this process started, and takes that turn with its old run id. Raises
    what a participant raised, alone or in an ExceptionGroup.
    """
    hosts = _Hosts(conversation, participants)
    async with conversation.follow(seats=sorted(participants)) as tail, anyio.create_task_group() as tasks:
        while hosts.world.floor.closed is None:
            record = await tail.next()
            assert record is not None  # noqa: S101 - no deadline was given
            hosts.world.apply(record)
            if tail.caught_up:
                hosts.attend(tasks)
        tasks.cancel_scope.cancel()
    return hosts.world.floor


class _Hosts:
    def __init__(self, conversation: Conversation, participants: Mapping[SeatName, Participant]) -> None:
        self._conversation = conversation
        self._participants = participants
        self._attended = 0
        self._scope: anyio.CancelScope | None = None
        self.world = World(*participants)

    def attend(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start the turn that was granted to one of our seats; end one that was taken away."""
        held = self.world.floor.open_grant
        if self._scope is not None and (held is None or held.seq != self._attended):
            self._scope.cancel()
            self._scope = None
        if held is not None and held.grant.seat in self._participants and held.seq != self._attended:
            self._attended = held.seq
            self._scope = anyio.CancelScope()
            tasks.start_soon(self._take, held, self._scope)

    async def _take(self, held: OpenGrant, scope: anyio.CancelScope) -> None:
        with scope:
            turn = await self._turn(held)
            try:
                outcome = await self._participants[turn.seat].take_turn(turn)
            except ModelError as error:
                if not error.transient:
                    raise
                outcome = Pass(str(error))
            if self._scope is scope:
                self._scope = None  # from here on a revocation is the server's to judge
            await self._commit(turn, held, outcome)

    async def _turn(self, held: OpenGrant) -> Turn:
        world = self.world
        if world.seq != held.seq:  # others were heard since the grant: a restarted turn must not know them
            world = await self._conversation.world(held.grant.seat, until=held.seq)
        opened = world.floor.opened
        assert opened is not None  # noqa: S101 - a floor with an open grant was opened
        run = RunContext(held.grant.run_id, opened.run_id, RunId(opened.run_id))
        own = world.private[held.grant.seat]
        # The world is shared and goes on; this turn knows as much of it as it would after a restart.
        known = len(world.heard), len(own.memory.held), len(own.whispers)
        return Turn(self._conversation, held.grant.seat, held.grant, world.floor, run, world, *known)

    async def _commit(self, turn: Turn, held: OpenGrant, outcome: Say | Pass) -> None:
        memories = await self._conversation.remember(turn.seat, turn.to_remember, turn.run)
        floor = turn.floor
        # After a conflict the floor was taken away: neither said nor remembered. Unless what came first is no valid
        # link and the floor is still ours.
        while floor.open_grant == held:
            try:
                match outcome:
                    case Say():
                        await self._conversation.say(floor, held, outcome.text, turn.run, memories=memories)
                    case Pass():
                        await self._conversation.pass_on(floor, held, turn.run, outcome.reason, memories=memories)
            except Conflict:
                floor = await self._conversation.floor()
            else:
                return
