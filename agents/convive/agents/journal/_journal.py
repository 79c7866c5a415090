"""A run's journal: the closed union of its events, and where it stands on the bus (architecture.md, section 6)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from convive.agents.journal._interrupts import Interrupt, Resolution
from convive.agents.models._messages import Message, Part
from convive.agents.models._model import StopReason, Usage
from convive.agents.models._schema import clean
from convive.bus import Event, Log, MemoryLog, Record, RunContext, RunId, unreadable

if TYPE_CHECKING:
    from convive.agents.journal._recorded import Recorded

_LONGEST_REASON = 10_000

FinishReason = Literal["answered", "silent", "stop_condition", "limit", "length", "refusal", "fallback", "handoff"]
"""Why a run finished: the model had its say; every tool call was silent; a stop condition held; a limit was
reached; the answer was cut, or refused; no usable answer came and the refiner's fallback stands in; another agent
answered in place of this one."""


class Artifact(BaseModel):
    """Something a tool made for the application; a model never sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    value: JsonValue


class Rejected(BaseModel):
    """An answer that is of no use: by the verdict of `refine`, or because it does not fit `output`.

    `feedback` is what the model is told, if anything. `reasks`: how many in a row are asked for again, where the
    limit of that name does not decide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    reason: str
    feedback: str | None = None
    fallback: str | None = None
    reasks: int | None = None


class ChildRun(BaseModel):
    """A run that a tool call made below this one, and what it and those below it used, whatever came of it.

    `cost` is None when a part of it is unknown; `known_cost` is the part that is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: RunId
    agent: str
    status: Literal["completed", "failed", "cancelled"]
    usage: Usage = Usage()
    tool_calls: int = 0
    cost: float | None = None
    known_cost: float = 0.0


class RunStarted(Event):
    """The first record. `input` and `history` are what the caller gave; or `source` refers to it where it stands.

    With a `source` the caller rebuilds input and history itself, so that a shared history is not stored once a run.
    `meta` is the application's own, and means nothing here.
    """

    type: Literal["run_started"] = "run_started"
    agent: str
    model: str
    root: RunId
    parent: RunId | None = None
    session_id: str | None = None
    input: str | None = None
    history: tuple[Message, ...] = ()
    source: JsonValue = None
    meta: JsonValue = None


class TripStarted(Event):
    """The model is being asked. A further `attempt` voids what was shown of the one before."""

    type: Literal["trip_started"] = "trip_started"
    trip: int
    attempt: int = 1


class ModelAnswered(Event):
    """The model's answer as it came, and what `refine` made of it: another text, or a rejection.

    `cost` is that of the whole trip, earlier attempts included, None when a part of it is unknown; `known_cost` is the
    part that is known.
    """

    type: Literal["model_answered"] = "model_answered"
    trip: int
    parts: tuple[Part, ...]
    stop_reason: StopReason
    usage: Usage = Usage()
    model: str = ""
    took_s: float = 0.0
    cost: float | None = None
    known_cost: float = 0.0
    refined: str | None = None
    rejected: Rejected | None = None
    asked: str | None = None
    """A digest of the request, see `digest_of`: what a redrive compares."""
    first_chunk_s: float | None = None
    """How long the last attempt's first words took, of the answer or of the thinking; None where none were streamed."""

    def body(self) -> bytes:
        # A tool's arguments may be null, and a reader must find them. What was not streamed says nothing of it, so
        # that its record is that of versions which knew no such field.
        left_out = {"first_chunk_s"} if self.first_chunk_s is None else None
        return self.model_dump_json(by_alias=True, exclude=left_out).encode()


class ToolCalled(Event):
    """A tool's handler is about to run. Without a `tool_returned` it may have had its effect or not.

    `index` is the call's place in the answer; with run and trip it makes the idempotency key.
    """

    type: Literal["tool_called"] = "tool_called"
    trip: int
    index: int
    call_id: str
    name: str
    attempt: int = 1
    silent: bool = False
    arguments: JsonValue = None
    """What the tool is called with, where a hook rewrote what the journal says so far; None: what it says."""

    def body(self) -> bytes:
        # Arguments may hold a null, and a reader must find it.
        without = {"arguments"} if self.arguments is None else None
        return self.model_dump_json(by_alias=True, exclude=without).encode()


