"""A whole journal, folded record by record without a copy of what is settled."""

from collections.abc import Iterator

import pytest

from convive.agents.journal._fold import RunState, fold
from convive.agents.journal._folding import Folding, fold_all
from convive.agents.journal._interrupts import Approve, Interrupt, args_hash
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    Rejected,
    Resumed,
    RunFinished,
    RunStarted,
    Suspended,
    ToolCalled,
    ToolReturned,
    TripStarted,
)
from convive.agents.models._messages import Text, ToolUse
from convive.agents.models._model import Usage
from convive.bus import RunId

RUN = RunId("0" * 32)


def journal(trips: int) -> list[JournalEvent]:
    """A run of many trips: each calls a tool, every third one waits for an approval, every fifth is rejected."""
    events: list[JournalEvent] = [RunStarted(agent="ada", model="m", root=RUN, input="hello")]
    for trip in range(trips):
        events += [TripStarted(trip=trip), *(_rejected(trip) if trip % 5 == 4 else _used(trip))]
    answered = ModelAnswered(trip=trips, parts=(Text(text="done"),), stop_reason="end")
    return [*events, TripStarted(trip=trips), answered, RunFinished(text="done")]


def _rejected(trip: int) -> Iterator[JournalEvent]:
    rejected = Rejected(reason="too long", feedback="Shorter, please.")
    yield ModelAnswered(trip=trip, parts=(Text(text="well"),), stop_reason="end", rejected=rejected)


def _used(trip: int) -> Iterator[JournalEvent]:
    asks = ToolUse(id=f"c{trip}", name="ask", arguments={"n": trip})
    yield ModelAnswered(trip=trip, parts=(asks,), stop_reason="tool_use", usage=Usage(input_tokens=1))
    if trip % 3 == 0:
        wait = Interrupt(
            id=f"{RUN}-{trip}-0-approval",
            kind="approval",
            run_id=RUN,
            agent="ada",
            tool="ask",
            call_id=f"c{trip}",
            trip=trip,
            index=0,
            arguments={"n": trip},
            args_hash=args_hash({"n": trip}),
        )
        yield Suspended(interrupts=(wait,), token=f"t{trip}")
        yield Resumed(answers={wait.id: Approve()})
    yield ToolCalled(trip=trip, index=0, call_id=f"c{trip}", name="ask")
    yield ToolReturned(trip=trip, index=0, call_id=f"c{trip}", name="ask", content="so they say")


def test_it_comes_to_the_same_as_folding_one_record_after_the_other() -> None:
    folding, state = Folding(), RunState()
    for event in journal(30):
        state = fold(state, event)
        folding.take(event)
        assert folding.state == state
    assert fold_all(journal(30)) == state


def test_what_is_settled_is_not_copied_again_by_each_record() -> None:
    folding, kept = Folding(), 0
    for event in journal(200):
        now = folding.take(event)
        kept = max(kept, len(now.trips) + len(now.messages) + len(now.resolutions) + len(now.used_tokens))
    assert len(folding.state.trips) == 201
    assert kept <= 4


def test_a_state_that_was_given_out_stays_as_it_was() -> None:
    events = journal(12)
    folding = Folding()
    for event in events[:20]:
        folding.take(event)
    early = folding.state
    for event in events[20:]:
        folding.take(event)
    assert early == fold_all(events[:20]) != folding.state


def test_an_event_that_cannot_follow_changes_nothing() -> None:
    folding = Folding()
    for event in journal(3)[:-1]:
        folding.take(event)
    before = folding.state
    with pytest.raises(ValueError, match="trip 9 follows 4 trips"):
        folding.take(TripStarted(trip=9))
    assert folding.state == before
