"""Queued runs (G53-G58, agents.md rule 13): sent once, carried out by any worker, followed from any process."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentResult,
    BadCallback,
    ModelOverloaded,
    NoBus,
    QueuedAlready,
    Queueing,
    RunUpdate,
    ToolContext,
    find_queued,
    queued,
    queueing_on,
    tool,
    work,
)
from convive.agents._messages import ToolUse
from convive.agents._model import Answer
from convive.agents._queue import place_of
from convive.agents.testing import ScriptedModel
from convive.bus import BadName, Bus, DeadJob, Draft, Job, NotAppended, RunContext, memory_bus, open_bus
from convive.bus.testing import server

pytestmark = pytest.mark.anyio

CALLS: list[AgentResult] = []


async def note(result: AgentResult) -> None:
    """A callback that a worker finds by its name; it fails the first time, when told so."""
    CALLS.append(result)
    if result.text == "fail the callback" and len(CALLS) == 1:
        raise OSError("nobody answers")


@pytest.fixture(params=["memory", "server"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    opened: AbstractAsyncContextManager[Bus] = memory_bus() if request.param == "memory" else open_bus(nats_url)
    async with opened as made:
        yield made


@pytest.fixture
def name() -> str:
    """A queue of the test's own: the server is shared."""
    return f"q-{secrets.token_hex(6)}"


@asynccontextmanager
async def worker(bus: Bus, *agents: Agent, **options: Any) -> AsyncGenerator[Callable[[], None]]:
    """A worker beside the block; gives a function that stops it."""
    async with anyio.create_task_group() as tasks:

        async def working() -> None:
            given: dict[str, Any] = {"retry_s": 0.05, "lease_s": 1.0, **options}
            await work(bus, {agent.name: agent for agent in agents}, **given)

        tasks.start_soon(working)
        yield tasks.cancel_scope.cancel
        tasks.cancel_scope.cancel()


async def updates_of(run: Any, **options: Any) -> list[RunUpdate]:
    with anyio.fail_after(20):
        async with run.events(**options) as events:
            return [event async for event in events]


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - what the worker does sets no event
            await anyio.sleep(0.01)


async def until_dead(bus: Bus, name: str) -> list[DeadJob]:
    jobs = await bus.work_queue(name)
    with anyio.fail_after(20):
        while not (dead := await jobs.dead()):  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.01)
    return dead


def echo(**options: Any) -> Agent:
    return Agent("echo", model=ScriptedModel(lambda request: f"heard: {request.messages[-1].text}"), **options)


async def test_a_run_is_queued_and_its_result_is_that_of_execute(bus: Bus, name: str) -> None:
    """G53: `queued(agent, input).send()`; session and history travel with it."""
    direct = await echo().prompt("hello")
    run = await echo().queue("hello", queue=name, session_id="u42", history=direct.messages).send(bus)
    async with worker(bus, echo(), queue=name):
        with anyio.fail_after(20):
            result = await run.result()
    assert (result.status, result.text, result.run_id) == ("completed", "heard: hello", run.run_id)
    assert result.report.session_id == "u42"
    assert result.messages[:2] == direct.messages
    assert (await (await find_queued(bus, run.run_id, queue=name)).result()).text == result.text


async def test_nobody_said_which_bus(name: str) -> None:
    """G54: without a transport `send` says so, and nothing is sent; `queueing_on` gives one for a block."""
    with pytest.raises(NoBus, match=r"send\(bus\)"):
        await queued("echo", "hello").send()
    async with memory_bus() as bus:
        with queueing_on(bus):
            run = await queued("echo", "hello", queue=name).send()
        with pytest.raises(NoBus):
            await queued("echo", "hello").send()
        assert await (await bus.work_queue(name)).waiting(run.run_id) is not None


async def test_callbacks_are_called_by_the_worker_and_again_when_they_fail(bus: Bus, name: str) -> None:
    """G55: by a name that another process finds; one that raises is an attempt, and the model is not asked again."""
    CALLS.clear()
    model = ScriptedModel(["fail the callback", "fine"])
    reference = f"{__name__}:note"
    async with worker(bus, Agent("echo", model=model), queue=name):
        run = await queued("echo", "hello", queue=name, on_success=note).send(bus)
        other = await queued("echo", "again", queue=name, on_success=reference).send(bus)
        await until(lambda: len(CALLS) == 3)
    assert sorted(result.text for result in CALLS) == ["fail the callback", "fail the callback", "fine"]
    assert {result.run_id for result in CALLS} == {run.run_id, other.run_id}
    assert len(model.requests) == 2


async def test_a_failed_run_is_told_to_its_callback(bus: Bus, name: str) -> None:
    """G55: `on_failure` gets the result of a failed run, and the error of `on_success`."""
    CALLS.clear()
    script: list[Exception | str] = [ValueError("bad"), ModelOverloaded("busy"), "fail the callback"]
    async with worker(bus, Agent("echo", model=ScriptedModel(script)), queue=name):
        for options in ({"on_failure": note}, {"on_failure": note}, {"on_success": f"{__name__}:nobody"}):
            run = queued("echo", "x", queue=name, max_attempts=1, **{"on_failure": f"{__name__}:note", **options})
            await (await run.send(bus)).result()
        await until(lambda: len(CALLS) == 3)
    assert [result.status for result in CALLS] == ["failed", "failed", "completed"]


