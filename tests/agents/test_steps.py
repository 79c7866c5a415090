"""The decision, and the fold below it: pure, total over every prefix of a journal."""

import pytest

from convive.agents.journal._fold import RunState, fold, replayable
from convive.agents.journal._folding import fold_all
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    Rejected,
    RunCancelled,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolReturned,
    TripStarted,
)
from convive.agents.models._messages import Part, Text, ToolUse
from convive.agents.models._model import StopReason, Usage
from convive.agents.runs._limits import Limits
from convive.agents.runs._steps import Ask, Finish, Step, Stop, UseTools, next_step
from convive.bus import RunId

STARTED = RunStarted(agent="ada", model="scripted/test", root=RunId("0" * 32), input="hello")


def answered(trip: int, *parts: Part, stop: StopReason = "end", rejected: Rejected | None = None) -> list[JournalEvent]:
    usage = Usage(input_tokens=10, output_tokens=1)
    return [
        TripStarted(trip=trip),
        ModelAnswered(trip=trip, parts=parts, stop_reason=stop, usage=usage, rejected=rejected),
    ]


def returned(trip: int, index: int, *, is_error: bool = False, silent: bool = False) -> list[JournalEvent]:
    name = f"t{index}"
    return [
        ToolCalled(trip=trip, index=index, call_id=name, name=name, silent=silent),
        ToolReturned(trip=trip, index=index, call_id=name, name=name, content=f"r{index}", is_error=is_error),
    ]


def uses(*indexes: int) -> tuple[Part, ...]:
    return (Text(text="let me see"), *(ToolUse(id=f"t{n}", name=f"t{n}", arguments={}) for n in indexes))


def decide(events: list[JournalEvent], limits: Limits | None = None) -> Step:
    return next_step(fold_all([STARTED, *events]), limits or Limits())


def test_a_run_begins_by_asking() -> None:
    """W2"""
    assert decide([]) == Ask(0, 1)


def test_an_unanswered_trip_is_asked_again_as_a_further_attempt() -> None:
    assert decide([TripStarted(trip=0)]) == Ask(0, 2)
    assert decide([TripStarted(trip=0), TripStarted(trip=0, attempt=2)]) == Ask(0, 3)


def test_an_answer_without_tool_calls_finishes() -> None:
    """W4"""
    assert decide(answered(0, Text(text="hi"))) == Finish("hi", "answered")


def test_tool_calls_are_carried_out_and_only_those_that_have_not_returned() -> None:
    """W2"""
    asked = answered(0, *uses(0, 1), stop="tool_use")
    first = decide(asked)
    assert isinstance(first, UseTools)
    assert [call.index for call in first.calls] == [0, 1]
    then = decide([*asked, *returned(0, 1)])
    assert isinstance(then, UseTools)
    assert [call.index for call in then.calls] == [0]
    assert decide([*asked, *returned(0, 1), *returned(0, 0)]) == Ask(1, 1)


@pytest.mark.parametrize("stop", ["length", "refusal"])
def test_the_tool_calls_of_a_cut_or_refused_answer_are_never_carried_out(stop: StopReason) -> None:
    """W4"""
    events = answered(0, *uses(0), stop=stop)
    step = decide(events)
    assert isinstance(step, Finish)
    assert (step.text, step.reason) == ("let me see", stop)
    assert "t0" in (step.warning or "")
    messages = fold_all([STARTED, *events]).messages
    assert [part.type for message in messages for part in message.parts] == ["text"]


def test_an_answer_that_ended_for_an_unknown_reason_is_taken_with_a_warning() -> None:
    """W4: such as a provider's own tools that it paused; nobody else can say whether more was to come"""
    step = decide(answered(0, Text(text="One moment."), stop="other"))
    assert isinstance(step, Finish)
    assert (step.text, step.reason) == ("One moment.", "answered")
    assert "may not be whole" in (step.warning or "")
    assert decide(answered(0, Text(text="It is gone."))) == Finish("It is gone.", "answered")


def test_a_trip_of_silent_calls_only_finishes_with_the_prose_beside_them() -> None:
    """W5"""
    events = [*answered(0, *uses(0), stop="tool_use"), *returned(0, 0, silent=True)]
    assert decide(events) == Finish("let me see", "silent")


def test_a_silent_call_that_failed_or_stands_beside_another_keeps_the_run_going() -> None:
    """W5"""
    failed = [*answered(0, *uses(0), stop="tool_use"), *returned(0, 0, silent=True, is_error=True)]
    assert decide(failed) == Ask(1, 1)
    mixed = [*answered(0, *uses(0, 1), stop="tool_use"), *returned(0, 0, silent=True), *returned(0, 1)]
    assert decide(mixed) == Ask(1, 1)


