"""A trace of records that no run of ours would write, or in an order that no single log would have."""

import random
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents import Agent, FunctionSeat, Place, Trace, Turn, read_trace
from convive.agents.journal._journal import ChildRun, ModelAnswered, RunCancelled, TripStarted
from convive.agents.testing import ScriptedModel
from convive.agents.traces._finished import Finishing, finished
from convive.bus import MemoryLog, Record, RunContext, SeatName, memory_bus
from tests.agents.test_trace import held
from tests.agents.traces import Writer, answered, began, below, called, ended, folded, lines, nodes, returned
from tests.proportion import times_as_long

pytestmark = pytest.mark.anyio

ROOT = RunContext.root()


# What stands above


def test_a_run_that_claims_to_stand_below_itself_is_kept_and_marked() -> None:
    """A hostile log: folding, walking and exporting it come to an end."""
    alone = RunContext(ROOT.run_id, ROOT.root_run_id, ROOT.run_id)
    writer = Writer()
    writer.journal(alone, began(alone), **{"Cv-Parent": ROOT.run_id})
    trace = folded(writer.records)
    assert [(node.orphan, node.run.parent_run_id, len(node.damage)) for node in nodes(trace)] == [(True, None, 1)]
    assert trace.roots == nodes(trace)


def test_runs_that_claim_to_stand_below_each_other_are_kept_and_marked() -> None:
    one, other = ROOT.child(), ROOT.child()
    one = RunContext(one.run_id, ROOT.run_id, other.run_id)
    other = RunContext(other.run_id, ROOT.run_id, one.run_id)
    writer = Writer()
    writer.journal(one, began(one, "one"))
    writer.journal(other, began(other, "other"))
    trace = folded(writer.records)
    assert lines(trace) == ["run one running", "  run other running"]
    assert trace.runs[one.run_id].damage
    assert not list(finished(trace))


def test_a_call_that_claims_to_have_made_the_run_above_it_is_not_believed() -> None:
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask"), called(), returned(children=[ROOT]), ended())
    trace = folded(writer.records)
    assert lines(trace) == ["run clerk ok", "  trip answer 1 ok", "  tool ask ok"]


@pytest.mark.parametrize("upwards", [False, True])
def test_a_tree_without_end_is_folded_and_exported(upwards: bool) -> None:
    """Runs that each stand below the one before, whichever is read first."""
    chain = [ROOT]
    for _ in range(2_000):
        chain.append(chain[-1].child())
    writer = Writer()
    for run in reversed(chain) if upwards else chain:
        writer.journal(run, began(run), *answered(), ended())
    trace = folded(writer.records)
    assert len(trace.runs) == 2_001
    assert len([*finished(trace)]) == 2 * 2_001


def test_a_run_that_stands_in_two_places_is_that_of_the_first() -> None:
    here, there = Writer(), Writer("cv.01.elsewhere")
    here.journal(ROOT, began(ROOT), *answered())
    there.journal(ROOT, *[began(ROOT)] * 9, RunCancelled())
    trace = folded([*here.records, *there.records])
    assert lines(trace) == ["run clerk running", "  trip answer 1 ok"]
    assert "elsewhere has records of this run as well" in trace.runs[ROOT.run_id].damage[0]


def test_a_record_counts_for_the_run_of_its_subject_only() -> None:
    """Another run's name in the headers is a lie or a mistake; the run that it names is none the worse for it."""
    mine, other = ROOT.child(), ROOT.child()
    writer = Writer()
    writer.journal(ROOT, began(ROOT, "root"))
    writer.journal(mine, began(mine, "mine"))
    writer.put(f"run.{ROOT.run_id}.{other.run_id}", RunCancelled(), mine)
    writer.put(f"run.{ROOT.run_id}.{mine.run_id}", RunCancelled(), RunContext(mine.run_id, other.run_id))
    trace = folded(writer.records)
    assert lines(trace) == ["run root running", "  run mine running"]
    assert ["record 4: its headers name another run" in why for why in trace.runs[mine.run_id].damage] == [True]


