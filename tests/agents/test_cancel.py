"""Calling a run off: at once, after the tools, after the trip."""

import anyio
import pytest

from convive.agents import Agent, Answer, Place, Text, ToolUse, tool
from convive.agents.journal._journal import RunCancelled, journal_event_of
from convive.agents.models._model import Request
from convive.agents.models._scripted import ScriptedModel
from convive.agents.tools._stopping import CancelMode
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def use(*names: str) -> Answer:
    return Answer(parts=tuple(ToolUse(id=name, name=name, arguments={}) for name in names), stop_reason="tool_use")


@pytest.mark.parametrize(
    ("mode", "done"),
    [("now", ["asked 1"]), ("after_tools", ["asked 1", "work"]), ("after_trip", ["asked 1", "work"])],
)
async def test_a_run_that_is_called_off_while_its_tools_run(mode: CancelMode, done: list[str]) -> None:
    """W32, W33, C23"""
    reached, go_on, seen = anyio.Event(), anyio.Event(), list[str]()

    @tool
    async def work() -> None:
        reached.set()
        await go_on.wait()
        seen.append("work")

    def answer(request: Request) -> Answer:
        seen.append(f"asked {len(model.requests)}")
        return use("work")

    model = ScriptedModel(answer)
    async with Agent("ada", model=model, tools=[work]).stream("x") as run:
        await reached.wait()
        run.cancel("too slow", mode=mode)
        go_on.set()
    result = await run.result()
    assert (result.status, result.error and result.error.message) == ("cancelled", "too slow")
    assert seen == done


@pytest.mark.parametrize(("mode", "done"), [("now", 0), ("after_tools", 0), ("after_trip", 1)])
async def test_a_run_that_is_called_off_while_the_model_answers(mode: CancelMode, done: int) -> None:
    """W33, C23"""
    reached, go_on, worked = anyio.Event(), anyio.Event(), list[str]()

    async def pause() -> None:
        reached.set()
        await go_on.wait()

    @tool
    async def work() -> None:
        worked.append("work")

    spoken = Answer(parts=(Text(text="let me work"), *use("work").parts), stop_reason="tool_use")
    ada = Agent("ada", model=ScriptedModel([spoken], pause=pause), tools=[work])
    async with ada.stream("x") as run:
        await reached.wait()
        run.cancel("too slow", mode=mode)
        go_on.set()
    assert (await run.result()).status == "cancelled"
    assert len(worked) == done


async def test_a_final_answer_that_comes_all_the_same_counts() -> None:
    """W33"""
    reached, go_on = anyio.Event(), anyio.Event()

    async def pause() -> None:
        reached.set()
        await go_on.wait()

    async with Agent("ada", model=ScriptedModel(["the end"], pause=pause)).stream("x") as run:
        await reached.wait()
        run.cancel("too slow", mode="after_trip")
        go_on.set()
    assert ((await run.result()).status, (await run.result()).text) == ("completed", "the end")


async def test_the_runs_below_are_called_off_for_the_same_reason() -> None:
    """W32, rule 11 of the design"""
    reached, place = anyio.Event(), Place(MemoryLog(), "base", live=False)

    async def pause() -> None:
        reached.set()
        await anyio.sleep_forever()

    leaf = Agent("leaf", model=ScriptedModel(["never"], pause=pause))
    ask = Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")
    chief = Agent("chief", model=ScriptedModel([ask]), tools=[leaf.as_tool("ask", "Ask.")])
    async with chief.stream("x", place=place) as run:
        await reached.wait()
        run.cancel("too slow")
    async with place.log.read("base.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    assert [event.reason for event in events if isinstance(event, RunCancelled)] == ["too slow", "too slow"]
