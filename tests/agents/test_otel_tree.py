"""Spans of trees that are out of the ordinary: every span's parent is a span, and no two have one id."""

import random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents import (
    Agent,
    FunctionSeat,
    Plan,
    Trace,
    Turn,
    host_seats,
    read_trace,
    supervise,
)
from convive.agents.journal._journal import JournalEvent, Resumed, Suspended, TripStarted
from convive.agents.otel._otel import SpanMaker, resource
from convive.agents.otel._otel_receiver import decoded_spans
from convive.agents.testing import ScriptedModel
from convive.agents.traces._finished import Finishing, finished
from convive.bus import Chair, Record, RunContext, SeatName, memory_bus
from tests.agents.traces import Writer, answered, began, below, called, ended, folded, returned

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")


def party(chance: random.Random) -> list[Record]:
    """The records of a conversation in which turns come to all sorts of ends. It may go on."""
    writer, root = Writer(), RunContext.root()
    writer.opened(root)
    for turn in range(1, chance.randint(2, 5)):
        run = writer.granted(root, turn)
        if chance.random() < 0.2:  # a seat without a journal
            child = run.child()
            writer.journal(child, began(child), *answered(), ended())
            writer.said(run, turn)
            continue
        children = [below(call, f"part {call}", above=run) for call in (0, 1)]
        calls = chance.sample((0, 1), 2)
        writer.journal(run, began(run), *answered("ask", "ask"), called(0), called(1))
        revoked, said = chance.random() < 0.4, chance.random() < 0.5
        for call in calls:
            child = children[call]
            writer.journal(child, began(child, "helper", f"part {call}"), TripStarted(trip=0))
            writer.journal(child, *[TripStarted(trip=0, attempt=2)] * chance.randint(0, 1), *answered()[1:])
            if chance.random() < 0.8:
                writer.journal(child, ended())
            if revoked and call == calls[0]:
                writer.revoked(root, run, turn)
            if revoked and chance.random() < 0.5:
                break  # killed; otherwise it has not heard of it yet
        else:
            for call in calls:
                for token in ("a", "b")[: chance.randint(0, 2)]:
                    writer.journal(run, Suspended(token=token), Resumed(answers={}))
                writer.journal(run, returned(call, children=[children[call]]))
            if said and not revoked:
                writer.said(run, turn)
            rest: tuple[JournalEvent, ...] = (*answered(trip=1), ended())
            writer.journal(run, *rest[: chance.randint(0, 3)])
        if not revoked and not said:
            writer.said(run, turn)
    if chance.random() < 0.8:
        writer.closed(root)
    return writer.records


def parents(trace: Trace) -> dict[str, str]:
    """The name of each span of a trace, and that of its parent; a parent that is not there fails."""
    maker = SpanMaker(resource())
    encoded = [*(span for node in finished(trace) for span in maker.spans(node)), *maker.missing(trace)]
    spans = list(decoded_spans(maker.request(encoded)))
    known = {span.span_id: span.name for span in spans}
    assert len(known) == len(spans)
    return {span.name: known[span.parent_id] if span.parent_id else "" for span in spans}


@given(st.randoms(use_true_random=False))
def test_what_is_sent_live_is_what_is_sent_afterwards_and_each_once(chance: random.Random) -> None:
    """Whatever was killed, revoked, called off or left waiting; and nothing of what is over is kept."""
    records, maker, finishing = party(chance), SpanMaker(resource()), Finishing()
    live = [span for record in records for node in finishing.apply(record) for span in maker.spans(node)]
    trace = folded(records)
    later = [*(span for node in finished(trace) for span in maker.spans(node)), *maker.missing(trace)]
    assert sorted(live) == sorted(later)
    if trace.is_over:
        parents(trace)
        assert not finishing._trace.runs
        assert not finishing._waiting


async def test_a_run_below_a_turn_without_a_journal_hangs_below_the_span_of_that_turn() -> None:
    helper = Agent("helper", model=ScriptedModel(["Two pounds."], name="scripted/m"))

    async def speak(turn: Turn) -> str:
        return (await helper.prompt("go", run=turn.run.child(), place=turn.place)).text

    async with memory_bus() as bus:
        conversation, run = await bus.conversation("evening"), RunContext.root()
        await conversation.open(run, "why", [Chair(seat=ADA)])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host_seats, conversation, {ADA: FunctionSeat(speak)})
            tasks.start_soon(supervise, conversation, Plan(1, opens=False, toasts=False), run)
        assert parents(await read_trace(bus, "evening")) == {
            "invoke_workflow evening": "",
            "turn 1 ada": "invoke_workflow evening",
            "invoke_agent helper": "turn 1 ada",
            "chat m": "invoke_agent helper",
        }


def test_a_run_that_claims_to_stand_below_itself_is_a_root() -> None:
    root = RunContext.root()
    alone = RunContext(root.run_id, root.run_id, root.run_id)
    writer = Writer()
    writer.journal(alone, began(alone), *answered(), ended(), **{"Cv-Parent": root.run_id})
    assert parents(folded(writer.records)) == {"invoke_agent clerk": "", "chat m": "invoke_agent clerk"}


def test_runs_that_claim_to_stand_below_each_other_are_a_tree() -> None:
    root = RunContext.root()
    one, other = root.child(), root.child()
    one = RunContext(one.run_id, root.run_id, other.run_id)
    other = RunContext(other.run_id, root.run_id, one.run_id)
    writer = Writer()
    writer.journal(one, began(one, "one"), ended())
    writer.journal(other, began(other, "other"), ended())
    assert parents(folded(writer.records)) == {"invoke_agent one": "", "invoke_agent other": "invoke_agent one"}
