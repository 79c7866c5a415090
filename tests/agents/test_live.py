"""Text on the bus while it is produced: coalesced, beside the run, and over when the run is."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic_core import from_json

from convive.agents.journal._journal import Place
from convive.agents.journal._live import Live
from convive.agents.models._errors import BadModelRequest, ModelAnswerBroken
from convive.agents.models._messages import Text, ToolUse
from convive.agents.models._model import Answer, Request, TextDelta, ThinkingDelta
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.tools._tools import ToolContext, tool
from convive.bus import BusUnavailable, Draft, MemoryLog, RunContext, run_of

pytestmark = pytest.mark.anyio


def place(log: MemoryLog | None = None) -> Place:
    return Place(log or MemoryLog(), "cv.03.party")


async def bodies(where: Place, run: RunContext) -> list[dict[str, Any]]:
    async with where.log.read(where.live_text(run)) as records:
        return [from_json(record.body) async for record in records]


async def kinds(where: Place) -> list[str]:
    async with where.log.read(">") as records:
        return [from_json(record.body)["type"] async for record in records]


async def test_the_text_is_whole_in_order_and_marked_as_ended_before_it_is_journaled() -> None:
    where, run = place(), RunContext.root()
    text = "One two three. " * 20
    await Agent("ada", model=ScriptedModel([text])).prompt("x", run=run, place=where)
    *deltas, end = await bodies(where, run)
    assert "".join(delta["text"] for delta in deltas) == text
    offset = 0
    for delta in deltas:
        assert (delta["type"], delta["trip"], delta["attempt"], delta["offset"]) == ("delta", 0, 1, offset)
        offset += len(delta["text"])
    assert end == {"type": "end", "trip": 0, "attempt": 1, "length": len(text)}
    assert (await kinds(where))[-3:] == ["end", "model_answered", "run_finished"]


async def test_deltas_are_coalesced_while_the_model_goes_on() -> None:
    where, run = place(), RunContext.root()
    await Agent("ada", model=ScriptedModel(["word " * 500])).prompt("x", run=run, place=where)
    assert len(await bodies(where, run)) <= 5


async def test_the_first_words_are_posted_at_once_and_not_at_the_end() -> None:
    where, run = place(), RunContext.root()
    go_on = anyio.Event()
    words = 0

    async def pause() -> None:
        nonlocal words
        words += 1
        if words == 3:
            await go_on.wait()

    async with anyio.create_task_group() as group, where.log.follow(where.live_text(run)) as tail:

        async def execute() -> None:
            await Agent("ada", model=ScriptedModel(["one two three four"], pause=pause)).prompt(
                "x", run=run, place=where
            )

        group.start_soon(execute)
        record = await tail.next()
        assert record is not None
        assert from_json(record.body)["text"] == "one two"
        assert run_of(record.headers) == run
        go_on.set()


async def test_live_records_expire() -> None:
    drafts: list[Draft] = []

    class Kept(MemoryLog):
        async def post(self, draft: Draft) -> None:
            drafts.append(draft)

    await Agent("ada", model=ScriptedModel(["hi"])).prompt("x", run=RunContext.root(), place=place(Kept()))
    assert drafts
    assert all(draft.ttl_s and draft.guard is None for draft in drafts)


async def test_a_broken_attempt_has_no_end_and_the_next_one_counts_from_zero() -> None:
    where, run = place(), RunContext.root()
    live = Live(where, run, interval_s=0)
    live.begin(0, 1)
    live.text("half an ans")
    with anyio.move_on_after(0.01):
        await live.pump()
    live.begin(0, 2)
    live.text("whole")
    await live.settle()
    assert [(body["type"], body["attempt"], body.get("offset")) for body in await bodies(where, run)] == [
        ("delta", 1, 0),
        ("delta", 2, 0),
        ("end", 2, None),
    ]


async def test_a_run_that_fails_leaves_the_end_to_its_journal() -> None:
    where, run = place(), RunContext.root()
    model = ScriptedModel([ModelAnswerBroken("cut")] * 3)
    await Agent("ada", model=model).execute("x", run=run, place=where)
    assert (await kinds(where))[-1] == "run_failed"
    assert await bodies(where, run) == []


async def test_progress_of_a_tool_is_posted_live_and_never_journaled_nor_shown_to_the_model() -> None:
    """G73"""

    @tool
    async def work(context: ToolContext) -> str:
        await context.update({"done": 0.5})
        return "ready"

    where, run = place(), RunContext.root()
    use = Answer(parts=(Text(text="wait"), ToolUse(id="1", name="work", arguments={})), stop_reason="tool_use")
    model = ScriptedModel([use, "done"])
    await Agent("ada", model=model, tools=[work]).prompt("x", run=run, place=where)
    updates = [body for body in await bodies(where, run) if body["type"] == "update"]
    assert updates == [{"type": "update", "trip": 0, "call": "1", "name": "work", "value": {"done": 0.5}}]
    assert "0.5" not in str(model.requests)


class Deaf(MemoryLog):
    """A log that takes no live text: it is gone, or it hangs."""

    def __init__(self, *, hang: bool) -> None:
        super().__init__()
        self._hang = hang

    async def post(self, draft: Draft) -> None:
        if self._hang:
            await anyio.sleep_forever()
        raise BusUnavailable("gone")


@pytest.mark.parametrize("hang", [False, True])
async def test_a_bus_that_takes_no_live_text_does_not_hold_up_the_run(hang: bool) -> None:
    where = place(Deaf(hang=hang))
    with anyio.fail_after(5):
        result = await Agent("ada", model=ScriptedModel(["hello"])).prompt("x", run=RunContext.root(), place=where)
    assert result.text == "hello"


async def test_after_a_bus_was_too_slow_for_the_end_of_a_text_nothing_more_is_posted() -> None:
    """Or it would come after the record of the answer."""
    go_on = anyio.Event()

    class Slow(MemoryLog):
        async def post(self, draft: Draft) -> None:
            await go_on.wait()
            await super().post(draft)

    where, run = place(Slow()), RunContext.root()
    live = Live(where, run, patience_s=0)
    async with live.pumping():
        live.text("too late")
        await live.settle()
        go_on.set()
        live.text("much too late")
        await anyio.wait_all_tasks_blocked()
    assert await bodies(where, run) == []


class BreaksOff:
    """A model that says something and fails in the same breath."""

    name = "scripted/breaks-off"

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[TextDelta | ThinkingDelta | Answer]]:
        yield self._items()

    async def _items(self) -> AsyncGenerator[TextDelta | ThinkingDelta | Answer]:
        yield TextDelta("half an ans")
        raise BadModelRequest("no")


async def test_nothing_is_posted_while_or_after_the_end_of_a_run_is_recorded() -> None:
    class Unhurried(MemoryLog):
        async def append(self, draft: Draft) -> int:
            await anyio.wait_all_tasks_blocked()
            return await super().append(draft)

    where, run = place(Unhurried()), RunContext.root()
    await Agent("ada", model=BreaksOff()).execute("x", run=run, place=where)
    assert await kinds(where) == ["run_started", "trip_started", "run_failed"]


async def test_a_cancelled_run_posts_nothing_more() -> None:
    where, run = place(), RunContext.root()
    stuck = anyio.Event()

    async def pause() -> None:
        if stuck.is_set():
            await anyio.sleep_forever()
        stuck.set()

    async with anyio.create_task_group() as group:

        async def execute() -> None:
            await Agent("ada", model=ScriptedModel(["one two three"], pause=pause)).prompt("x", run=run, place=where)

        group.start_soon(execute)
        await stuck.wait()
        group.cancel_scope.cancel()
    assert (await kinds(where))[-1] == "run_cancelled"
