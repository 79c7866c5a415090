"""Workers of a queue: they share runs, take over those of others, and survive their server."""

import anyio
import pytest

from convive.agents import Agent, ModelOverloaded, RunUpdate, ToolContext, find_queued, queued, tool
from convive.agents.models._messages import ToolUse
from convive.agents.models._model import Answer
from convive.agents.queues._queue import place_of
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, DeadJob, Job, RunContext, open_bus
from convive.bus.testing import server
from tests.agents.queues import echo, updates_of, worker

pytestmark = pytest.mark.anyio


async def until_dead(bus: Bus, name: str) -> list[DeadJob]:
    jobs = await bus.work_queue(name)
    with anyio.fail_after(20):
        while not (dead := await jobs.dead()):  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.01)
    return dead


async def test_an_overloaded_model_is_asked_again_in_the_same_run(bus: Bus, name: str) -> None:
    """The answer of the first trip is not paid for twice, and the tool does not run twice."""
    ran: list[str] = []

    @tool
    def look(what: str) -> str:
        """Look it up."""
        ran.append(what)
        return "seen"

    use = Answer(parts=(ToolUse(id="c1", name="look", arguments={"what": "it"}),), stop_reason="tool_use")
    model = ScriptedModel([use, ModelOverloaded("busy"), ModelOverloaded("busy"), "found"])
    async with worker(bus, Agent("echo", model=model, tools=[look]), queue=name):
        run = await queued("echo", "find it", queue=name).send(bus)
        with anyio.fail_after(20):
            result = await run.result()
    assert (result.text, ran, len(model.requests)) == ("found", ["it"], 4)
    assert len(result.report.trips) == 2


@pytest.mark.parametrize("agent", ["echo", "nobody"])
async def test_attempts_are_bounded_and_the_end_is_recorded(bus: Bus, name: str, agent: str) -> None:
    """An application's error, and an agent that no worker knows: a failed run, and a dead job with the reason."""
    model = ScriptedModel([OSError("no disk")] * 3)
    async with worker(bus, Agent("echo", model=model), queue=name):
        run = await queued(agent, "hello", queue=name, max_attempts=3).send(bus)
        with anyio.fail_after(20):
            result = await run.result()
        dead = await until_dead(bus, name)
    assert result.status == "failed"
    assert result.error is not None
    assert "no disk" in result.error.message or "no agent 'nobody' here" in result.error.message
    assert [one.job.id for one in dead] == [run.run_id]
    assert result.error.message in dead[0].reason
    assert len(model.requests) == (3 if agent == "echo" else 0)


async def test_a_worker_that_is_stopped_leaves_its_run_to_another_without_spending_an_attempt(
    bus: Bus, name: str
) -> None:
    reached, shut = anyio.Event(), anyio.Event()

    @tool
    async def wait(context: ToolContext) -> str:
        """Wait."""
        reached.set()
        await shut.wait()
        return "waited"

    use = Answer(parts=(ToolUse(id="c1", name="wait", arguments={}),), stop_reason="tool_use")
    model = ScriptedModel([use, "done"])
    agent = Agent("echo", model=model, tools=[wait])
    run = await queued("echo", "go", queue=name, max_attempts=1).send(bus)
    async with worker(bus, agent, queue=name) as stop:
        with anyio.fail_after(20):
            await reached.wait()
        stop()
    shut.set()
    async with worker(bus, agent, queue=name):
        with anyio.fail_after(20):
            assert (await run.result()).text == "done"
    assert len(model.requests) == 2