def test_damage_does_not_grow_with_what_is_damaged() -> None:
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *[b"{"] * 1_000)
    assert len(folded(writer.records).runs[ROOT.run_id].damage) == 10


def test_nodes_are_equal_only_to_themselves() -> None:
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered())
    assert folded(writer.records).root != folded(writer.records).root


@pytest.mark.parametrize("base", ["local", "cv.00.shop", "a.b.c.d.e"])
async def test_a_run_at_any_place_has_a_trace(base: str) -> None:
    place = Place(MemoryLog(), base, live=False)
    result = await Agent("clerk", model=ScriptedModel(["Done."])).prompt("go", place=place)
    assert lines(await read_trace(place, result.run_id)) == ["run clerk ok", "  trip answer 1 ok"]


async def test_a_run_below_a_turn_whose_seat_keeps_no_journal_stands_below_that_turn() -> None:
    helper = Agent("helper", model=ScriptedModel(["Two pounds.", "Two pounds."]))

    async def speak(turn: Turn) -> str:
        return (await helper.prompt("?", run=turn.run.child(), place=turn.place)).text

    async with memory_bus() as bus:
        seated = {SeatName("ada"): FunctionSeat(speak), SeatName("bob"): FunctionSeat(speak)}
        await held(bus, "trace-turns", seated)
        trace = await read_trace(bus, "trace-turns")
    assert lines(trace)[1:4] == ["  turn turn 1 ok", "    run helper ok", "      trip answer 1 ok"]
    assert (len(trace.roots), [node.orphan for node in trace.runs.values()]) == (1, [False, False])


# Calls


def test_a_run_stands_below_the_call_that_made_it_also_while_several_go_on() -> None:
    first, second = below(0, "figs", above=ROOT), below(1, "dates", above=ROOT)
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask", "ask"), called(0), called(1))
    writer.journal(second, began(second, "helper", "dates"))
    writer.journal(first, began(first, "helper", "figs"))
    calls = [node for node in nodes(folded(writer.records)) if node.kind == "tool"]
    assert [[below.run_id for below in call.children] for call in calls] == [[first.run_id], [second.run_id]]


def test_a_run_that_was_queued_stands_below_its_call_and_not_below_the_one_that_goes_on() -> None:
    """Its journal stands elsewhere, and no call names it."""
    queued = below(0, "later", above=ROOT)
    writer, other = Writer(), Writer("cv.01.queue-default", 1e9 + 0.5)
    writer.journal(ROOT, began(ROOT), *answered("send", "weigh"), called(0, "send"), returned(0, "send"))
    writer.journal(ROOT, called(1, "weigh"))
    other.journal(queued, began(queued, "helper", "later"))
    expected = [
        "run clerk running",
        "  trip answer 1 ok",
        "  tool send ok",
        "    run helper running",
        "  tool weigh running",
    ]
    assert lines(folded([*writer.records, *other.records])) == expected
    assert lines(folded([*other.records, *writer.records])) == expected


def test_a_run_of_another_writer_stands_below_the_run_until_a_call_names_it() -> None:
    child = ROOT.child()
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask"), called())
    writer.journal(child, began(child, "helper"))
    assert lines(folded(writer.records))[-1] == "  run helper running"
    writer.journal(ROOT, returned(children=[child]))
    assert lines(folded(writer.records))[-1] == "    run helper running"


def conversation() -> list[list[Record]]:
    """The records of a conversation by log: nested runs, parallel calls, a queued run, a run that was broken off."""
    writer, queue = Writer("cv.00.shop"), Writer("cv.01.queue-default", 1e9 + 0.25)
    root = RunContext.root()
    writer.opened(root)
    for turn in (1, 2, 3):
        run = writer.granted(root, turn)
        runs = [below(call, f"part {call}", above=run) for call in (0, 1)]
        later = below(2, "later", above=run)
        writer.journal(run, began(run), *answered("ask", "ask", "send"), called(0), called(1))
        for child in runs:
            writer.journal(child, began(child, "helper", f"part {runs.index(child)}"), *answered(), ended())
        if turn == 2:
            writer.journal(run, returned(1, children=runs[1:]), RunCancelled(reason="late"))
        else:
            writer.journal(run, called(2, "send"), returned(1, children=runs[1:]), returned(0, children=runs[:1]))
            writer.journal(run, returned(2, "send"), *answered(trip=1), ended())
            queue.journal(later, began(later, "later", "later"), *answered(), ended())
        writer.said(run, turn)
    return [writer.records, queue.records]


