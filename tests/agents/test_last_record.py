"""The last record of a run's journal, and what may stand in one at all."""

import pytest

from convive.agents import Agent, Place, ToolUse
from convive.agents.journal._folding import fold_all
from convive.agents.journal._interrupts import Interrupt
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    Suspended,
    ToolCalled,
    ToolReturned,
    TripStarted,
    journal_event_of,
)
from convive.agents.models._scripted import ScriptedModel
from convive.bus import MemoryLog, RunContext, RunId

pytestmark = pytest.mark.anyio


async def journal(where: Place, run: RunContext) -> list[JournalEvent]:
    async with where.log.read(where.journal(run)) as records:
        return [journal_event_of(record) async for record in records]


async def test_an_error_with_a_text_that_no_log_takes_is_recorded_all_the_same() -> None:
    """Rule 10 of the design: a run ends, and its journal says so."""

    def instructions(context: object) -> str:
        raise ValueError("x" * 2_000_000)

    where, run = Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()
    ada = Agent("ada", model=ScriptedModel([]), instructions=instructions)
    with pytest.raises(ValueError, match="xxx"):
        await ada.execute("x", place=where, run=run)
    ended = fold_all(await journal(where, run)).ended
    assert isinstance(ended, RunFailed)
    assert (ended.error, len(ended.message)) == ("ValueError", 10_000)


def asked() -> list[JournalEvent]:
    """A run whose model called two tools."""
    calls = tuple(ToolUse(id=f"c{index}", name="pay", arguments={}) for index in range(2))
    return [
        RunStarted(agent="ada", model="scripted/x", root=RunId("r"), input="x"),
        TripStarted(trip=0),
        ModelAnswered(trip=0, parts=calls, stop_reason="tool_use"),
    ]


def waits() -> Suspended:
    interrupt = Interrupt(
        id="i",
        kind="approval",
        run_id=RunId("r"),
        agent="ada",
        tool="pay",
        call_id="c0",
        trip=0,
        index=0,
        arguments={},
        args_hash="",
    )
    return Suspended(interrupts=(interrupt,), token="t")  # noqa: S106 - of nothing


@pytest.mark.parametrize(
    "event",
    [
        TripStarted(trip=1),
        ToolCalled(trip=0, index=0, call_id="c0", name="pay"),
        ToolReturned(trip=0, index=1, call_id="c1", name="pay", content=""),
        waits(),
        RunFinished(text=""),
    ],
)
def test_nothing_but_an_answer_or_an_end_follows_a_suspension(event: JournalEvent) -> None:
    """Rule 8 of the design: where a call was carried out without its approval, the journal is damaged."""
    with pytest.raises(ValueError, match=f"{event.type} follows a suspension that nobody answered"):
        fold_all([*asked(), waits(), event])
    assert fold_all([*asked(), waits(), RunCancelled()]).ended == RunCancelled()


def test_a_call_before_the_first_is_none() -> None:
    """Conformance of the fold: what breaks the order is reported, never guessed around."""
    with pytest.raises(ValueError, match="trip 0 has no tool call -1"):
        fold_all([*asked(), ToolCalled(trip=0, index=-1, call_id="c1", name="pay")])
