"""Following a run from its journal."""

import anyio
import pytest

from convive.agents import (
    Agent,
    Answer,
    Approve,
    Place,
    RunFailed,
    Text,
    ToolContext,
    ToolUse,
    resume,
    run_events,
    tool,
)
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs import _events as shown
from convive.agents.runs._run_events import Followed
from convive.bus import BadRecord, Draft, MemoryLog, RunContext

pytestmark = pytest.mark.anyio

USE = Answer(
    parts=(Text(text="let me look"), ToolUse(id="1", name="look", arguments={"at": "it"})), stop_reason="tool_use"
)


@tool
async def look(context: ToolContext, at: str) -> str:
    await context.update("half-way")
    return f"nothing at {at}"


async def followed(place: Place, run_id: str, *, after: int = 0, tree: bool = False) -> list[Followed]:
    async with run_events(place, run_id, after=after, tree=tree) as events:
        return [each async for each in events]


def names(seen: list[Followed]) -> list[str]:
    kept = [each.event.type for each in seen if each.event.type not in ("text_delta", "tool_updated")]
    return [str(name) for name in kept]


async def test_a_run_is_followed_live_and_replayed_afterwards() -> None:
    """G56, W25, deliverable 9 of the issue"""
    place, run = Place(MemoryLog(), "base"), RunContext.root()
    live: list[Followed] = []

    async def watch() -> None:
        live.extend(await followed(place, run.run_id))

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        model = ScriptedModel([USE, "It is gone."])
        await Agent("ada", model=model, tools=[look]).prompt("x", run=run, place=place)
    assert names(live) == [
        "run_started",
        "trip_started",
        "trip_finished",
        "tool_started",
        "tool_finished",
        "trip_started",
        "trip_finished",
        "run_finished",
    ]
    text = "".join(each.event.text for each in live if isinstance(each.event, shown.TextDelta))
    assert text == "let me lookIt is gone."
    last = live[-1].event
    assert isinstance(last, shown.RunFinished)
    assert (last.result.text, last.result.messages[0].text) == ("It is gone.", "x")
    assert {each.event.run for each in live} == {run}
    assert names(await followed(place, run.run_id)) == names(live)


async def test_a_follower_goes_on_where_it_was() -> None:
    """G56"""
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    await Agent("ada", model=ScriptedModel([USE, "It is gone."]), tools=[look]).prompt("x", run=run, place=place)
    whole = await followed(place, run.run_id)
    for at, each in enumerate(whole[:-1]):
        assert await followed(place, run.run_id, after=each.seq) == whole[at + 1 :]


async def test_a_run_that_waits_is_followed_to_its_end() -> None:
    """G58"""

    @tool(needs_approval=True)
    async def send() -> str:
        return "sent"

    place, run, seen = Place(MemoryLog(), "base", live=False), RunContext.root(), list[Followed]()
    use = Answer(parts=(ToolUse(id="1", name="send", arguments={}),), stop_reason="tool_use")
    ada = Agent("ada", model=ScriptedModel([use, "done"]), tools=[send])

    async def watch() -> None:
        seen.extend(await followed(place, run.run_id))

    result = await ada.prompt("x", run=run, place=place)
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        await resume(place, run.run_id, {result.interrupts[0].id: Approve()}, agent=ada)
    waiting = next(each.event for each in seen if isinstance(each.event, shown.RunSuspended))
    assert waiting.result.interrupts == result.interrupts
    assert names(seen)[3:5] == ["run_suspended", "run_started"]
    assert names(seen)[-1] == "run_finished"


async def test_a_run_is_followed_with_the_runs_below_it() -> None:
    """W30, C21"""
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    leaf = Agent("leaf", model=ScriptedModel(["found"]))
    use = Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")
    chief = Agent("chief", model=ScriptedModel([use, "done"]), tools=[leaf.as_tool("ask", "Ask.")])
    await chief.prompt("x", run=run, place=place)
    seen = await followed(place, run.run_id, tree=True)
    assert names(seen).count("run_finished") == 2
    assert {each.event.root_run_id for each in seen} == {run.run_id}
    assert names(await followed(place, run.run_id)).count("run_finished") == 1


async def test_a_run_that_failed_tells_why() -> None:
    """G56"""
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    with pytest.raises(RunFailed):
        await Agent("ada", model=ScriptedModel([BadModelRequest("too long")])).prompt("x", run=run, place=place)
    last = (await followed(place, run.run_id))[-1].event
    assert isinstance(last, shown.RunFailed)
    assert last.result.error
    assert last.result.error.message == "too long"


async def test_a_damaged_journal_is_reported() -> None:
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    await place.log.append(Draft(place.journal(run), b'{"type":"run_finished","text":""}', run.headers()))
    with pytest.raises(BadRecord, match="does not begin with run_started"):
        await followed(place, run.run_id)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"no json", b'{"type":"delta"}', b'{"type":"delta","trip":"a","text":1}', b'{"type":"update","trip":0}'],
)
@pytest.mark.parametrize("named", [True, False])
async def test_live_text_that_is_none_of_ours_is_passed_over(body: bytes, named: bool) -> None:
    """It is for the eye: a stranger, or a newer version that shows more, does not end what is followed."""
    place, run = Place(MemoryLog(), "base"), RunContext.root()
    await place.log.append(Draft(place.live_text(run), body, run.headers() if named else {}))
    await Agent("ada", model=ScriptedModel(["hi"])).prompt("x", run=run, place=place)
    assert names(await followed(place, run.run_id))[-1] == "run_finished"