def mixed(logs: list[list[Record]], chance: random.Random) -> list[Record]:
    """All records; those of one subject in their order, and otherwise in any. Some come twice."""
    by_subject: dict[str, list[Record]] = {}
    for record in (record for log in logs for record in log):
        subject = "floor" if ".floor." in record.subject else record.subject
        by_subject.setdefault(subject, []).append(record)
    rows = [row[::-1] for row in by_subject.values()]
    result: list[Record] = []
    while rows:
        row = chance.choice(rows)
        result.append(row.pop())
        if chance.random() < 0.1:
            result.append(chance.choice(result))
        if not row:
            rows.remove(row)
    return result


@given(st.randoms(use_true_random=False))
def test_the_same_records_are_the_same_tree_whatever_log_is_read_first(chance: random.Random) -> None:
    """Stronger than what is promised: even journals of one log may be read one after another."""
    logs = conversation()
    whole, other = folded([*logs[0], *logs[1]]), folded(mixed(logs, chance))
    assert lines(other) == lines(whole)
    assert (len(other.roots), other.is_over) == (1, whole.is_over)
    ours, theirs = nodes(whole), nodes(other)
    assert {(node.run_id, node.part, node.started_s, node.ended_s, node.seqs) for node in ours} == {
        (node.run_id, node.part, node.started_s, node.ended_s, node.seqs) for node in theirs
    }
    assert [root.total_usage for root in other.roots] == [root.total_usage for root in whole.roots]
    assert [root.total_cost for root in other.roots] == [root.total_cost for root in whole.roots]
    assert not [node for node in theirs if node.orphan or node.damage]


def test_nothing_goes_on_below_what_is_over() -> None:
    """A run that does not know yet that its turn was taken from it."""
    writer, root = Writer(), RunContext.root()
    writer.opened(root)
    run = writer.granted(root, 1)
    writer.journal(run, began(run), *answered("ask"), called())
    writer.said(run, 1)
    writer.journal(run, called(), returned(), TripStarted(trip=1))
    for records in (writer.records, conversation()[0]):
        for length in range(1, len(records) + 1):
            for node in nodes(folded(records[:length])):
                above = node.parent
                assert above is None or node.is_over or not above.is_over
    writer.journal(run, *answered(trip=1)[1:], ended())
    assert {node.status for node in nodes(folded(writer.records)) if node.run_id == run.run_id} == {"ok"}


def test_what_lost_its_place_does_not_keep_a_trace_from_being_over() -> None:
    """Whoever follows would wait for ever for a run that was killed with what was above it."""
    writer, lost = Writer(), RunContext.root(ROOT.run_id).child()
    writer.journal(lost.child(), began(lost.child(), "orphan"))
    assert not folded(writer.records).is_over
    writer.journal(ROOT, began(ROOT), ended())
    trace = folded(writer.records)
    assert (lines(trace), trace.is_over) == (["run clerk ok", "run orphan running"], True)
    writer.opened(RunContext.root())
    assert not folded(writer.records).is_over


# Costs


def test_an_amount_that_only_stands_as_the_whole_cost_counts() -> None:
    writer = Writer()
    answer = ModelAnswered(trip=0, parts=(), stop_reason="end", cost=0.25)
    writer.journal(ROOT, began(ROOT), TripStarted(trip=0), answer)
    cost = folded(writer.records).runs[ROOT.run_id].total_cost
    assert cost is not None
    assert cost.amount == 0.25


def test_a_request_without_an_answer_may_cost_all_the_same() -> None:
    """As for the result of the run: who was asked may have billed it."""
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask"), called(), returned(), TripStarted(trip=1))
    cost = folded(writer.records).runs[ROOT.run_id].total_cost
    assert cost is not None
    assert (cost.known, cost.complete) == (0.5, False)


# Damage


