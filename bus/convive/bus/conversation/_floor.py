"""The floor: a linked list that the server keeps, and the pure fold that reads it.

Every link names the sequence number of the link before it (`Guard`), so the server itself refuses a second
supervisor, a doubled seat and a late speaker (architecture.md, section 4). The fold checks what the server
cannot: that links are numbered without a gap, and that who spoke had the floor.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from convive.bus.conversation._events import (
    Chair,
    Ended,
    FloorEvent,
    Granted,
    Interjected,
    Joined,
    Left,
    Noted,
    Opened,
    Passed,
    Revoked,
    Said,
    event_of,
    happened_s,
)
from convive.bus.log._errors import BadName, BadRecord, NewerRecord
from convive.bus.log._ids import HOST, SeatName
from convive.bus.log._log import Record
from convive.bus.log._runs import run_of
from convive.bus.log._subjects import address_of


@dataclass(frozen=True, slots=True)
class OpenGrant:
    """The floor is with a seat. `seq` is the place of the grant: what is said must follow it."""

    grant: Granted
    seq: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something that everybody heard: who, what, and whether it was said with the floor (`turn`) or as an aside."""

    seat: SeatName
    text: str
    turn: int | None


SAMPLES = 10
"""How many records that are not ours, or break the protocol, are kept to be told of."""

# How a kept floor holds them (`fold`): an exception has no JSON form of its own.
_DAMAGE_OUT = PlainSerializer(
    lambda damage: [(bad.subject, bad.seq, bad.why, isinstance(bad, NewerRecord)) for bad in damage]
)
_DAMAGE_IN = PlainValidator(lambda kept: tuple(_bad(*each) for each in kept))


def _bad(subject: str, seq: int, why: str, newer: bool) -> BadRecord:
    bad = BadRecord.__new__(NewerRecord if newer else BadRecord)
    BadRecord.__init__(bad, subject, seq, why)
    return bad


@dataclass(frozen=True)
class Floor:
    """A conversation as its bus tells it. Its size depends on the number of seats, not on the length."""

    # Without slots: every record makes a new one, and a dict is copied in a sixth of the time (`_with`).

    opened: Opened | None = None
    joined: str = ""
    """The id of the trace that the conversation has joined, see `RunContext`; empty: none."""
    seats: tuple[Chair, ...] = ()
    """Who sits at the table now, in the order of coming."""
    seq: int = 0
    """The last record on the floor subjects: what the next link must follow."""
    at_s: float = 0.0
    """When what it tells of happened, in seconds since 1970: when it was stored, or when its original was."""
    links: int = 0
    """How many valid links there are, which is the number of the next one."""
    turn: int = 0
    """The number of the last granted turn; 0: none yet."""
    open_grant: OpenGrant | None = None
    said_turns: int = 0
    """Turns in which something was said."""
    turns_of: tuple[tuple[SeatName, int], ...] = ()
    """For each seat that ever had the floor: its last turn."""
    last_grant: Granted | None = None
    last_outcome: Said | Passed | Revoked | None = None
    heard: Utterance | None = None
    """What was heard last, asides included."""
    heard_turn: int = 0
    """The turn that had been granted last when that was heard; a later grant has answered it."""
    closed: Ended | None = None
    damage: Annotated[tuple[BadRecord, ...], _DAMAGE_IN, _DAMAGE_OUT] = ()
    """Records on the bus that are not ours or break the protocol: at most `SAMPLES`, the first ones and, whenever it
    came, the first of a newer version."""
    damaged: int = 0
    """How many of those there are in all."""

    def __hash__(self) -> int:
        return hash((self.seq, self.links))

    @property
    def is_open(self) -> bool:
        return self.opened is not None and self.closed is None

    @property
    def newer(self) -> NewerRecord | None:
        """The first record that a newer version wrote: what follows it is not known here."""
        return next((each for each in self.damage if isinstance(each, NewerRecord)), None)


def _with(floor: Floor, **changes: Any) -> Floor:
    """As `dataclasses.replace`."""
    changed = object.__new__(Floor)
    vars(changed).update(vars(floor), **changes)
    return changed


# The supervisor and the seats of one process fold the same records from the same states.
@lru_cache(maxsize=64)
def fold_floor(floor: Floor, record: Record) -> Floor:
    """The floor after one more record of the bus. Pure, total: what it cannot use is counted in `damaged`."""
    address = address_of(record.subject)
    if address.kind not in ("floor", "aside"):
        return floor
    author = SeatName(address.name)
    try:
        event = event_of(record)
        if address.kind == "aside":
            return _aside(floor, author, event, record)
        return _link(floor, author, event, record)
    except BadRecord as bad:
        moved = _with(floor, seq=record.seq, at_s=happened_s(record)) if address.kind == "floor" else floor
        return _with(moved, damage=_samples(moved.damage, bad.kept()), damaged=moved.damaged + 1)