class ToolReturned(Event):
    """A call is settled. `content` is what the model reads; `value` the whole result where `content` narrows it."""

    type: Literal["tool_returned"] = "tool_returned"
    trip: int
    index: int
    call_id: str
    name: str
    content: str
    is_error: bool = False
    value: JsonValue = None
    artifacts: tuple[Artifact, ...] = ()
    took_s: float = 0.0
    children: tuple[ChildRun, ...] = ()
    handed_to: tuple[str, ...] = ()


class RunFinished(Event):
    """The run is over and has a text, which may be empty. `warning` says what a caller should know of it."""

    type: Literal["run_finished"] = "run_finished"
    text: str
    reason: FinishReason = "answered"
    warning: str | None = None


class RunFailed(Event):
    """The run is over without a result. `error` is the name of an error class; `transient`: a new run may do better.

    `children`: runs below whose calls will never return.
    """

    type: Literal["run_failed"] = "run_failed"
    error: str
    message: str
    transient: bool = False
    children: tuple[ChildRun, ...] = ()

    @classmethod
    def of(cls, error: Exception, *, transient: bool = False) -> Self:
        """The failure that an error is. Of a text that is very long, the beginning is kept."""
        kind = type(error).__name__
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - a foreign class, which may fail at this too
            text = ""
        return cls(error=kind, message=clean(text[:_LONGEST_REASON]) or kind, transient=transient)


class RunCancelled(Event):
    """The run was called off. `children`: runs below whose calls will never return."""

    type: Literal["run_cancelled"] = "run_cancelled"
    reason: str = ""
    children: tuple[ChildRun, ...] = ()


class Suspended(Event):
    """The run waits: its own calls for `interrupts`, its children for those `below`. Nothing runs until `resumed`.

    `token` is good for one resumption, and no secret: it tells this suspension from the others. `tools` holds a digest
    of each tool's schema, by name.
    """

    type: Literal["suspended"] = "suspended"
    interrupts: tuple[Interrupt, ...] = ()
    below: tuple[Interrupt, ...] = ()
    token: str
    expires_at: float | None = None
    tools: dict[str, str] = Field(default_factory=dict[str, str])

    @property
    def everything(self) -> tuple[Interrupt, ...]:
        """All that is waited for, in this run and in those below it."""
        return self.interrupts + self.below

    def body(self) -> bytes:
        own = {"interrupts": {"__all__": {"through"}}}  # which nothing leads to
        return self.model_dump_json(by_alias=True, exclude=own).encode()


class Resumed(Event):
    """Some of what was waited for is answered, by the id of the interrupt. This record uses up the token."""

    type: Literal["resumed"] = "resumed"
    answers: dict[str, Resolution]

    def body(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()


Ending = RunFinished | RunFailed | RunCancelled
JournalEvent = RunStarted | TripStarted | ModelAnswered | ToolCalled | ToolReturned | Suspended | Resumed | Ending

_EVENTS: TypeAdapter[JournalEvent] = TypeAdapter(Annotated[JournalEvent, Field(discriminator="type")])


def journal_event_of(record: Record) -> JournalEvent:
    """The event in a journal record. Raises BadRecord when it is not one of ours, NewerRecord for a newer version's."""
    try:
        event: JournalEvent = _EVENTS.validator.validate_json(record.body)
    except ValidationError as error:
        raise unreadable(record.subject, record.seq, record.body, error, "a journal event of ours") from None
    return event


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs keep their journals: a log, and the subject of a conversation such as `cv.03.some-conversation`.

    `live`: whether text is also posted while it is produced; without an onlooker there is no use in it. `recorded`:
    what models answered and tools gave back once, in place of asking and calling them.
    """

    log: Log
    base: str
    live: bool = True
    recorded: "Recorded | None" = None

    @classmethod
    def local(cls) -> "Place":
        """A place of its own in memory, for a run that needs no bus."""
        return cls(MemoryLog(), "local", live=False)

    def journal(self, run: RunContext) -> str:
        """The subject of a run's journal."""
        return f"{self.base}.run.{run.root_run_id}.{run.run_id}"

    def live_text(self, run: RunContext) -> str:
        """The subject of a run's text while it is produced."""
        return f"{self.base}.live.{run.root_run_id}.{run.run_id}"
