"""A turn as the seat that holds the floor sees it, and what can be done with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, overload, runtime_checkable

from convive.agents.journal._journal import Place
from convive.agents.journal._recorded import Recorded
from convive.bus import (
    Conversation,
    Floor,
    Granted,
    Memory,
    Remembered,
    RunContext,
    SeatName,
    Utterance,
    Whispered,
    World,
)

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True, slots=True)
class Say:
    """Use the floor: say `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Pass:
    """Give the floor back without a word."""

    reason: str = ""


class FirstOf(Sequence[Item]):
    """The first `length` items of a list that only grows: a view, since a copy a turn would be quadratic."""

    def __init__(self, items: list[Item], length: int) -> None:
        self._items = items
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self._items[index] for index in range(*place.indices(self._length))]
        return self._items[range(self._length)[place]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a seat knew at one place of the log."""

    heard: Sequence[Utterance] = ()
    memories: Sequence[Memory] = ()
    whispers: Sequence[Whispered] = ()

    @classmethod
    def now(cls, world: World, seat: SeatName) -> "Known":
        """What a seat knows, whatever the world comes to know later; nothing for a seat that is not of it."""
        own = world.private.get(seat)
        if own is None:
            return cls()
        return cls(
            FirstOf(world.heard, len(world.heard)),
            FirstOf(own.memory.held, len(own.memory.held)),
            FirstOf(own.whispers, len(own.whispers)),
        )


@dataclass(slots=True)
class Turn:
    """One turn from the point of view of the seat that holds the floor: what it knew when it got it."""

    conversation: Conversation
    seat: SeatName
    grant: Granted
    floor: Floor
    run: RunContext
    """The run of this turn. The same after a restart, so that its journal is found again."""
    known: Known
    resumed: bool = False
    """Whether this turn may have been begun before, by this process or by one that is gone."""
    to_remember: list[Remembered] = field(default_factory=list[Remembered])
    """What `remember` was given in this turn."""
    recorded: Recorded | None = None
    """What the runs of this turn were told when it was first taken, for a redrive."""

    @property
    def place(self) -> Place:
        """Where the runs of this turn keep their journals: beside the conversation."""
        return Place(
            self.conversation.log, self.conversation.subjects.base, live=self.recorded is None, recorded=self.recorded
        )

    @property
    def cue(self) -> str | None:
        """What the supervisor asks of this turn, if anything."""
        return self.grant.cue

    @property
    def heard(self) -> Sequence[Utterance]:
        """Everything that was said or interjected before this turn. A view: indexing it does not copy it."""
        return self.known.heard

    @property
    def memories(self) -> Sequence[Memory]:
        """What this seat remembers from its committed turns."""
        return self.known.memories

    @property
    def whispers(self) -> Sequence[Whispered]:
        """What was said to this seat alone."""
        return self.known.whispers

    def remember(self, text: str, kind: str = "note") -> None:
        """Keep something to oneself. It commits with the turn: said and remembered, or neither."""
        self.to_remember.append(Remembered(text=text, kind=kind, run_id=self.grant.run_id))


@runtime_checkable
class Participant(Protocol):
    """Whoever sits in a seat: an agent, a person at a keyboard, a plain function in a test."""

    async def take_turn(self, turn: Turn) -> Say | Pass:
        """Decide what to do with the floor. May be called again for the same turn after a restart (`turn.resumed`).

        Is cancelled when the floor is revoked. RunTaken says that another process in the same seat has this turn: it is
        called again should that one come to nothing. A ModelError that no person can mend passes the turn. Any other
        exception ends the seat with the floor still granted, so that a restart can try again.
        """
        ...