async def test_a_tool_queues_a_child_run_on_the_workers_bus(bus: Bus, name: str) -> None:
    """The whole trace, the queued child included, is below the root; a repeated tool queues the same child."""
    children: list[RunContext] = []

    @tool
    async def order(what: str) -> str:
        """Have it done by another worker."""
        children.append((await queued("echo", what, queue=name).send()).run)
        return "ordered"

    use = Answer(parts=(ToolUse(id="c1", name="order", arguments={"what": "soup"}),), stop_reason="tool_use")
    lead = Agent("lead", model=ScriptedModel([use, "done"]), tools=[order])
    async with worker(bus, lead, echo(), queue=name, concurrency=2):
        run = await queued("lead", "go", queue=name, session_id="u42").send(bus)
        with anyio.fail_after(20):
            await run.result()
            child = await (await find_queued(bus, children[0].run_id, queue=name, root=run.run_id)).result()
    assert children[0].parent_run_id == children[0].root_run_id == run.run_id
    assert (child.text, child.report.session_id) == ("heard: soup", "u42")


async def test_two_workers_share_the_runs(nats_url: str, name: str) -> None:
    busy, both = [0], anyio.Event()

    @tool
    async def meet() -> str:
        """Wait until both workers are at it."""
        busy[0] += 1
        if busy[0] == 2:
            both.set()
        await both.wait()
        return "met"

    use = Answer(parts=(ToolUse(id="c1", name="meet", arguments={}),), stop_reason="tool_use")
    agent = Agent("meet", model=ScriptedModel(lambda r: "done" if len(r.messages) > 1 else use), tools=[meet])
    async with open_bus(nats_url) as one, open_bus(nats_url) as two:
        runs = [await queued("meet", "go", queue=name).send(one) for _ in range(4)]
        async with worker(one, agent, queue=name), worker(two, agent, queue=name):
            with anyio.fail_after(20):
                assert [(await run.result()).text for run in runs] == ["done"] * 4


async def test_a_worker_whose_run_was_taken_over_lets_the_other_go_on(nats_url: str, name: str) -> None:
    """RunTaken: it stops, does not acknowledge, and takes the next job."""
    asked, shut = anyio.Event(), anyio.Event()

    async def pause() -> None:
        asked.set()
        await shut.wait()

    slow = Agent("echo", model=ScriptedModel(["late", "second"], pause=pause))
    async with open_bus(nats_url) as bus:
        run = await queued("echo", "hello", queue=name).send(bus)
        async with worker(bus, slow, queue=name):
            with anyio.fail_after(20):
                await asked.wait()
                place = await place_of(bus, name)
                taken = await echo().execute("hello", run=run.run, place=place)  # as another worker would
                shut.set()
                other = await queued("echo", "x", queue=name).send(bus)
                assert (await other.result()).text == "second"
                assert (await run.result()).text == taken.text == "heard: hello"


async def test_a_server_that_is_killed_in_a_run_comes_back_and_the_run_goes_on() -> None:
    reached, shut = anyio.Event(), anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        reached.set()
        await shut.wait()
        return "waited"

    use = Answer(parts=(ToolUse(id="c1", name="wait", arguments={}),), stop_reason="tool_use")
    model = ScriptedModel(lambda request: "done" if len(request.messages) > 1 else use)
    async with server(fast=False) as own, open_bus(own.url) as bus, open_bus(own.url) as elsewhere:
        run = await queued("echo", "go").send(bus)
        seen: list[RunUpdate] = []
        async with worker(bus, Agent("echo", model=model, tools=[wait])), anyio.create_task_group() as tasks:

            async def follow() -> None:
                seen.extend(await updates_of(await find_queued(elsewhere, run.run_id)))

            tasks.start_soon(follow)
            with anyio.fail_after(20):
                await reached.wait()
            own.kill()
            await own.start()
            shut.set()
            with anyio.fail_after(20):
                assert (await run.result()).text == "done"
    assert [event.name for event in seen if event.name != "chunk"] == ["done"]


async def test_a_job_that_is_no_order_is_given_up(bus: Bus, name: str) -> None:
    jobs = await bus.work_queue(name, lease_s=1.0)
    await jobs.send(Job("nonsense", b"{}"))
    async with worker(bus, echo(), queue=name):
        dead = await until_dead(bus, name)
    assert "not an order for a run" in dead[0].reason
