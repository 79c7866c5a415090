"""Runs on the real server: the journal beside the conversation, its guards, and the live text."""

import anyio
import pytest
from pydantic_core import from_json

from convive.agents.journal._chain import RunTaken
from convive.agents.journal._journal import Place, journal_event_of
from convive.agents.models._messages import ToolUse
from convive.agents.models._model import Answer
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.tools._tools import tool
from convive.bus import RunContext, open_bus

pytestmark = pytest.mark.anyio


@tool
async def look() -> str:
    """Look."""
    return "nothing"


USE = Answer(parts=(ToolUse(id="1", name="look", arguments={}),), stop_reason="tool_use")


async def test_a_run_beside_a_conversation_is_journaled_continued_and_not_doubled(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        conversation = await bus.conversation("runs-on-the-server")
        place, run = Place(conversation.log, conversation.subjects.base), RunContext.root()
        stuck = anyio.Event()

        async def pause() -> None:
            stuck.set()
            await anyio.sleep_forever()

        left = ScriptedModel([USE, "never heard"], pause=pause)
        async with anyio.create_task_group() as group:

            async def execute() -> None:
                await Agent("ada", model=left, tools=[look]).execute("go", run=run, place=place, on_cancel="leave")

            group.start_soon(execute)
            await stuck.wait()
            group.cancel_scope.cancel()

        model = ScriptedModel(["the end " * 30])
        ada = Agent("ada", model=model, tools=[look])
        result = await ada.prompt("go", run=run, place=place)
        assert (len(model.requests), len(result.report.trips)) == (1, 2)
        assert place.journal(run) == conversation.subjects.journal(run.root_run_id, run.run_id)
        async with place.log.read(place.journal(run)) as records:
            types = [journal_event_of(record).type async for record in records]
        assert types == [
            "run_started",
            "trip_started",
            "model_answered",
            "tool_called",
            "tool_returned",
            "trip_started",
            "trip_started",
            "model_answered",
            "run_finished",
        ]
        async with place.log.read(place.live_text(run)) as records:
            bodies = [from_json(record.body) async for record in records]
        assert "".join(body.get("text", "") for body in bodies) == result.text
        with pytest.raises(RunTaken):
            await ada.execute("go", run=run, place=place, fresh=True)
        assert (await ada.prompt("go", run=run, place=place)).messages == result.messages
