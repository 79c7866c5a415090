"""An answer that has arrived is paid for: whatever comes between it and its record, nobody asks for it again."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents import Agent, AskContext, Limits, ModelAnswerBroken, Place, tool
from convive.agents.models._messages import Text
from convive.agents.models._messages_server import Interrupted
from convive.agents.models._model import Answer, Request, TextDelta, ThinkingDelta, Usage
from convive.agents.testing import ScriptedModel
from convive.bus import Draft, MemoryLog, RunContext
from tests.agents.provider import HELLO, LINE, ask, at_the_table
from tests.agents.runs import types, use

pytestmark = pytest.mark.anyio

SAID = Answer(parts=(Text(text="forty-two"),), stop_reason="end", usage=Usage(input_tokens=7, output_tokens=1))


class SlowToLeave:
    """A model that has answered, and whose connection takes for ever to close."""

    name = "acme/slow"

    def __init__(self) -> None:
        self.answered = anyio.Event()

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[TextDelta | ThinkingDelta | Answer]]:
        yield self._items()
        self.answered.set()
        await anyio.sleep_forever()

    async def _items(self) -> AsyncGenerator[TextDelta | ThinkingDelta | Answer]:
        yield SAID


class Hanging(MemoryLog):
    """A log that takes no live text."""

    def __init__(self) -> None:
        super().__init__()
        self.posting = anyio.Event()

    async def post(self, draft: Draft) -> None:
        if b'"end"' in draft.body:
            self.posting.set()
            await anyio.sleep_forever()


async def killed(agent: Agent, place: Place, run: RunContext, when: anyio.Event) -> None:
    """Execute, and cancel the task then; the run is left to be continued."""
    async with anyio.create_task_group() as group:

        async def execute() -> None:
            await agent.execute("x", run=run, place=place, on_cancel="leave")

        group.start_soon(execute)
        with anyio.fail_after(10):
            await when.wait()
        group.cancel_scope.cancel()


async def test_a_task_that_is_cancelled_while_the_models_connection_closes_has_kept_the_answer() -> None:
    model, place, run = SlowToLeave(), Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()
    await killed(Agent("ada", model=model), place, run, model.answered)
    assert await types(place, run.run_id) == ["run_started", "trip_started", "model_answered"]
    again = ScriptedModel([])
    result = await Agent("ada", model=again).execute("x", run=run, place=place)
    assert (result.text, again.requests, result.usage) == ("forty-two", [], SAID.usage)


async def test_so_it_has_while_the_last_live_text_is_posted() -> None:
    log, run = Hanging(), RunContext.root()
    place = Place(log, "cv.00.test")
    await killed(Agent("ada", model=ScriptedModel([SAID])), place, run, log.posting)
    assert await types(place, run.run_id) == ["run_started", "trip_started", "model_answered"]


async def test_an_answer_does_not_wait_for_the_end_of_the_body_that_frees_its_connection() -> None:
    whole = Interrupted(LINE, 99, "hang")  # the body has no end yet, the answer has
    async with at_the_table([whole, "Once more."]) as (model, server):
        async with model.stream(HELLO) as items:
            while not isinstance(await anext(items), Answer):
                pass
            server.release()
            assert [item async for item in items] == []
        await ask(model)
    assert [request.connection for request in server.requests] == [0, 0]


async def test_what_breaks_behind_an_answer_takes_nothing_from_it() -> None:
    class Breaks(SlowToLeave):
        @asynccontextmanager
        async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[TextDelta | ThinkingDelta | Answer]]:
            yield self._items()
            raise ModelAnswerBroken("the connection was reset")

    result = await Agent("ada", model=Breaks()).execute("x")
    assert (result.text, result.report.trips[0].attempt) == ("forty-two", 1)


async def test_an_answer_is_not_taken_for_that_of_the_next_trip() -> None:
    asking, place, run = anyio.Event(), Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()

    async def instructions(context: AskContext) -> str:
        if context.trip:
            asking.set()
            await anyio.sleep_forever()
        return "Be brief."

    @tool
    async def look() -> str:
        return "nothing"

    ada = Agent("ada", model=ScriptedModel([use(("look", {}))]), tools=[look], instructions=instructions)
    await killed(ada, place, run, asking)
    assert (await types(place, run.run_id))[-2:] == ["tool_returned", "trip_started"]


async def test_a_run_that_is_called_off_then_still_counts_what_it_used() -> None:
    model = SlowToLeave()
    async with Agent("ada", model=model).stream("x") as run:
        await model.answered.wait()
        run.cancel("enough")
    result = await run.result()
    assert (result.status, result.text, result.usage) == ("cancelled", "forty-two", SAID.usage)


async def test_a_deadline_that_passes_then_does_not_take_the_answer_back() -> None:
    result = await Agent("ada", model=SlowToLeave(), limits=Limits(seconds=0.1)).execute("x")
    assert (result.status, result.text, result.finish_reason) == ("completed", "forty-two", "answered")


async def test_an_answer_that_cannot_be_judged_does_not_hold_up_a_cancellation() -> None:
    def broken(text: str) -> str:
        raise ValueError("no idea")

    model, place, run = SlowToLeave(), Place(MemoryLog(), "cv.00.test", live=False), RunContext.root()
    await killed(Agent("ada", model=model, refine=broken), place, run, model.answered)
    assert await types(place, run.run_id) == ["run_started", "trip_started"]
