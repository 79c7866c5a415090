"""What a run does next, from its folded journal. No I/O, no clock, no randomness.

What a prefix of a journal lacks is what `next_step` asks for, so resuming after a crash is not a separate path.
"""

from dataclasses import dataclass

from convive.agents.journal._fold import Call, RunState
from convive.agents.journal._journal import FinishReason, ModelAnswered, Suspended
from convive.agents.models._messages import ToolUse
from convive.agents.runs._limits import Limits


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the model for the answer of a trip."""

    trip: int
    attempt: int


@dataclass(frozen=True, slots=True)
class UseTools:
    """Carry out the calls of a trip that have not returned."""

    trip: int
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run with a text."""

    text: str
    reason: FinishReason
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run without a result. `error` is the name of an error class."""

    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """Wait for answers, outside of any process."""

    suspended: Suspended


_UNKNOWN_END = "the provider ended the answer for a reason that is not known here, so that it may not be whole"

Step = Ask | UseTools | Finish | Suspend | Stop


def may_stop(state: RunState) -> bool:
    """Whether a stop condition has a say in what comes next: all calls of the latest trip have returned."""
    if state.ended is not None or state.suspended is not None or not state.trips:
        return False
    return bool(state.trips[-1].calls) and not state.trips[-1].open_calls


def next_step(state: RunState, limits: Limits, stop: bool = False, elapsed_s: float = 0.0) -> Step:
    """What a run does next. `stop`: whether its stop condition holds; `elapsed_s`: how long it was executed.

    Raises ValueError for a run that has not started or has ended.
    """
    if state.started is None or state.ended is not None:
        raise ValueError("only a run that is under way has a next step")
    if state.suspended is not None:
        return Suspend(state.suspended)
    if not state.trips:
        return Ask(0, 1)
    trip = state.trips[-1]
    reached = _limit_reached(state, limits, elapsed_s)
    if trip.answer is None:
        late = limits.seconds is not None and elapsed_s >= limits.seconds
        return _at_limit(state, limits, reached) if late and reached else Ask(trip.index, trip.attempt + 1)
    if trip.answer.rejected is not None:
        return _after_rejection(state, limits, reached)
    if trip.answer.stop_reason == "length" or trip.answer.stop_reason == "refusal":
        return Finish(trip.text, trip.answer.stop_reason, warning=_dropped_calls(trip.answer))
    if not trip.calls:
        return Finish(trip.text, "answered", _UNKNOWN_END if trip.answer.stop_reason == "other" else None)
    if trip.open_calls:
        return UseTools(trip.index, trip.open_calls)
    return _after_tools(state, limits, stop, reached)


def _dropped_calls(answer: ModelAnswered) -> str | None:
    dropped = [part.name for part in answer.parts if isinstance(part, ToolUse)]
    if not dropped:
        return None
    how = "cut at its length limit" if answer.stop_reason == "length" else "a refusal"
    return f"the answer was {how}, so its tool calls ({', '.join(dropped)}) were not carried out"


def _after_tools(state: RunState, limits: Limits, stop: bool, reached: str | None) -> Step:
    calls = state.trips[-1].calls
    answered = [call.returned.content for call in calls if call.returned is not None and call.returned.handed_to]
    if answered:
        return Finish(answered[0], "handoff")
    if all(call.silent and call.returned is not None and not call.returned.is_error for call in calls):
        return Finish(state.latest_text, "silent")
    if stop:
        return Finish(state.latest_text, "stop_condition")
    return Ask(len(state.trips), 1) if reached is None else _at_limit(state, limits, reached)


def _at_limit(state: RunState, limits: Limits, reached: str) -> Step:
    if limits.on_limit == "raise":
        return Stop("LimitReached", reached)
    return Finish(state.latest_text, "limit", warning=reached)


def _after_rejection(state: RunState, limits: Limits, reached: str | None) -> Step:
    answer = state.trips[-1].answer
    rejected = answer.rejected if answer else None
    assert rejected is not None  # noqa: S101 - for the type checker; the caller looked
    allowed = limits.reasks if rejected.reasks is None else rejected.reasks
    if _rejections_in_a_row(state) <= allowed and reached is None:
        return Ask(len(state.trips), 1)
    if rejected.fallback is not None:
        return Finish(rejected.fallback, "fallback", warning=f"no usable answer: {rejected.reason}")
    return Stop("UnusableAnswer", f"no usable answer after {len(state.trips)} trips: {rejected.reason}")


def _rejections_in_a_row(state: RunState) -> int:
    count = 0
    for trip in reversed(state.trips):
        if trip.answer is None or trip.answer.rejected is None:
            break
        count += 1
    return count


def _limit_reached(state: RunState, limits: Limits, elapsed_s: float) -> str | None:
    if len(state.trips) >= limits.trips:
        return f"the limit of {limits.trips} trips was reached"
    if limits.tokens is not None and state.usage.total_tokens >= limits.tokens:
        return f"the limit of {limits.tokens} tokens was reached"
    if limits.tool_calls is not None and state.tool_calls >= limits.tool_calls:
        return f"the limit of {limits.tool_calls} tool calls was reached"
    if limits.cost is not None and state.known_cost >= limits.cost:
        return f"the limit of {limits.cost:g} for the cost was reached"
    if limits.seconds is not None and elapsed_s >= limits.seconds:
        return f"the limit of {limits.seconds:.3g} seconds was reached"
    return None
