"""The events of a conversation: a closed union, one JSON body a record, readable with any NATS client."""

from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json

from convive.bus.log._errors import BadRecord, NewerRecord, NotAppended
from convive.bus.log._ids import ConversationId, RunId, SeatName
from convive.bus.log._log import Record

SCHEMA = 1
"""The version of the events that this code writes; it reads those up to it."""

ORIGIN = "Cv-Origin"
"""The header of a copied record: the sequence number and the time (seconds since 1970) of the original."""

LAST_TIME_S = 253_402_300_799
"""The end of the year 9999: what comes later is no time."""


class Event(BaseModel):
    """A fact that happened. Frozen; an unknown field makes a record unreadable.

    `schema` is the version of the events. It is raised by whatever an older reader could not read, such as a new kind
    or another field; a reader takes those of its own version and of all before it, and refuses newer ones as such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    schema_version: Literal[1] = Field(default=1, alias="schema")

    def body(self) -> bytes:
        """The JSON body of a record. Raises NotAppended for a text that no record can hold."""
        try:
            return self.model_dump_json(by_alias=True, exclude_none=True).encode()
        except PydanticSerializationError as error:  # half a character, as from a terminal that does not speak UTF-8
            raise NotAppended(f"{type(self).__name__}: it has no JSON form: {error}. Nothing was appended.") from None


class Chair(BaseModel):
    """A seat of a conversation: what the others call who sits there, and what they may know of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seat: SeatName
    name: str = ""
    about: str = ""

    @property
    def shown(self) -> str:
        """The display name; made from the seat when none was given."""
        return self.name or self.seat.replace("-", " ").title()


class Origin(BaseModel):
    """What a conversation was forked from: the name and the run of another, and the last sequence number taken over."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    conversation: ConversationId
    run_id: RunId
    seq: int


class Opened(Event):
    """The first link. `setting` is the scenario's own configuration, so that any process can take over.

    `memories` are what the guests know from the beginning: written down under `run_id` before this link, they count
    with it. Those of a process that failed to open the conversation never do.
    """

    type: Literal["opened"] = "opened"
    link: Literal[0] = 0
    run_id: RunId
    topic: str
    chairs: tuple[Chair, ...] = ()
    setting: JsonValue = None
    memories: tuple[int, ...] | None = None
    """The places of those memories; None: all of this run."""
    origin: Origin | None = None
    """For a fork: where its beginning comes from."""


class Granted(Event):
    """The floor was given to `seat` for one turn, until `deadline_s` (seconds since 1970)."""

    type: Literal["granted"] = "granted"
    link: int
    turn: int
    seat: SeatName
    run_id: RunId
    deadline_s: float
    cue: str | None = None
    """What the supervisor asks of this turn, if anything (for example to open or to close the evening)."""


class Said(Event):
    """The holder of the floor spoke: this link commits the turn and the memory of it."""

    type: Literal["said"] = "said"
    link: int
    turn: int
    run_id: RunId
    text: str
    data: JsonValue = None
    memories: tuple[int, ...] | None = None
    """The places of the memories that count with this turn; None: all of this run. Two that sat in one seat, or one
    that died and began again, may have written down different things: only those of the one who spoke count."""


class Passed(Event):
    """The holder of the floor gave it back without a word."""

    type: Literal["passed"] = "passed"
    link: int
    turn: int
    run_id: RunId
    reason: str = ""
    memories: tuple[int, ...] | None = None
    """As in `Said`."""


class Revoked(Event):
    """The supervisor took the floor back; what the seat had prepared for the turn never happened."""

    type: Literal["revoked"] = "revoked"
    link: int
    turn: int
    run_id: RunId
    reason: str = ""


class Ended(Event):
    """The last link of a conversation."""

    type: Literal["closed"] = "closed"
    link: int
    reason: str = ""


class Joined(Event):
    """Somebody took a seat."""

    type: Literal["joined"] = "joined"
    about: str = ""


class Left(Event):
    """Somebody gave up a seat."""

    type: Literal["left"] = "left"
    reason: str = ""


class Interjected(Event):
    """Somebody spoke without the floor; the guests take it up when they speak next."""

    type: Literal["interjected"] = "interjected"
    text: str


class Noted(Event):
    """A stage note: for the record, not for the guests' ears."""

    type: Literal["noted"] = "noted"
    text: str


class Remembered(Event):
    """Something that an agent keeps to itself. With a `run_id` it counts once that run's turn is committed."""

    type: Literal["remembered"] = "remembered"
    text: str
    kind: str = "note"
    run_id: RunId | None = None
    data: JsonValue = None


class Whispered(Event):
    """A private message to one seat."""

    type: Literal["whispered"] = "whispered"
    sender: SeatName
    text: str


FloorEvent = Opened | Granted | Said | Passed | Revoked | Ended
AsideEvent = Joined | Left | Interjected | Noted
BusEvent = FloorEvent | AsideEvent | Remembered | Whispered

_EVENTS: TypeAdapter[BusEvent] = TypeAdapter(Annotated[BusEvent, Field(discriminator="type")])

CACHED_BYTES = 4_096
"""Larger bodies are parsed anew each time: the cached bodies take 16 MB at most, their events come on top."""


def event_of(record: Record) -> BusEvent:
    """The event in a record. Raises BadRecord when the body is not one of ours."""
    try:
        return _parse(record.body) if len(record.body) <= CACHED_BYTES else _EVENTS.validate_json(record.body)
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "an event of ours") from None


def happened_s(record: Record) -> float:
    """When what a record tells of happened, in seconds since 1970: of a copied record, the time of the original."""
    origin = record.headers.get(ORIGIN)
    if origin is None:
        return record.time_s
    try:
        time_s = float(origin.partition(" ")[2])
    except ValueError:
        return record.time_s
    return time_s if 0 <= time_s <= LAST_TIME_S else record.time_s


def unreadable(subject: str, seq: int, body: bytes, error: ValidationError, expected: str) -> BadRecord:
    """What is wrong with a body that was refused: a newer version wrote it, or it is not what was expected."""
    with suppress(ValueError):
        found: JsonValue = from_json(body)
        schema = found.get("schema") if isinstance(found, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            return NewerRecord(subject, seq, schema, SCHEMA)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    return BadRecord(subject, seq, f"not {expected}: {place} {first['msg']}".strip())


@lru_cache(maxsize=4096)
def _parse(body: bytes) -> BusEvent:
    # Events are frozen, so the seats of one process share one parsed event instead of parsing each its own.
    return _EVENTS.validate_json(body)
