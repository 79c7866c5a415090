"""Where two conversations part: the same talk up to a point, and what stands there in each."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from convive.bus.conversation._conversation import Conversation
from convive.bus.conversation._events import (
    BusEvent,
    Ended,
    Interjected,
    Joined,
    Left,
    Noted,
    Passed,
    Revoked,
    Said,
    event_of,
)
from convive.bus.conversation._floor import Floor, fold_floor
from convive.bus.conversation._world import World
from convive.bus.log._ids import SeatName
from convive.bus.log._subjects import address_of


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened on a bus, told without places, times and run ids: what two conversations can share."""

    what: str
    seat: SeatName
    text: str
    turn: int
    seq: int

    @property
    def shared(self) -> tuple[str, str, str]:
        """What has to be the same."""
        return self.what, self.seat, self.text


@dataclass(frozen=True, slots=True)
class Difference:
    """How two conversations compare. `left` and `right` are the first happenings that differ; None: it ends there."""

    opened: tuple[str, ...]
    """What their openings say differently: `topic`, `chairs`, `setting`."""
    same: int
    """How many happenings they share."""
    turn: int
    """The last turn that both share to its end."""
    left: Happening | None
    right: Happening | None
    more: tuple[int, int]
    """How many happenings come behind that, in each."""
    memories: tuple[SeatName, ...]
    """The seats that remember different things, at the end of each."""

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not self.opened and self.left is None and self.right is None and not self.memories


async def difference(left: Conversation, right: Conversation) -> Difference:
    """Compare what was said, passed, revoked and interjected, in order, then what each seat remembers.

    Raises UnknownConversation and errors of the bus.
    """
    first, second = await left.floor(), await right.floor()
    opened = tuple(
        name for name in ("topic", "chairs", "setting") if getattr(first.opened, name) != getattr(second.opened, name)
    )
    same = turn = 0
    async with aclosing(_happenings(left)) as ours, aclosing(_happenings(right)) as theirs:
        while True:
            one, other = await anext(ours, None), await anext(theirs, None)
            if one is None or other is None or one.shared != other.shared:
                break
            same += 1
            turn = one.turn if one.what in ("said", "passed", "revoked") else turn
        more = (sum([1 async for _ in ours]), sum([1 async for _ in theirs]))
    seats = {chair.seat for floor in (first, second) if floor.opened for chair in (*floor.opened.chairs, *floor.seats)}
    memories = await _memories(left, right, sorted(seats))
    return Difference(opened, same, turn, one, other, more, memories)


async def _happenings(conversation: Conversation) -> AsyncGenerator[Happening]:
    floor = Floor()
    async with conversation.read() as records:
        async for record in records:
            before, floor = floor, fold_floor(floor, record)
            address = address_of(record.subject)
            if floor.damaged > before.damaged or (address.kind == "floor" and floor.links == before.links):
                continue
            told = _told(event_of(record))
            if told is not None:
                yield Happening(told[0], SeatName(address.name), told[1], floor.turn, record.seq)


def _told(event: BusEvent) -> tuple[str, str] | None:
    match event:
        case Said() | Interjected() | Noted():
            return event.type, event.text
        case Passed() | Revoked() | Ended() | Left():
            return event.type, event.reason
        case Joined():
            return event.type, event.about
        case _:
            return None  # an opening is compared by itself; a grant is told by what came of it


async def _memories(left: Conversation, right: Conversation, seats: list[SeatName]) -> tuple[SeatName, ...]:
    ours, theirs = await left.world(*seats), await right.world(*seats)
    return tuple(seat for seat in seats if _held(ours, seat) != _held(theirs, seat))


def _held(world: World, seat: SeatName) -> list[tuple[str, str]]:
    return [(memory.kind, memory.text) for memory in world.private[seat].memory.held]
