"""A run's journal folded to a state.

    run_started, (trip_started+, model_answered, (tool_called*, tool_returned)*, (suspended, resumed)*)*,
    run_finished | run_failed | run_cancelled

Any prefix of that folds. What breaks the order is damage and is reported, never guessed around.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

from pydantic import JsonValue

from convive.agents.journal._interrupts import Edit, Interrupt, Resolution
from convive.agents.journal._journal import (
    Artifact,
    ChildRun,
    Ending,
    JournalEvent,
    ModelAnswered,
    Resumed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
    ToolCalled,
    ToolReturned,
    TripStarted,
)
from convive.agents.models._messages import Message, Part, Text, ToolResult, ToolUse, assistant, text_of, user
from convive.agents.models._model import Usage

NOT_CARRIED_OUT = "not carried out: the run ended first"
"""What a call came to that has no result when its run ends."""

T = TypeVar("T")

_CUT = ("length", "refusal")
"""Answers whose tool calls are never carried out: they may be half a thought."""


@dataclass(frozen=True)
class Call:
    """One tool call of a trip. `attempt` counts how often its handler was started; 0: not yet."""

    index: int
    id: str
    name: str
    arguments: JsonValue
    attempt: int = 0
    silent: bool = False
    rewritten: bool = False
    """Whether a hook has put `arguments` in place of the model's."""
    since_s: float = 0.0
    """When its handler was last started, in seconds of the trip's tools."""
    returned: ToolReturned | None = None
    interrupt: Interrupt | None = None
    """What the call waits for, or waited for."""
    resolution: Resolution | None = None


@dataclass(frozen=True)
class Trip:
    """One round trip to the model and the tool calls that it led to."""

    index: int
    attempt: int = 1
    answer: ModelAnswered | None = None
    calls: tuple[Call, ...] = ()
    tools_s: float = 0.0
    """Seconds that the tools took; those that ran side by side count once."""

    @property
    def text(self) -> str:
        """What the model said, as refined; empty without an answer."""
        if self.answer is None:
            return ""
        return text_of(self.answer.parts) if self.answer.refined is None else self.answer.refined

    @property
    def finish_reason(self) -> str:
        """The model's stop reason, or "unanswered"."""
        return "unanswered" if self.answer is None else self.answer.stop_reason

    @property
    def usage(self) -> Usage:
        """The tokens of the answer."""
        return Usage() if self.answer is None else self.answer.usage

    @property
    def took_s(self) -> float:
        """Seconds that the answer took."""
        return 0.0 if self.answer is None else self.answer.took_s

    @property
    def cost(self) -> float | None:
        """What the answer cost; None when that, or that of an attempt that was lost, is not known."""
        return None if self.answer is None else self.answer.cost

    @property
    def known_cost(self) -> float:
        """The part of the cost that is known."""
        return 0.0 if self.answer is None else _known(self.answer)

    @property
    def open_calls(self) -> tuple[Call, ...]:
        """The calls that have not returned, in the model's order."""
        return tuple(call for call in self.calls if call.returned is None)


@dataclass(frozen=True)
class RunState:
    """A folded journal. `messages` holds what the settled trips add to the conversation with the model. `usage`,
    `tool_calls` and `known_cost` are those of the trips and of the runs below that are over."""

    started: RunStarted | None = None
    trips: tuple[Trip, ...] = ()
    messages: tuple[Message, ...] = ()
    usage: Usage = Usage()
    tool_calls: int = 0
    known_cost: float = 0.0
    """What the answers cost, as far as that is known."""
    cost_is_partial: bool = False
    ended: Ending | None = None
    suspended: Suspended | None = None
    resolutions: Mapping[str, Resolution] = field(default_factory=dict[str, Resolution])
    """All answers so far by the id of their interrupt, those to runs below included."""
    used_tokens: tuple[str, ...] = ()
    outline: bool = False
    """Whether messages and sums are left out, for those who look at trips and calls only."""

    @property
    def latest_text(self) -> str:
        """The text of the latest trip that has any that is of use."""
        usable = (trip for trip in reversed(self.trips) if trip.answer is not None and trip.answer.rejected is None)
        return next((trip.text for trip in usable if trip.text), "")

    @property
    def children(self) -> tuple[ChildRun, ...]:
        """The runs below that are over, in the order of the calls."""
        returned = (call.returned for trip in self.trips for call in trip.calls)
        last = self.ended.children if isinstance(self.ended, RunFailed | RunCancelled) else ()
        return (*(child for each in returned if each is not None for child in each.children), *last)

    @property
    def handoffs(self) -> tuple[str, ...]:
        """The agents that the conversation was handed to, if it was."""
        returned = (call.returned for trip in self.trips[-1:] for call in trip.calls)
        return next((each.handed_to for each in returned if each is not None and each.handed_to), ())

    @property
    def cost(self) -> float | None:
        """What the answers cost, here and below; None when that is not known of each.

        A request without an answer may have been billed all the same, so that nobody knows.
        """
        unanswered = bool(self.trips) and self.trips[-1].answer is None
        return None if self.cost_is_partial or unanswered else self.known_cost

    @property
    def worked_s(self) -> float:
        """Seconds that answers and tools took."""
        return sum(trip.took_s + trip.tools_s for trip in self.trips)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """What the tools made for the application, in the order of the calls."""
        returned = (call.returned for trip in self.trips for call in trip.calls)
        return tuple(artifact for each in returned if each is not None for artifact in each.artifacts)


