"""What is written about an entity: letters in its mailbox, and one commit for each letter that was handled.

An entity `counter/ada` has the name space `counter--ada`: letters are records of the plain stream `mailbox`, commits
of the stream `entity`, both in one order. Whoever can reach the bus can read them with any NATS client.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from convive.bus import (
    BadName,
    BadRecord,
    ConversationId,
    Event,
    Record,
    RunContext,
    RunId,
    derive_run_id,
    is_slug,
    slugify,
    unreadable,
)

TYPE_LENGTH = 40
"""So that a type has a work queue, `entities-<type>`."""

MOST_HOPS = 32
"""Letters in a row within one trace: what answers another, or sets a time, for ever must not make an endless tree."""

TRACEPARENT = "traceparent"

EntityKind = Literal["created", "message", "finished", "failed", "changed", "due"]
"""Why a handler is woken: it is new; somebody sent something; an entity that it observes is over, or failed at a wake,
or changed its rows; a time that it set has come."""

LetterKind = EntityKind | Literal["observe", "unobserve", "change", "signal"]
"""All that a mailbox takes; the last four are for the host alone, and wake no handler."""

Signal = Literal["pause", "resume", "stop"]


class BadEntity(BadName):
    """Not the name of an entity."""


@dataclass(frozen=True, slots=True)
class EntityName:
    """`type/id`: which kind of entity, and which one."""

    type: str
    id: str

    @classmethod
    def of(cls, text: str) -> "EntityName":
        """Read `counter/ada` (or `/counter/ada`). Raises BadEntity, with a suggestion where one can be made."""
        type, slash, id = text.removeprefix("/").partition("/")
        if slash and is_slug(type) and is_slug(id) and len(type) <= TYPE_LENGTH and "--" not in type + "-":
            if is_slug(space := f"{type}--{id}"):
                return cls(type, id)
            hint = ""
            why = f"type and id have {len(space) - 2} letters together, and 61 at most"
        else:
            hint = "/".join(filter(None, (slugify(part) for part in (type, id or "1"))))
            why = "use TYPE/ID, both of a-z, 0-9 and '-', starting with a letter or digit; a type has no '--' in it"
        raise BadEntity(
            f"{text[:80]!r} is not the name of an entity: {why}.{f' Did you mean {hint!r}?' if hint else ''}"
        )

    @classmethod
    def of_space(cls, space: str) -> "EntityName | None":
        """The entity whose name space this is; None for any other."""
        type, dashes, id = space.partition("--")
        try:
            return cls.of(f"{type}/{id}") if dashes else None
        except BadEntity:
            return None

    @property
    def space(self) -> ConversationId:
        """Its name space on the bus."""
        return ConversationId(f"{self.type}--{self.id}")

    @property
    def queue(self) -> str:
        """The work queue of its type."""
        return f"entities-{self.type}"

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class Change(BaseModel):
    """One row of a collection is put, or deleted (`row` is None)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    collection: str
    key: str
    row: dict[str, Any] | None = None


class Letter(Event):
    """Something for an entity. `sender` is an entity, or empty for the world outside.

    What an entity sends is numbered by the commit that it is part of and its place in there, so that a letter that is
    delivered twice counts once.
    """

    type: Literal["letter"] = "letter"
    kind: LetterKind
    sender: str = ""
    number: tuple[int, int] | None = None
    value: JsonValue = None
    id: str = ""
    """Of a time that has come: which."""
    changes: tuple[Change, ...] = ()
    changes_too: bool = False
    """Of an observer: whether it wants to hear of changed rows as well, and not of the end alone."""
    trace: RunId | None = None
    """Of a letter without a number: names the run of the wake. It is that run, when no run sent the letter."""
    hops: int = 0
    """How many letters led to this one, each sent by the wake for the one before."""


class Outgoing(BaseModel):
    """A letter that a commit sends. With `at_s` it is one to the entity itself, not before that time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    to: str
    letter: Letter
    at_s: float | None = None


class Woken(Event):
    """The commit of a wake: the letter is handled, and all that its handler did counts from here on.

    `run_id` is the run of the letter, and says which one that was; `letter` is its place where it was handled.
    Everything or nothing: rows, letters, timers and the end are in one record.
    """

    type: Literal["woken"] = "woken"
    wake: int
    letter: int
    run_id: RunId
    changes: tuple[Change, ...] = ()
    letters: tuple[Outgoing, ...] = ()
    word: Letter | None = None
    """What each observer is told (of "changed": each that wants to hear of changes), once for all of them."""
    cancelled: tuple[str, ...] = ()
    """Timers that will not come."""
    error: str | None = None
    finished: bool = False
    result: JsonValue = None
    ended: Literal["finished", "stopped"] | None = None
    """How the entity stands behind this commit, when it is over."""


class EntityJob(Event):
    """The body of a job: there is a letter at that place, or a time has come and its letter is to be stored first."""

    type: Literal["entity_job"] = "entity_job"
    entity: str
    letter: int = 0
    due: Letter | None = None
    signal: Signal | None = None
    """What the letter signals, if it does."""
    tries: int = 0
    """Of "resume": how often it was sent again, since somebody else seemed to go on with the entity."""


def letter_of(record: Record) -> Letter:
    """Raises BadRecord, or NewerRecord for a newer version's."""
    try:
        letter = Letter.model_validate_json(record.body)
        if letter.sender or letter.kind in ("observe", "unobserve"):
            EntityName.of(letter.sender)
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "a letter to an entity") from None
    except BadEntity as error:
        raise BadRecord(record.subject, record.seq, f"not a letter to an entity: {error}") from None
    if letter.kind == "signal" and letter.value not in get_args(Signal):
        raise BadRecord(record.subject, record.seq, f"not a signal: {str(letter.value)[:80]}")
    return letter


def woken_of(record: Record) -> Woken:
    """Raises BadRecord, or NewerRecord for a newer version's."""
    try:
        woken = Woken.model_validate_json(record.body)
        for each in woken.letters:
            EntityName.of(each.to)
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "the commit of a wake") from None
    except BadEntity as error:
        raise BadRecord(record.subject, record.seq, f"not the commit of a wake: {error}") from None
    return woken


def wake_run(entity: EntityName, seq: int, letter: Letter, sender: RunContext | None) -> RunContext:
    """The run of the wake for the letter at `seq`, the same in every process and in a copy elsewhere; its id is also
    that of the job.

    It stands below the run that sent the letter. One that no run sent begins a trace of its own, and so does one at the
    end of a long chain, with a link to where it came from.
    """
    number = None if letter.number is None else f"{letter.sender}#{letter.number[0]}.{letter.number[1]}"
    name = f"{entity}/{number or letter.trace or seq}"
    if sender is not None and (letter.hops == 0 or letter.hops % MOST_HOPS):
        return sender.child(derive_run_id(sender.run_id, name))
    if sender is None:
        return RunContext.root(letter.trace or _digest(name))
    return RunContext.root(_digest(f"{sender.run_id}/{name}"), sender.headers()[TRACEPARENT])


def _digest(text: str) -> RunId:
    return RunId(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def carrier_of(source: JsonValue) -> str:
    """The job that carries out a wake, by the source of its run; empty for a run that is no wake."""
    carrier = source.get("carrier") if isinstance(source, dict) else None
    return carrier if isinstance(carrier, str) else ""