@pytest.mark.parametrize("callback", [lambda result: None, "module", "module:", ":name", "module:a.b"])  # pyright: ignore
async def test_a_callback_that_no_other_process_finds_is_refused(callback: Any) -> None:
    """G55, conformance test 26: a closure lives in this process only."""
    async with memory_bus() as bus:
        with pytest.raises(BadCallback, match="cannot be found"):
            await queued("echo", "x", on_success=callback).send(bus)


async def test_a_follower_gets_chunks_and_one_outcome_early_or_late(bus: Bus, name: str) -> None:
    """G56, G57: `chunk`s with their places, then `done` once; late followers the same; a prefix before each name."""
    run = await queued("echo", "hello", queue=name).send(bus)
    early: list[RunUpdate] = []

    async def follow() -> None:
        early.extend(await updates_of(run))

    async with worker(bus, echo(), queue=name), anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
    late = await updates_of(run, prefix="agent.")
    assert [event.name for event in early].count("done") == 1
    assert early[-1].name == "done"
    assert early[-1].data["text"] == "heard: hello"
    assert {event.name for event in early[:-1]} == {"chunk"}
    kinds = [str(event.data["type"]) for event in early]
    assert [kind for kind in kinds if kind not in ("delta", "end")] == [
        "run_started",
        "trip_started",
        "model_answered",
        "run_finished",
    ]
    assert [(f"agent.{event.name}", event.seq, event.data) for event in early] == [
        (event.name, event.seq, event.data) for event in late
    ]
    rest = await updates_of(run, after=early[1].seq)
    assert [event.seq for event in rest] == [event.seq for event in early[2:]]


async def test_a_failure_is_one_error_event_also_for_a_late_follower(bus: Bus, name: str) -> None:
    """G56: `error`, with what went wrong."""
    run = await queued("echo", "hello", queue=name, max_attempts=2).send(bus)
    async with worker(bus, Agent("echo", model=ScriptedModel([ModelOverloaded("busy")] * 2)), queue=name):
        result_events = await updates_of(run)
        assert (await run.result()).status == "failed"
    assert [event.name for event in result_events if event.name != "chunk"] == ["error"]
    assert result_events[-1].data["message"] == "busy"
    assert await updates_of(run) == result_events


async def test_a_suspended_run_is_paused_and_goes_on(bus: Bus, name: str) -> None:
    """G58, conformance test 26: `paused` comes once, and the follower stays for what comes after the suspension."""
    run = await queued("echo", "hello", queue=name).send(bus)
    place = await place_of(bus, name)
    subject = place.journal(run.run)
    for body in (b'{"type":"run_started"}', b'{"type":"suspended"}', b'{"type":"resumed"}', b'{"type":"run_finished"}'):
        await place.log.append(Draft(subject, body, run.run.headers()))
    assert [event.name for event in await updates_of(run)] == ["chunk", "paused", "chunk", "done"]


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


async def test_the_same_key_is_one_run_before_while_and_after_it_is_done(bus: Bus, name: str) -> None:
    """Sent again by anybody it is the same run; with another input it is refused."""
    model = ScriptedModel(["once"])
    order = Queueing("echo", "hello", name, key="order-17")
    first = await order.send(bus)
    assert (await order.send(bus)).run_id == first.run_id
    with pytest.raises(QueuedAlready):
        await queued("echo", "other", queue=name, key="order-17").send(bus)
    async with worker(bus, Agent("echo", model=model), queue=name):
        with anyio.fail_after(20):
            assert (await first.result()).text == "once"
        again = await order.send(bus)
        assert (await again.result()).text == "once"
    with pytest.raises(QueuedAlready):
        await queued("echo", "other", queue=name, key="order-17").send(bus)
    assert len(model.requests) == 1


async def test_a_delayed_run_is_not_begun_before_its_time(bus: Bus, name: str) -> None:
    """G53: a delay."""
    began = anyio.current_time()
    async with worker(bus, echo(), queue=name):
        run = await queued("echo", "hello", queue=name, delay_s=0.5).send(bus)
        with anyio.fail_after(20):
            await run.result()
    assert anyio.current_time() - began >= 0.45


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


async def test_what_cannot_be_queued_is_refused_and_nothing_is_sent(bus: Bus, name: str) -> None:
    """Bad input: a queue name that is no slug, an order that is too large, no input, no attempts."""
    with pytest.raises(BadName, match="is not the name of a queue"):
        await queued("echo", "x", queue="Two Words").send(bus)
    run = RunContext.root()
    with pytest.raises(NotAppended, match="bytes"):
        await queued("echo", "x" * 1_100_000, queue=name, run=run).send(bus)
    assert await (await bus.work_queue(name)).waiting(run.run_id) is None
    for order in (queued("echo"), queued("echo", "x", max_attempts=0)):
        with pytest.raises(ValueError, match="a queued run needs"):
            await order.send(bus)
    with pytest.raises(ValueError, match="one run at a time"):
        await work(bus, {}, concurrency=0)


async def test_a_job_that_is_no_order_is_given_up(bus: Bus, name: str) -> None:
    jobs = await bus.work_queue(name, lease_s=1.0)
    await jobs.send(Job("nonsense", b"{}"))
    async with worker(bus, echo(), queue=name):
        dead = await until_dead(bus, name)
    assert "not an order for a run" in dead[0].reason
