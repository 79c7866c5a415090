"""`convive worker`: queued runs in processes of their own, which are killed in the middle of a run (G53, G55, G56)."""

import signal
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from convive.agents import QueuedRun, RunUpdate, find_queued, follow_channel, queued
from convive.bus import Bus, open_bus

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

AGENTS = '''
import os
from contextlib import asynccontextmanager

import anyio

from convive.agents import Agent, Answer, ToolUse
from convive.agents.testing import ScriptedModel


async def knock(what):
    async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
        await stream.send(what.encode())
        await stream.receive()


class Knocking(ScriptedModel):
    @asynccontextmanager
    async def stream(self, request):
        await knock("asked first" if len(request.messages) == 1 else "asked again")
        async with super().stream(request) as items:
            yield items


async def look() -> str:
    """Look."""
    await knock("looked")
    return "seen"


def answer(request):
    if len(request.messages) > 1:
        return "found"
    return Answer(parts=(ToolUse(id="c1", name="look", arguments={}),), stop_reason="tool_use")


async def told(result):
    await knock("told")


support = Agent("support", model=Knocking(answer), tools=[look])
other = Agent("other", model=ScriptedModel(["other"]))
'''
WORK = ("worker", "my_agents")
READY = "Working on the queue"


@pytest.fixture
def desk(person: "Person") -> "Person":
    person.writes("my_agents.py", AGENTS)
    return person


@pytest.fixture
async def bus(desk: "Person") -> AsyncGenerator[Bus]:
    async with open_bus(data=desk.folder / ".convive") as made:
        await made.work_queue(lease_s=1.0)
        yield made


async def send(bus: Bus, **options: Any) -> QueuedRun:
    jobs = await bus.work_queue(lease_s=1.0)
    with anyio.move_on_after(0.3):  # the first to listen decides on the lease: a short one, for these tests
        await jobs.take()
    return await queued("support", "find it", **options).send(bus)


@pytest.mark.parametrize("moment", ["asked first", "looked", "asked again"])
async def test_a_worker_that_is_killed_in_a_run_leaves_it_to_another(
    desk: "Person", door: "Door", bus: Bus, moment: str
) -> None:
    """C26, kill -9 in the middle: the same run goes on; what the journal holds is not asked for or paid for again."""
    run = await send(bus)
    door.shut(moment)
    async with desk.starts(*WORK, env=door.env) as first:
        await door.knocked(moment)
        async with desk.starts(*WORK, "--concurrency", "2", env=door.env) as second:
            await second.err.until(READY)
            await first.kill()
            door.open(moment)
            with anyio.fail_after(30):
                result = await (await find_queued(bus, run.run_id)).result()
                async with run.events() as events:
                    outcomes = [event.name async for event in events if event.name != "chunk"]
    assert (result.text, result.run_id) == ("found", run.run_id)
    assert outcomes == ["done"]
    assert door.knocks == {"asked first": 1, "looked": 1, "asked again": 1, moment: 2}


async def test_a_worker_that_is_killed_when_its_run_is_over_tells_nobody_twice(
    desk: "Person", door: "Door", bus: Bus
) -> None:
    """G56, conformance test 26: the end is journaled and the job is not acknowledged. It is delivered again; followers
    of the run and of its channel hear `done` once, early and late, and only the callback is called again."""
    run = await send(bus, on_success="my_agents:told", channel="user.42")
    door.shut("told")
    heard: dict[str, list[str]] = {"early": [], "late": [], "in the channel": []}

    async def follow(who: str, updates: AsyncIterator[RunUpdate]) -> None:
        async for update in updates:
            heard[who].append(update.name)
            if who != "early" and update.name == "done":
                break

    async def listen() -> None:
        async with follow_channel(bus, "user.42") as updates:
            await follow("early", updates)

    async with anyio.create_task_group() as tasks, desk.starts(*WORK, env=door.env) as first:
        tasks.start_soon(listen)
        await door.knocked("told")
        async with desk.starts(*WORK, env=door.env) as second:
            await second.err.until(READY)
            await first.kill()
            await door.knocked("told", times=2)
            door.open("told")
            jobs = await bus.work_queue()
            with anyio.fail_after(30):
                while await jobs.waiting(run.run_id) is not None:  # noqa: ASYNC110 - another process sets no event
                    await anyio.sleep(0.02)
                async with run.events() as events, follow_channel(bus, "user.42") as updates:
                    await follow("late", events)
                    await follow("in the channel", updates)
        tasks.cancel_scope.cancel()
    assert {who: names.count("done") for who, names in heard.items()} == {"early": 1, "late": 1, "in the channel": 1}
    assert {names[-1] for names in heard.values()} == {"done"}
    assert door.knocks == {"asked first": 1, "looked": 1, "asked again": 1, "told": 2}


async def test_a_worker_that_is_stopped_gives_its_run_back_at_once(desk: "Person", door: "Door", bus: Bus) -> None:
    run = await send(bus)
    door.shut("looked")
    async with desk.starts(*WORK, env=door.env) as first:
        await door.knocked("looked")
        first.send(signal.SIGINT)
        assert (await first.ends()).code == 130
    door.open("looked")
    async with desk.starts("worker", "my_agents:support", env=door.env):
        with anyio.fail_after(30):
            assert (await run.result()).text == "found"
    assert door.knocks == {"asked first": 1, "looked": 2, "asked again": 1}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("worker", "nowhere"), "no module 'nowhere' is here"),
        (("worker", "my_agents:nobody"), "the module my_agents has no 'nobody'"),
        (("worker", "my_agents:knock"), "no agent is there"),
        (("worker", "my_agents:"), "expected a module, or module:attribute"),
        (("worker", "my_agents", "--queue", "Two Words"), "Did you mean 'two-words'?"),
    ],
)
async def test_a_worker_that_cannot_be_says_why(desk: "Person", arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in (await desk.does(*arguments)).complaint
