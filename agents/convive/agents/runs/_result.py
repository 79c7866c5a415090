"""What a run came to."""

from dataclasses import dataclass, field
from typing import Generic, Literal

from pydantic import JsonValue, ValidationError

from convive.agents.journal._fold import RunState, Trip, joined, replayable
from convive.agents.journal._interrupts import Interrupt
from convive.agents.journal._journal import Artifact, ChildRun, FinishReason, RunFinished, Suspended
from convive.agents.journal._journal import RunFailed as Failed
from convive.agents.models._messages import Message
from convive.agents.models._model import Usage
from convive.agents.tools._output import Data, Output
from convive.bus import ConviveError, RunContext, RunId

Status = Literal["completed", "failed", "cancelled", "suspended"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no result. `error` is the name of an error class; `cause` the error, in the process that met it."""

    error: str
    message: str
    transient: bool = False
    cause: Exception | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did: which agent, where in the tree of runs, and each trip with its calls, usage and time."""

    agent: str
    run: RunContext
    session_id: str | None
    status: Status
    trips: tuple[Trip, ...]
    usage: Usage
    warnings: tuple[str, ...] = ()
    children: tuple[ChildRun, ...] = ()
    """The runs below; their usage is part of `usage`."""
    cost: float | None = None
    """What the answers cost, runs below included, in the currency of the agents' price tables; None when a part of that
    is unknown."""
    handoffs: tuple[str, ...] = ()
    """The agents that the conversation was handed to; the last one gave the text."""
    known_cost: float = 0.0
    """The part of the cost that is known: all of it, unless `cost` is None."""
    meta: JsonValue = None
    """What the caller gave as `meta`."""


@dataclass(frozen=True, slots=True)
class AgentResult(Generic[Data]):
    """A run's result. `messages` is the whole history, this run's included, to hand on as `history=`.

    `data` is the answer as the type given as `output`; None without one, or when there is no answer that fits.
    """

    status: Status
    text: str
    finish_reason: FinishReason | None
    messages: tuple[Message, ...]
    report: Report
    artifacts: tuple[Artifact, ...] = ()
    error: Failure | None = None
    data: Data | None = None
    interrupts: tuple[Interrupt, ...] = ()
    """What a suspended run waits for, in it and in the runs below."""
    resume_token: str | None = None
    """Good for one resumption of this suspension, which it names; it authorizes nobody."""

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.report.run.run_id

    @property
    def usage(self) -> Usage:
        """All tokens of the run and of those below it."""
        return self.report.usage

    @property
    def cost(self) -> float | None:
        """What the run and those below it cost; None when a part of that is unknown, see `report.known_cost`."""
        return self.report.cost


class RunFailed(ConviveError):
    """A run ended without a result. `result` holds what there is: report, messages, usage."""

    def __init__(self, result: AgentResult) -> None:
        self.result = result
        why = result.error
        super().__init__(f"agent {result.report.agent!r} failed: {why.message if why else 'no reason is known'}")


class RunCancelled(ConviveError):
    """A run was called off. `result` holds what there is: report, messages, usage."""

    def __init__(self, result: AgentResult) -> None:
        self.result = result
        reason = f": {result.error.message}" if result.error and result.error.message else ""
        super().__init__(f"the run of agent {result.report.agent!r} was cancelled{reason}")


class RunUnfinished(ConviveError):
    """This process stopped before the run ended, and left it so: it can be continued from its journal."""

    def __init__(self, run: RunContext) -> None:
        self.run_id = run.run_id
        super().__init__(
            f"this process stopped executing run {run.run_id}, and its journal has no end. "
            "Executing the same run id again, here or elsewhere, continues it."
        )


def result_of(
    state: RunState,
    run: RunContext,
    opening: tuple[Message, ...],
    cause: Exception | None = None,
    output: Output | None = None,
) -> AgentResult:
    """The result of an ended run. `opening`: the messages before the model's first word."""
    started, ended = state.started, state.ended
    waiting = state.suspended
    if started is None or (ended is None and waiting is None):
        raise ValueError("only a run that has ended or is suspended has a result")
    status: Status = "completed"
    text = state.latest_text
    reason: FinishReason | None = None
    error: Failure | None = None
    warnings: tuple[str, ...] = ()
    if isinstance(ended, RunFinished):
        text, reason = ended.text, ended.reason
        warnings = () if ended.warning is None else (ended.warning,)
    elif isinstance(ended, Failed):
        status, error = "failed", Failure(ended.error, ended.message, ended.transient, cause)
        text = text or (state.trips[-1].text if state.trips else "")
    elif ended is not None:
        status, error, waiting = "cancelled", Failure("RunCancelled", ended.reason), None
    else:
        status = "suspended"
    data = None
    if output is not None and status == "completed":
        try:
            data = output.read(text)
        except ValidationError:
            warnings = (*warnings, "the text does not fit `output`, so that there is no data")
    report = Report(
        started.agent,
        run,
        started.session_id,
        status,
        state.trips,
        state.usage,
        warnings,
        state.children,
        state.cost,
        state.handoffs,
        state.known_cost,
        started.meta,
    )
    messages = joined((*opening, *replayable(state)))
    return AgentResult(status, text, reason, messages, report, state.artifacts, error, data, *_waiting(waiting))


def _waiting(suspended: Suspended | None) -> tuple[tuple[Interrupt, ...], str | None]:
    return ((), None) if suspended is None else (suspended.everything, suspended.token)


def unwrap(result: AgentResult[Data]) -> AgentResult[Data]:
    """The result of a run that completed or is suspended. Raises RunFailed or RunCancelled for another."""
    if result.status == "failed":
        raise RunFailed(result) from (result.error.cause if result.error else None)
    if result.status == "cancelled":
        raise RunCancelled(result)
    return result