def fold(state: RunState, event: JournalEvent) -> RunState:
    """The state after one more event. Raises ValueError when the event cannot follow: the journal is damaged."""
    if isinstance(event, RunStarted):
        if state.started is not None:
            raise ValueError("a run starts once")
        return _but(state, started=event)
    if state.started is None:
        raise ValueError("the journal does not begin with run_started")
    if state.ended is not None:
        raise ValueError("nothing follows the end of a run")
    if state.suspended is not None and not isinstance(event, Resumed | RunFailed | RunCancelled):
        raise ValueError(f"{event.type} follows a suspension that nobody answered")
    match event:
        case TripStarted():
            return _trip_started(state, event)
        case ModelAnswered():
            return _answered(state, event)
        case ToolCalled():
            call = _call(state, event.trip, event.index)
            if event.arguments is not None:
                call = _but(call, arguments=event.arguments, rewritten=True)
            began = {"attempt": event.attempt, "silent": event.silent, "since_s": state.trips[-1].tools_s}
            return _with_call(state, _but(call, **began))
        case ToolReturned():
            return _returned(state, event)
        case Suspended():
            return _suspended(state, event)
        case Resumed():
            return _resumed(state, event)
        case RunFinished():
            return _finished(state, event)
        case RunFailed() | RunCancelled():
            return _with_children(_but(state, ended=event), event.children)
        case _:
            assert_never(event)


def latest_alone(state: RunState) -> RunState:
    """A state without what no rule of the fold looks at: the trips before the latest, and what came of them."""
    return _but(state, trips=state.trips[-1:], messages=(), resolutions={}, used_tokens=())


def _trip_started(state: RunState, event: TripStarted) -> RunState:
    if state.trips and state.trips[-1].answer is None:
        if event.trip != state.trips[-1].index:
            raise ValueError(f"trip {event.trip} starts before the one before it has an answer")
        return _with_trip(state, _but(state.trips[-1], attempt=event.attempt))
    before = state.trips[-1].index + 1 if state.trips else 0  # see `latest_alone`
    if event.trip != before:
        raise ValueError(f"trip {event.trip} follows {before} trips")
    if state.trips and state.trips[-1].open_calls:
        raise ValueError(f"trip {event.trip} starts with tool calls open")
    return _but(state, trips=(*state.trips, Trip(event.trip, event.attempt)))


def _answered(state: RunState, event: ModelAnswered) -> RunState:
    if not (state.trips and state.trips[-1].index == event.trip and state.trips[-1].answer is None):
        raise ValueError(f"trip {event.trip} is answered without having been asked")
    uses = [part for part in event.parts if isinstance(part, ToolUse)] if event.stop_reason not in _CUT else []
    calls = tuple(Call(place, use.id, use.name, use.arguments) for place, use in enumerate(uses))
    state = _with_trip(state, _but(state.trips[-1], answer=event, calls=calls))
    if state.outline:
        return state
    said = _said(event)
    added = (said,) if said is not None and not calls else ()
    if event.rejected is not None:
        added = () if event.rejected.feedback is None else (*added, user(event.rejected.feedback))
    return _but(
        state,
        usage=state.usage + event.usage,
        tool_calls=state.tool_calls + len(calls),
        known_cost=state.known_cost + _known(event),
        cost_is_partial=state.cost_is_partial or event.cost is None,
        messages=state.messages + added,
    )


def _returned(state: RunState, event: ToolReturned) -> RunState:
    call = _call(state, event.trip, event.index)
    tools_s = max(state.trips[-1].tools_s, call.since_s + event.took_s)
    state = _with_children(_with_call(state, _but(call, returned=event), tools_s=tools_s), event.children)
    trip = state.trips[-1]
    if state.outline or trip.open_calls or trip.answer is None:
        return state
    said = _said(trip.answer)
    assert said is not None  # noqa: S101 - a trip with calls said at least those
    return _but(state, messages=(*state.messages, said, _heard(trip)))


def _suspended(state: RunState, event: Suspended) -> RunState:
    for interrupt in event.interrupts:
        call = _call(state, interrupt.trip, interrupt.index)
        waiting = _but(call, arguments=interrupt.arguments, interrupt=interrupt)
        known = call.interrupt is not None and call.interrupt.id == interrupt.id
        state = _with_call(state, waiting if known else _but(waiting, resolution=None))
    return _but(state, suspended=event)


