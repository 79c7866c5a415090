"""The last record of a run's journal, and what may stand in one at all."""

import pytest

from convive.agents import Agent, Place
from convive.agents._fold import fold_all
from convive.agents._journal import JournalEvent, RunFailed, journal_event_of
from convive.agents._scripted import ScriptedModel
from convive.bus import MemoryLog, RunContext

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