def test_a_hole_in_the_floor_is_shown_at_the_conversation() -> None:
    records = conversation()[0]
    floor = [record for record in records if ".floor." in record.subject]
    trace = folded([record for record in records if record is not floor[2]])
    assert trace.root is not None
    assert trace.root.damage[0] == f"record {floor[3].seq}: link 3 where link 2 was due"
    assert not folded([*records, *records]).roots[0].damage


def test_a_run_that_is_named_and_not_there_is_a_node_with_what_its_caller_knows() -> None:
    child = ROOT.child()
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask"), called(), returned(children=[child]), ended())
    trace = folded(writer.records)
    trace.complete()
    trace.complete()
    assert lines(trace)[-1] == "    run helper ok"
    assert trace.runs[child.run_id].damage == ["its journal is not in the log"]
    writer.journal(child.child(), began(child.child(), "lowest"))
    trace = folded(writer.records)
    trace.complete()
    assert lines(trace)[-2:] == ["    run helper ok", "      run lowest running"]


# For long


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    """The exporter of a worker: runs whose parents are elsewhere, and turns of a conversation without end."""
    finishing = Finishing()
    queue, writer, root = Writer("cv.01.queue-default"), Writer(), RunContext.root()
    for _ in range(50):
        run = RunContext.root().child().child()
        queue.journal(run, began(run), *answered(), ended())
    writer.opened(root)
    for turn in range(1, 50):
        run = writer.granted(root, turn)
        child = run.child()
        writer.journal(child, began(child), *answered(), ended())
        writer.said(run, turn)
    for record in [*queue.records, *writer.records]:
        finishing.apply(record)
    kept = [*vars(finishing._trace).items(), *vars(finishing._trace._tree).items()]
    sizes = {name: len(cast("dict[str, object]", each)) for name, each in kept if isinstance(each, dict)}
    assert sizes.pop("_floors") == 1
    assert sizes.pop("turns") == 49  # known by name, see `test_trace_growth.py`
    assert set(sizes.values()) == {0}, sizes


def test_an_ended_run_does_not_hold_what_it_was_told() -> None:
    writer = Writer()
    writer.journal(ROOT, began(ROOT, input="x" * 100_000), *answered(), ended())
    trace = folded(writer.records)
    assert not trace._states[ROOT.run_id].messages
    assert (trace._states[ROOT.run_id].started or began(ROOT)).input is None


def runs_of(count: int) -> list[Record]:
    writer, root = Writer(), RunContext.root()
    writer.opened(root)
    for turn in range(1, count + 1):
        run = writer.granted(root, turn)
        writer.journal(run, began(run), ended())
        writer.said(run, turn)
    return writer.records


@pytest.mark.parametrize("journals_first", [False, True])
def test_to_follow_a_conversation_takes_time_in_proportion(journals_first: bool) -> None:
    def following(count: int) -> Callable[[], object]:
        records, trace = runs_of(count), Trace()
        if journals_first:
            records.sort(key=lambda record: ".floor." in record.subject)

        def follow() -> None:
            for record in records:
                trace.apply(record)
                assert journals_first or not trace.is_over

        return follow

    assert times_as_long(following, 400, 4_000) < 4


def test_a_child_is_known_by_its_id_only_if_it_is_the_one() -> None:
    child = below(0, "figs", above=ROOT)
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask", "ask"), called(0), called(1))
    writer.journal(child, began(child, "helper", "dates"))
    assert lines(folded(writer.records))[-1] == "  run helper running"


def test_what_a_run_names_at_its_end_is_told_in_any_order() -> None:
    child = ROOT.child()
    told = (ChildRun(run_id=child.run_id, agent="helper", status="cancelled"),)
    writer = Writer()
    writer.journal(ROOT, began(ROOT), *answered("ask"), called(), RunCancelled(children=told))
    writer.journal(child, began(child, "helper"), RunCancelled())
    for records in (writer.records, writer.records[::-1][:2][::-1] + writer.records[:-2]):
        assert lines(folded(records)) == [
            "run clerk cancelled",
            "  trip answer 1 ok",
            "  tool ask interrupted",
            "  run helper cancelled",
        ]
