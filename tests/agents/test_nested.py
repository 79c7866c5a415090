"""Agents called inside tools become child runs by themselves."""

from collections.abc import Sequence

import anyio
import pytest

from convive.agents.journal._chain import RunTaken
from convive.agents.journal._journal import Place, RunStarted, journal_event_of
from convive.agents.models._messages import ToolUse
from convive.agents.models._model import Answer, Request
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.runs._frame import current_run
from convive.agents.tools._tools import tool
from convive.bus import Draft, MemoryLog, RunContext

pytestmark = pytest.mark.anyio


def use(name: str, count: int = 1) -> Answer:
    uses = tuple(ToolUse(id=str(place), name=name, arguments={}) for place in range(count))
    return Answer(parts=uses, stop_reason="tool_use")


async def started(place: Place) -> list[RunStarted]:
    async with place.log.read("base.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    return [event for event in events if isinstance(event, RunStarted)]


async def test_an_agent_called_in_a_tool_is_a_child_run_at_the_same_place() -> None:
    """G17, G48"""
    grandchild = Agent("grandchild", model=ScriptedModel(lambda request: "deep"))

    @tool
    async def dig() -> str:
        return (await grandchild.prompt("dig")).text

    child = Agent("child", model=ScriptedModel([use("dig"), "dug"]), tools=[dig])

    @tool
    async def ask() -> str:
        return (await child.prompt("ask")).text

    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    parent = Agent("parent", model=ScriptedModel([use("ask"), "done"]), tools=[ask])
    assert (await parent.prompt("go", run=run, place=place, session_id="u42")).text == "done"
    top, middle, bottom = await started(place)
    assert [event.agent for event in (top, middle, bottom)] == ["parent", "child", "grandchild"]
    assert {event.root for event in (top, middle, bottom)} == {run.run_id}
    assert {event.session_id for event in (top, middle, bottom)} == {"u42"}
    subjects = await place.log.subjects(f"base.run.{run.run_id}.*")
    ids = [subject.rpartition(".")[2] for subject in subjects]
    assert [top.parent, middle.parent, bottom.parent] == [None, ids[0], ids[1]]
    assert current_run() is None


async def test_children_of_parallel_calls_do_not_take_each_other_for_their_parent() -> None:
    both_inside = anyio.Event()
    inside = 0

    def answer(request: Request) -> str:
        return "fine"

    helper = Agent("helper", model=ScriptedModel(answer))

    @tool
    async def ask() -> str:
        nonlocal inside
        inside += 1
        if inside == 2:
            both_inside.set()
        await both_inside.wait()
        first = await helper.prompt("same question")
        second = await helper.prompt("same question")
        return f"{first.run_id} {second.run_id}"

    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    await Agent("parent", model=ScriptedModel([use("ask", 2), "done"]), tools=[ask]).prompt("go", run=run, place=place)
    children = (await started(place))[1:]
    assert {child.parent for child in children} == {run.run_id}
    assert len(await place.log.subjects("base.run.>")) == 5


class Killed(BaseException):
    """The process is gone."""


class Faulty(MemoryLog):
    """A log that dies when it is to store a record of this type for the first time."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind: bytes | None = f'"{kind}"'.encode()

    async def append(self, draft: Draft) -> int:
        if self._kind and self._kind in draft.body:
            self._kind = None
            raise Killed
        return await super().append(draft)


async def test_a_child_that_had_answered_is_not_asked_again_when_its_tool_runs_again() -> None:
    """The tool's result was lost; the child's journal was not."""
    script: Sequence[Answer | str] = [use("ask"), "done"]
    asked: list[str] = []

    def answer(request: Request) -> str:
        asked.append(request.messages[0].text)
        return f"answer to {request.messages[0].text}"

    helper = Agent("helper", model=ScriptedModel(answer))

    @tool
    async def ask() -> str:
        return " ".join([(await helper.prompt(text)).text for text in ("one", "two")])

    place, run = Place(Faulty("tool_returned"), "base", live=False), RunContext.root()
    with pytest.raises(Killed):
        await Agent("parent", model=ScriptedModel(script), tools=[ask]).prompt("go", run=run, place=place)
    assert asked == ["one", "two"]
    model = ScriptedModel(["done"])
    result = await Agent("parent", model=model, tools=[ask]).prompt("go", run=run, place=place)
    assert (result.text, asked) == ("done", ["one", "two"])
    assert "answer to one answer to two" in str(model.requests[0].messages[-1])


@pytest.mark.parametrize("leave", [False, True])
async def test_a_child_is_cancelled_or_left_with_its_parent(leave: bool) -> None:
    reached = anyio.Event()

    async def pause() -> None:
        reached.set()
        await anyio.sleep_forever()

    helper = Agent("helper", model=ScriptedModel(["never"], pause=pause))

    @tool
    async def ask() -> str:
        return (await helper.prompt("question")).text

    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    parent = Agent("parent", model=ScriptedModel([use("ask")]), tools=[ask])
    async with anyio.create_task_group() as group:

        async def execute() -> None:
            await parent.execute("go", run=run, place=place, on_cancel="leave" if leave else "record")

        group.start_soon(execute)
        await reached.wait()
        group.cancel_scope.cancel()
    async with place.log.read("base.run.>") as records:
        types = [journal_event_of(record).type async for record in records]
    assert types.count("run_cancelled") == (0 if leave else 2)


async def test_a_child_that_another_process_executes_stops_this_process_and_not_the_run() -> None:
    place, run, taken = Place(MemoryLog(), "base", live=False), RunContext.root(), RunContext.root()
    helper = Agent("helper", model=ScriptedModel(lambda request: "fine"))
    await helper.prompt("question", run=taken, place=place)

    @tool
    async def ask() -> str:
        return (await helper.prompt("question", run=taken, fresh=True)).text

    with pytest.raises(RunTaken):
        await Agent("parent", model=ScriptedModel([use("ask")]), tools=[ask]).execute("go", run=run, place=place)
    last = await place.log.last(place.journal(run))
    assert last is not None
    assert journal_event_of(last).type == "tool_called"


async def test_a_child_that_fails_is_a_failed_tool_to_its_parent() -> None:
    helper = Agent("helper", model=ScriptedModel([ValueError("a mistake")]))

    @tool
    async def ask() -> str:
        return (await helper.prompt("question")).text

    model = ScriptedModel([use("ask"), "sorry"])
    assert (await Agent("parent", model=model, tools=[ask]).prompt("go")).text == "sorry"
    assert "a mistake" in str(model.requests[1].messages[-1])