def test_at_the_limit_of_trips_the_latest_text_is_returned_with_a_warning_or_the_run_fails() -> None:
    """W3, W6"""
    events = [*answered(0, *uses(0), stop="tool_use"), *returned(0, 0)]
    step = decide(events, Limits(trips=1))
    assert step == Finish("let me see", "limit", warning="the limit of 1 trips was reached")
    assert decide(events, Limits(trips=1, on_limit="raise")) == Stop("LimitReached", "the limit of 1 trips was reached")
    assert Limits().trips == 10


def test_the_limit_does_not_matter_to_a_run_that_is_done() -> None:
    """W6"""
    assert decide(answered(0, Text(text="hi")), Limits(trips=1, on_limit="raise")) == Finish("hi", "answered")


@pytest.mark.parametrize("limits", [Limits(tokens=11), Limits(tool_calls=1)])
def test_tokens_and_tool_calls_are_limited_over_all_trips(limits: Limits) -> None:
    events = [*answered(0, *uses(0), stop="tool_use"), *returned(0, 0)]
    assert isinstance(decide(events, limits), Finish)
    assert decide(events, Limits(tokens=12, tool_calls=2)) == Ask(1, 1)


def test_a_stop_condition_holds_after_the_tools_ran() -> None:
    """G12"""
    asked = [STARTED, *answered(0, *uses(0), stop="tool_use")]
    assert isinstance(next_step(fold_all(asked), Limits(), stop=True), UseTools)
    after = fold_all([*asked, *returned(0, 0)])
    assert next_step(after, Limits(), stop=True) == Finish("let me see", "stop_condition")


def test_an_unusable_answer_is_asked_for_again_until_the_reasks_are_used_up() -> None:
    rejected = Rejected(reason="an echo")
    events: list[JournalEvent] = []
    for trip in range(2):
        events += answered(trip, Text(text="hello"), rejected=rejected)
        assert decide(events, Limits(reasks=2)) == Ask(trip + 1, 1)
    events += answered(2, Text(text="hello"), rejected=rejected)
    assert decide(events, Limits(reasks=2)) == Stop("UnusableAnswer", "no usable answer after 3 trips: an echo")


def test_a_fallback_stands_in_for_an_answer_that_never_came() -> None:
    rejected = Rejected(reason="an echo", fallback="I have nothing to say.")
    events = answered(0, Text(text="hello"), rejected=rejected)
    step = decide(events, Limits(reasks=0))
    assert step == Finish("I have nothing to say.", "fallback", warning="no usable answer: an echo")
    state = fold_all([STARTED, *events, RunFinished(text="I have nothing to say.", reason="fallback")])
    assert [message.text for message in replayable(state)] == ["I have nothing to say."]


def test_feedback_shows_the_model_its_answer_and_what_was_wrong() -> None:
    rejected = Rejected(reason="too long", feedback="Shorter, please.")
    state = fold_all([STARTED, *answered(0, Text(text="a long story"), rejected=rejected)])
    assert [(message.role, message.text) for message in state.messages] == [
        ("assistant", "a long story"),
        ("user", "Shorter, please."),
    ]


def test_results_stand_in_the_order_of_the_calls_whatever_order_they_came_in() -> None:
    events = [*answered(0, *uses(0, 1), stop="tool_use"), *returned(0, 1), *returned(0, 0)]
    state = fold_all([STARTED, *events])
    assert [getattr(part, "content", None) for part in state.messages[-1].parts] == ["r0", "r1"]


def test_a_cancelled_trip_leaves_no_tool_call_unanswered_in_the_history() -> None:
    events = [*answered(0, *uses(0, 1), stop="tool_use"), *returned(0, 1), RunCancelled()]
    results = replayable(fold_all([STARTED, *events]))[-1].parts
    assert [getattr(part, "content", None) for part in results] == ["not carried out: the run ended first", "r1"]


@pytest.mark.parametrize(
    "events",
    [
        [TripStarted(trip=0)],
        [STARTED, STARTED],
        [STARTED, TripStarted(trip=1)],
        [STARTED, ModelAnswered(trip=0, parts=(), stop_reason="end")],
        [STARTED, *answered(0, Text(text="hi")), *answered(0, Text(text="hi"))],
        [STARTED, *answered(0, *uses(0), stop="tool_use"), TripStarted(trip=1)],
        [STARTED, *answered(0, *uses(0), stop="tool_use"), *returned(0, 1)],
        [STARTED, *answered(0, *uses(0), stop="tool_use"), *returned(0, 0), *returned(0, 0)],
        [STARTED, RunCancelled(), TripStarted(trip=0)],
        [STARTED, RunFinished(text=""), RunCancelled()],
    ],
)
def test_a_damaged_journal_is_reported_rather_than_guessed_around(events: list[JournalEvent]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        fold_all(events)


def test_a_run_that_has_ended_has_no_next_step() -> None:
    for state in (RunState(), fold(fold_all([STARTED]), RunCancelled())):
        with pytest.raises(ValueError, match="under way"):
            next_step(state, Limits())