def _resumed(state: RunState, event: Resumed) -> RunState:
    suspended = state.suspended
    if suspended is None:
        raise ValueError("only a run that is suspended is resumed")
    unknown = event.answers.keys() - {interrupt.id for interrupt in suspended.everything}
    if unknown:
        raise ValueError(f"the run does not wait for {sorted(unknown)}")
    for interrupt in suspended.interrupts:
        answer = event.answers.get(interrupt.id)
        if answer is not None:
            call = _call(state, interrupt.trip, interrupt.index)
            arguments = answer.arguments if isinstance(answer, Edit) else call.arguments
            state = _with_call(state, _but(call, resolution=answer, arguments=arguments))
    return _but(
        state,
        suspended=None,
        resolutions={**state.resolutions, **event.answers},
        used_tokens=(*state.used_tokens, suspended.token),
    )


def _finished(state: RunState, event: RunFinished) -> RunState:
    stands_in = (assistant(event.text),) if event.reason in ("fallback", "handoff") and event.text else ()
    return _but(state, ended=event, messages=state.messages + stands_in)


def _said(answer: ModelAnswered) -> Message | None:
    """The answer as the history keeps it: refined, and without calls that are never carried out."""
    parts: tuple[Part, ...] = answer.parts
    if answer.stop_reason in _CUT:
        parts = tuple(part for part in parts if not isinstance(part, ToolUse))
    if answer.refined is not None:
        kept = tuple(part for part in parts if not isinstance(part, Text))
        parts = (*kept, Text(text=answer.refined)) if answer.refined else kept
    parts = tuple(part for part in parts if not isinstance(part, Text) or part.text)
    return Message(role="assistant", parts=parts) if parts else None


def _heard(trip: Trip, missing: str = "") -> Message:
    """The results of a trip's calls in the model's order; `missing` stands for a result that never came."""
    results = tuple(
        ToolResult(tool_use_id=call.id, content=missing, is_error=True)
        if call.returned is None
        else ToolResult(tool_use_id=call.id, content=call.returned.content, is_error=call.returned.is_error)
        for call in trip.calls
    )
    return Message(role="user", parts=results)


def replayable(state: RunState) -> tuple[Message, ...]:
    """The messages of a run in a form that any provider accepts as history: no tool call is left unanswered."""
    if not state.trips or not state.trips[-1].open_calls:
        return state.messages
    trip = state.trips[-1]
    said = _said(trip.answer) if trip.answer else None
    heard = _heard(trip, missing=NOT_CARRIED_OUT)
    return state.messages if said is None else (*state.messages, said, heard)


def _with_children(state: RunState, children: tuple[ChildRun, ...]) -> RunState:
    if not children or state.outline:
        return state
    return _but(
        state,
        usage=sum((child.usage for child in children), state.usage),
        tool_calls=state.tool_calls + sum(child.tool_calls for child in children),
        known_cost=state.known_cost + sum(_known(child) for child in children),
        cost_is_partial=state.cost_is_partial or any(child.cost is None for child in children),
    )


def _known(each: ModelAnswered | ChildRun) -> float:
    return each.known_cost if each.cost is None else each.cost


def _call(state: RunState, trip: int, index: int) -> Call:
    if not (state.trips and state.trips[-1].index == trip):
        raise ValueError(f"a tool call of trip {trip}, which is not the latest")
    calls = state.trips[-1].calls
    if not 0 <= index < len(calls):
        raise ValueError(f"trip {trip} has no tool call {index}")
    if calls[index].returned is not None:
        raise ValueError(f"tool call {index} of trip {trip} had returned")
    return calls[index]


def _with_call(state: RunState, call: Call, **also: Any) -> RunState:
    trip = state.trips[-1]
    calls = (*trip.calls[: call.index], call, *trip.calls[call.index + 1 :])
    return _with_trip(state, _but(trip, calls=calls, **also))


def _with_trip(state: RunState, trip: Trip) -> RunState:
    return _but(state, trips=(*state.trips[:-1], trip))


def _but(state: T, **changes: Any) -> T:
    """A copy with other values in these fields: as `dataclasses.replace`, for classes without slots, and cheaper.

    Each record of a journal makes two or three of them, here and with whoever follows.
    """
    made = object.__new__(type(state))
    object.__setattr__(made, "__dict__", state.__dict__ | changes)  # it may be frozen
    return made


def opening_of(history: Iterable[Message], input: str | None) -> tuple[Message, ...]:
    """The messages before the model's first word."""
    return joined((*history, *(() if input is None else (user(input),))))


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages with neighbours of one role made one: not every chat template takes two in a row."""
    result: list[Message] = []
    for message in messages:
        if result and result[-1].role == message.role:
            result[-1] = Message(role=message.role, parts=result[-1].parts + message.parts)
        else:
            result.append(message)
    return tuple(result)