def _samples(damage: tuple[BadRecord, ...], bad: BadRecord) -> tuple[BadRecord, ...]:
    if len(damage) < SAMPLES:
        return (*damage, bad)
    newer = isinstance(bad, NewerRecord) and not any(isinstance(each, NewerRecord) for each in damage)
    return (*damage[:-1], bad) if newer else damage


def _aside(floor: Floor, author: SeatName, event: object, record: Record) -> Floor:
    match event:
        case Joined():
            known = next((chair for chair in floor.seats if chair.seat == author), None)
            if known is None:
                return _with(floor, seats=(*floor.seats, Chair(seat=author, about=event.about)))
            told = known.model_copy(update={"about": event.about or known.about})
            return _with(floor, seats=tuple(told if chair is known else chair for chair in floor.seats))
        case Left():
            return _with(floor, seats=tuple(chair for chair in floor.seats if chair.seat != author))
        case Interjected():
            return _with(floor, heard=Utterance(author, event.text, None), heard_turn=floor.turn)
        case Noted():
            return floor
        case _:
            raise BadRecord(record.subject, record.seq, "an event of the floor or of a memory stands among the asides")


def _link(floor: Floor, author: SeatName, event: object, record: Record) -> Floor:
    if not isinstance(event, FloorEvent):
        raise BadRecord(record.subject, record.seq, "an aside or a memory stands among the links of the floor")
    if event.link != floor.links:
        raise BadRecord(record.subject, record.seq, f"link {event.link} where link {floor.links} was due")
    why = _objection(floor, author, event)
    if why:
        raise BadRecord(record.subject, record.seq, why)
    changes = _changes(floor, author, event, record.seq)
    if isinstance(event, Opened):
        changes["joined"] = _joined(record)
    return _with(floor, seq=record.seq, at_s=happened_s(record), links=floor.links + 1, **changes)


def _joined(record: Record) -> str:
    try:
        run = run_of(record.headers)
    except BadName:
        return ""
    return run.joined if run is not None else ""


def _objection(floor: Floor, author: SeatName, event: FloorEvent) -> str:
    """Why the protocol forbids this link here, or an empty string."""
    if floor.closed is not None:
        return "a link behind the end of the conversation"
    if isinstance(event, Opened):
        return "" if author == HOST else f"opened by {author}, not by the host"
    if floor.opened is None:
        return "a link before the conversation was opened"
    holder = floor.open_grant.grant if floor.open_grant else None
    if isinstance(event, Said | Passed):
        if holder is None:
            return f"{author} spoke without the floor"
        if author != holder.seat or event.run_id != holder.run_id or event.turn != holder.turn:
            return f"{author} spoke in turn {event.turn}; the floor is with {holder.seat} for turn {holder.turn}"
        return ""
    if author != HOST:
        return f"{event.type} by {author}, not by the host"
    return _host_objection(floor, holder, event)


def _host_objection(floor: Floor, holder: Granted | None, event: Granted | Revoked | Ended) -> str:
    match event:
        case Granted():
            if holder is not None:
                return f"granted while {holder.seat} has the floor"
            return "" if event.turn == floor.turn + 1 else f"turn {event.turn} where turn {floor.turn + 1} was due"
        case Revoked():
            if holder is None or event.run_id != holder.run_id:
                return "revoked a grant that is not open"
            return ""
        case Ended():
            return f"closed while {holder.seat} has the floor" if holder is not None else ""


def _changes(floor: Floor, author: SeatName, event: FloorEvent, seq: int) -> dict[str, Any]:
    match event:
        case Opened():
            return {"opened": event, "seats": event.chairs}
        case Granted():
            others = tuple((seat, turn) for seat, turn in floor.turns_of if seat != event.seat)
            return {
                "turn": event.turn,
                "open_grant": OpenGrant(event, seq),
                "last_grant": event,
                "turns_of": (*others, (event.seat, event.turn)),
            }
        case Said():
            return {
                "open_grant": None,
                "said_turns": floor.said_turns + 1,
                "last_outcome": event,
                "heard": Utterance(author, event.text, event.turn),
                "heard_turn": floor.turn,
            }
        case Passed() | Revoked():
            return {"open_grant": None, "last_outcome": event}
        case Ended():
            return {"closed": event}
