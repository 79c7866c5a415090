"""Spans of trees that are out of the ordinary: every span's parent is a span, and no two have one id."""

import anyio
import pytest

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
from convive.agents._finished import finished
from convive.agents._otel import SpanMaker, resource
from convive.agents.testing import ScriptedModel
from convive.bus import Chair, RunContext, SeatName, memory_bus
from tests.agents.traces import Writer, answered, began, ended, folded

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")


def parents(trace: Trace) -> dict[str, str]:
    """The name of each span of a trace, and that of its parent; a parent that is not there fails."""
    maker = SpanMaker(resource())
    spans = [*(span for node in finished(trace) for span in maker.spans(node)), *maker.missing(trace)]
    known = {span.context.span_id: span.name for span in spans if span.context is not None}
    assert len(known) == len(spans)
    return {span.name: known[span.parent.span_id] if span.parent is not None else "" for span in spans}


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
