"""Traces that go on for long: what folding takes grows as the records do, and what is kept does not."""

from collections.abc import Callable
from typing import cast

import pytest

from convive.agents import Node
from convive.agents.otel._otel import SpanMaker, resource
from convive.agents.otel._otel_content import content_of
from convive.agents.traces._finished import MOST_RUNS, MOST_TURNS, Finishing, finished
from convive.bus import Record, RunContext
from tests.agents.traces import Writer, answered, began, below, called, ended, folded, returned
from tests.proportion import times_as_long


def _calls(count: int) -> list[Record]:
    """A run that calls so many agents, one after the other."""
    writer, root = Writer(), RunContext.root()
    writer.journal(root, began(root), *answered(*["ask"] * count))
    for call in range(count):
        child = below(call, "go", above=root)
        writer.journal(root, called(call))
        writer.journal(child, began(child, "helper", "go"), ended())
        writer.journal(root, returned(call, children=[child]))
    return writer.records


def _foreign(count: int) -> list[Record]:
    """The same, of a writer whose ids do not say which call made a run."""
    writer, root = Writer(), RunContext.root()
    writer.journal(root, began(root), *answered(*["ask"] * count))
    for call in range(count):
        child = root.child()
        writer.journal(root, called(call))
        writer.journal(child, began(child, "helper", "go"), ended())
        writer.journal(root, returned(call))
    return writer.records


@pytest.mark.parametrize("records_of", [_calls, _foreign])
def test_to_fold_a_run_of_many_calls_takes_time_in_proportion(records_of: object) -> None:
    def folding(count: int) -> Callable[[], object]:
        records = (_calls if records_of is _calls else _foreign)(count)
        return lambda: folded(records)

    assert times_as_long(folding, 100, 800) < 4


def _kept(finishing: Finishing) -> dict[str, int]:
    kept = [*vars(finishing).items(), *vars(finishing._trace).items(), *vars(finishing._trace._tree).items()]
    return {name: len(cast("dict[str, object]", each)) for name, each in kept if isinstance(each, dict)}


def test_a_run_that_is_named_and_kept_elsewhere_holds_nothing_of_what_is_over() -> None:
    """The journal of what a tool called may stand in another log, which the exporter does not read."""
    finishing, writer, root = Finishing(), Writer(), RunContext.root()
    writer.opened(root)
    for turn in range(1, 20):
        run = writer.granted(root, turn)
        writer.journal(run, began(run), *answered("ask"), called(), returned(children=[run.child()]), ended())
        writer.said(run, turn)
    for record in writer.records:
        finishing.apply(record)
    kept = _kept(finishing)
    assert kept.pop("turns") == kept.pop("_turns") == 19
    assert set(kept.values()) <= {0, 1}, kept


def test_runs_that_never_end_are_not_kept_for_ever() -> None:
    """Killed, and taken up by nobody: the exporter of a worker would hold each of them. Nothing false is told later."""
    finishing, maker, writer = Finishing(), SpanMaker(resource()), Writer("cv.01.queue-default")
    runs = [RunContext.root() for _ in range(MOST_RUNS + 100)]
    for run in runs:
        writer.journal(run, began(run), *answered())
    for run in (runs[0], runs[-1]):
        writer.journal(run, ended())
    over = [node for record in writer.records for node in finishing.apply(record)]
    assert max(_kept(finishing).values()) <= 2 * MOST_RUNS
    assert len(finishing._trace.runs) < MOST_RUNS
    assert [node.run for node in over if node.kind == "run"] == [runs[-1]]
    assert all(maker.spans(node) for node in over)


def test_what_a_seat_does_when_its_turn_is_over_is_told_of_as_afterwards_and_not_kept() -> None:
    writer, root, maker, finishing = Writer(), RunContext.root(), SpanMaker(resource()), Finishing()
    writer.opened(root)
    for turn in range(1, 5):
        run = writer.granted(root, turn)
        thought = run.child()
        writer.journal(run, began(run), *answered())
        writer.said(run, turn)
        writer.journal(run, ended())
        writer.journal(thought, began(thought, "thought"), *answered(), ended())
    live = [span for record in writer.records for node in finishing.apply(record) for span in maker.spans(node)]
    later = [span for node in finished(folded(writer.records)) for span in maker.spans(node)]
    assert sorted(live) == sorted(later)
    assert len(live) == 4 * 5
    assert not finishing._trace.runs


def test_of_turns_that_are_over_the_last_are_known_by_name() -> None:
    finishing, writer, root = Finishing(), Writer(), RunContext.root()
    writer.opened(root)
    for turn in range(1, MOST_TURNS + 100):
        writer.said(writer.granted(root, turn), turn)
    for record in writer.records:
        finishing.apply(record)
    assert len(finishing._trace.conversations[0].children) == len(finishing._trace._tree.turns) == MOST_TURNS


def test_turns_that_were_broken_off_are_not_kept_for_ever() -> None:
    finishing, writer, root = Finishing(), Writer(), RunContext.root()
    writer.opened(root)
    for turn in range(1, MOST_RUNS + 100):
        run = writer.granted(root, turn)
        writer.journal(run, began(run))
        writer.revoked(root, run, turn)
    writer.closed(root)
    over = [node for record in writer.records for node in finishing.apply(record)]
    assert sum(node.kind == "turn" for node in over) == MOST_RUNS + 99
    assert MOST_RUNS // 2 < sum(node.kind == "run" for node in over) <= MOST_RUNS
    assert not finishing._trace.runs


def test_a_run_that_calls_others_for_ever_is_told_of_with_all_of_them() -> None:
    """They are let go of as they end, and not the run that goes on."""
    finishing, writer, root, count = Finishing(), Writer(), RunContext.root(), MOST_RUNS + 500
    writer.journal(root, began(root))
    for trip in range(count):
        child = root.child()
        writer.journal(root, *answered("ask", trip=trip), called(trip=trip))
        writer.journal(child, began(child, "helper"), ended())
        writer.journal(root, returned(trip=trip, children=[child]))
    writer.journal(root, *answered(trip=count), ended())
    over: list[Node] = []
    most = 0
    for record in writer.records:
        over += finishing.apply(record)
        most = max(most, len(finishing._trace.runs))
    runs = [node for node in over if node.kind == "run"]
    assert len({node.run_id for node in runs}) == len(runs) == count + 1
    assert runs[-1].run == root
    assert most <= MOST_RUNS + 1
    assert all(node.called_by for node in runs[:-1])


def test_the_words_of_a_long_run_take_time_in_proportion() -> None:
    """An answer is told with the results that it was asked with, which are those of the calls right before it."""

    def telling(count: int) -> Callable[[], object]:
        finishing, writer, root = Finishing(keep_events=True), Writer(), RunContext.root()
        writer.journal(root, began(root))
        for trip in range(count):
            writer.journal(root, *answered("ask", trip=trip), called(trip=trip), returned(trip=trip))
        over = [node for record in writer.records for node in finishing.apply(record)]
        trips = [node for node in over if node.kind == "trip"]
        assert all('"tool_call_response"' in content_of(node)["gen_ai.input.messages"] for node in trips[1:])
        return lambda: [content_of(node) for node in trips]

    assert times_as_long(telling, 300, 3_000) < 4
