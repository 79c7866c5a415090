"""What stands below a turn: the run of it, and what its seat did when that was over. What was asked in vain."""

import pytest

from convive.agents.journal._journal import RunStarted, TripStarted
from convive.bus import RunContext
from tests.agents.traces import Writer, answered, began, below, called, ended, folded, lines, returned

THOUGHT = [
    "conversation shop ok",
    "  turn turn 1 ok",
    "    run clerk ok",
    "      trip answer 1 ok",
    "    run thought ok",
    "      trip answer 1 ok",
]


def _with_a_thought() -> Writer:
    """A turn in which a run was asked when that of the turn had said what is said."""
    log, top = Writer(), RunContext.root()
    log.opened(top)
    turn = log.granted(top, 1)
    log.journal(turn, began(turn), *answered(), ended())
    thought = turn.child()
    log.journal(thought, began(thought, "thought"), *answered(), ended())
    log.said(turn, 1)
    log.closed(top)
    return log


def test_a_run_that_began_when_that_of_the_turn_was_over_stands_beside_it() -> None:
    assert lines(folded(_with_a_thought().records)) == THOUGHT


def test_it_stands_there_whichever_records_are_read_first() -> None:
    records = _with_a_thought().records
    floor = [record for record in records if ".floor." in record.subject]
    journals = [record for record in records if record not in floor]
    assert lines(folded([*journals, *floor])) == lines(folded([*floor, *journals])) == THOUGHT


def test_it_stands_there_while_it_goes_on() -> None:
    records = _with_a_thought().records
    begun = next(at for at, record in enumerate(records) if b'"thought"' in record.body) + 1
    trace = folded(records[:begun])
    assert lines(trace)[1:] == ["  turn turn 1 running", *THOUGHT[2:4], "    run thought running"]
    assert (turn := trace.roots[0].children[0]).parent is trace.roots[0]
    assert [run.parent for run in turn.children] == [turn, turn]


def test_nothing_goes_on_below_what_was_broken_off_whichever_journal_is_read_first() -> None:
    log, top = Writer(), RunContext.root()
    log.opened(top)
    turn = log.granted(top, 1)
    asked = below(0, "go", above=turn)
    lowest = below(0, "dig", above=asked)
    log.journal(turn, began(turn), *answered("ask"), called())
    log.journal(asked, began(asked, "helper", "go"), *answered("look"), called(0, "look"))
    log.journal(lowest, began(lowest, "digger", "dig"), *answered("look"), called(0, "look"))
    log.revoked(top, turn, 1)
    floor = [record for record in log.records if ".floor." in record.subject]
    journals = [[one for one in log.records if one.subject.endswith(run.run_id)] for run in (lowest, turn, asked)]
    mixed = folded([*floor, *(record for journal in journals for record in journal)])
    assert lines(mixed) == lines(folded(log.records))
    assert [node.status for node in mixed.roots[0].children[0].walk() if not node.is_over] == []


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_began_before_stands_below_the_run_or_its_call(named: bool) -> None:
    log, top = Writer(), RunContext.root()
    log.opened(top)
    turn = log.granted(top, 1)
    child = turn.child()
    log.journal(turn, began(turn), *answered("ask"), called())
    log.journal(child, began(child, "helper"), *answered(), ended())
    log.journal(turn, returned(children=[child] if named else []), *answered(trip=1), ended())
    log.said(turn, 1)
    run = folded(log.records).roots[0].children[0].children[0]
    above = folded(log.records).runs[child.run_id].parent
    assert above is not None
    assert (above.kind, above.run_id) == ("tool" if named else "run", run.run_id)


def test_a_run_below_one_that_is_no_turn_stays_below_it() -> None:
    log, top = Writer(), RunContext.root()
    after = top.child()
    log.journal(top, began(top), *answered(), ended())
    log.journal(after, began(after, "later"), ended())
    assert lines(folded(log.records)) == ["run clerk ok", "  trip answer 1 ok", "  run later ok"]


@pytest.mark.parametrize(("model", "free"), [("local/smollm2-135m", True), ("scripted/party", True), ("acme/x", False)])
def test_a_request_that_was_not_answered_costs_nothing_where_nobody_sends_a_bill(model: str, free: bool) -> None:
    log, run = Writer(), RunContext.root()
    log.journal(run, RunStarted(agent="clerk", model=model, root=run.run_id), TripStarted(trip=0))
    cost = folded(log.records).runs[run.run_id].total_cost
    assert cost is not None
    assert (cost.known, cost.complete) == (0.0, free)
