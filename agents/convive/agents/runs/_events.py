"""What a watcher of a run sees while it happens. The journal is what lasts; these are for the eye."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import JsonValue

from convive.agents.models._model import Usage
from convive.agents.runs._result import AgentResult
from convive.bus import RunContext, RunId

EventName = Literal[
    "run_started",
    "trip_started",
    "text_delta",
    "thinking_delta",
    "arguments_delta",
    "model_failed",
    "tool_started",
    "tool_updated",
    "tool_finished",
    "trip_finished",
    "run_finished",
    "run_failed",
    "run_cancelled",
    "run_suspended",
    "*",
]
"""The `type` of an event; `"*"` stands for any."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Every event names its run and where that stands in the tree of runs. `type` is its name: by it type checkers know
    what else an event has."""

    run: RunContext

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self.run.run_id

    @property
    def root_run_id(self) -> RunId:
        """The outermost run above it."""
        return self.run.root_run_id

    @property
    def parent_run_id(self) -> RunId | None:
        """The run directly above it, if any."""
        return self.run.parent_run_id


@dataclass(frozen=True, slots=True)
class RunStarted(RunEvent):
    """First event. `resumed`: the journal held part of the run; that part is not shown again."""

    type: ClassVar[Literal["run_started"]] = "run_started"
    agent: str
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class TripStarted(RunEvent):
    """The model is being asked. An `attempt` above 1 voids the deltas of the trip so far."""

    type: ClassVar[Literal["trip_started"]] = "trip_started"
    trip: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TextDelta(RunEvent):
    """More text of the answer, as the model writes it and before `refine`."""

    type: ClassVar[Literal["text_delta"]] = "text_delta"
    trip: int
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta(RunEvent):
    """More of the model's reasoning."""

    type: ClassVar[Literal["thinking_delta"]] = "thinking_delta"
    trip: int
    text: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta(RunEvent):
    """More of the arguments of a tool call while the model writes it: JSON that is whole only in `tool_started`.

    `index`: which call of the answer, from 0. A call that is announced here may still never be made.
    """

    type: ClassVar[Literal["arguments_delta"]] = "arguments_delta"
    trip: int
    index: int
    call_id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ModelFailed(RunEvent):
    """One model of a list gave no answer; the next one is asked, if there is one. `error` names an error class."""

    type: ClassVar[Literal["model_failed"]] = "model_failed"
    trip: int
    model: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class ToolStarted(RunEvent):
    """A call that waits for nobody; its handler runs unless the call itself is at fault."""

    type: ClassVar[Literal["tool_started"]] = "tool_started"
    trip: int
    call_id: str
    name: str
    arguments: JsonValue


@dataclass(frozen=True, slots=True)
class ToolUpdated(RunEvent):
    """Progress that a tool shows."""

    type: ClassVar[Literal["tool_updated"]] = "tool_updated"
    trip: int
    call_id: str
    name: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class ToolFinished(RunEvent):
    """A call is settled; `content` is what the model reads."""

    type: ClassVar[Literal["tool_finished"]] = "tool_finished"
    trip: int
    call_id: str
    name: str
    content: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class TripFinished(RunEvent):
    """The model has answered. `text` is the answer's prose as refined; `rejected` why it was found unusable."""

    type: ClassVar[Literal["trip_finished"]] = "trip_finished"
    trip: int
    finish_reason: str
    text: str
    usage: Usage
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class RunFinished(RunEvent):
    """Last event of a completed run."""

    type: ClassVar[Literal["run_finished"]] = "run_finished"
    result: AgentResult


@dataclass(frozen=True, slots=True)
class RunFailed(RunEvent):
    """Last event of a failed run."""

    type: ClassVar[Literal["run_failed"]] = "run_failed"
    result: AgentResult


@dataclass(frozen=True, slots=True)
class RunCancelled(RunEvent):
    """Last event of a cancelled run."""

    type: ClassVar[Literal["run_cancelled"]] = "run_cancelled"
    reason: str


@dataclass(frozen=True, slots=True)
class RunSuspended(RunEvent):
    """Last event before a run waits: for what, and with which token it is resumed, stands in the result."""

    type: ClassVar[Literal["run_suspended"]] = "run_suspended"
    result: AgentResult


AnyRunEvent = (
    RunStarted
    | TripStarted
    | TextDelta
    | ThinkingDelta
    | ArgumentsDelta
    | ModelFailed
    | ToolStarted
    | ToolUpdated
    | ToolFinished
    | TripFinished
    | RunFinished
    | RunFailed
    | RunCancelled
    | RunSuspended
)

Emit = Callable[[AnyRunEvent], Awaitable[None]]
"""Takes an event; must not raise."""
