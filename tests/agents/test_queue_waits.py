"""Queued runs that need answers: parked, answered elsewhere, and gone on with by a worker (G58)."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentResult,
    AlreadyResumed,
    Answer,
    AnyRunEvent,
    Approve,
    Deny,
    Limits,
    Place,
    QueuedRun,
    Request,
    RunUpdate,
    ToolUse,
    answer,
    cancel_run,
    pending,
    queued,
    resume,
    tool,
    work,
)
from convive.agents.models._messages import ToolResult
from convive.agents.queues._queue import wake_worker
from convive.agents.runs._events import RunSuspended
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, Job, RunContext, memory_bus, open_bus

pytestmark = pytest.mark.anyio

CALLED: list[str] = []


async def note(result: AgentResult) -> None:
    """A callback that a worker finds by its name."""
    CALLED.append(f"{result.status} {result.text}".strip())


class Clerk:
    """An agent that asks for so many approvals, one after the other."""

    def __init__(self, approvals: int = 1) -> None:
        self.paid: list[int] = []

        @tool(needs_approval=True)
        async def pay(amount: int) -> str:
            """Pay."""
            self.paid.append(amount)
            return f"paid {amount}"

        def reply(request: Request) -> Answer | str:
            heard = [part.content for each in request.messages for part in each.parts if isinstance(part, ToolResult)]
            if len(heard) == approvals:
                return ", ".join(heard)
            use = ToolUse(id=str(len(heard)), name="pay", arguments={"amount": len(heard) + 1})
            return Answer(parts=(use,), stop_reason="tool_use")

        self.agent = Agent("clerk", model=ScriptedModel(reply), tools=[pay], limits=Limits(trips=100))


@asynccontextmanager
async def worker(bus: Bus, *agents: Agent, queue: str) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: work(bus, {agent.name: agent for agent in agents}, queue=queue, lease_s=1.0))
        yield
        tasks.cancel_scope.cancel()


async def follow(run: QueuedRun, seen: list[RunUpdate]) -> None:
    with anyio.fail_after(20):
        async with run.events() as events:
            seen.extend([event async for event in events])


def outcomes(seen: list[RunUpdate]) -> list[str]:
    return [event.name for event in seen if event.name != "chunk"]


async def paused(run: QueuedRun) -> AgentResult:
    with anyio.fail_after(20):
        result = await run.result()
    assert result.status == "suspended"
    return result


async def settled(bus: Bus, name: str, run: QueuedRun) -> None:
    """Wait until the order of a run is gone."""
    jobs = await bus.work_queue(name)
    with anyio.fail_after(20):
        while await jobs.waiting(run.run_id) is not None:  # noqa: ASYNC110 - what the worker does sets no event
            await anyio.sleep(0.01)


async def test_a_paused_run_is_answered_elsewhere_and_a_worker_goes_on_with_it(
    bus: Bus, name: str, nats_url: str
) -> None:
    """G58, G40: each outcome comes once to a follower, and the callback of the order is called"""
    CALLED.clear()
    clerk, seen = Clerk(), list[RunUpdate]()
    run = await queued("clerk", "go", queue=name, on_success=note).send(bus)
    async with anyio.create_task_group() as tasks, worker(bus, clerk.agent, queue=name):
        tasks.start_soon(follow, run, seen)
        (waiting,) = (await paused(run)).interrupts
        # Somebody who has no agents, over another connection where there is one.
        elsewhere = open_bus(nats_url) if bus.where != "memory" else None
        async with elsewhere or memory_bus() as there:
            bus_there = there if elsewhere else bus
            assert run.run_id in [each.run_id for each in await pending(bus_there)]
            assert await answer(bus_there, run.run_id, {waiting.id: Approve()}) == "worker"
            with pytest.raises(AlreadyResumed):
                await answer(bus_there, run.run_id, {waiting.id: Approve()})
        await settled(bus, name, run)
    result = await run.result()
    late: list[RunUpdate] = []
    await follow(run, late)
    assert outcomes(seen) == outcomes(late) == ["paused", "done"]
    assert (result.text, clerk.paid, CALLED) == ("paid 1", [1], ["completed paid 1"])


async def test_an_answer_that_comes_before_the_job_is_parked_is_not_lost(bus: Bus, name: str) -> None:
    """G58: whoever answers as soon as the journal says `suspended` may be quicker than the worker"""
    clerk, by = Clerk(approvals=5), list[str]()

    async def at_once(event: AnyRunEvent) -> None:
        assert isinstance(event, RunSuspended)
        by.append(await answer(bus, event.run_id, {each.id: Approve() for each in event.result.interrupts}))

    run, seen = await queued("clerk", "go", queue=name).send(bus), list[RunUpdate]()
    clerk.agent.on("run_suspended", at_once)
    async with worker(bus, clerk.agent, queue=name):
        await follow(run, seen)
    assert outcomes(seen) == ["paused"] * 5 + ["done"]
    assert (clerk.paid, by) == ([1, 2, 3, 4, 5], ["worker"] * 5)


async def test_a_queued_run_that_is_resumed_in_another_process_is_settled_by_a_worker(bus: Bus, name: str) -> None:
    """G40: the order's callback is called, and its job is gone"""
    CALLED.clear()
    clerk, nobody = Clerk(), Clerk()
    run = await queued("clerk", "go", queue=name, on_success=note).send(bus)
    async with worker(bus, clerk.agent, queue=name):
        (waiting,) = (await paused(run)).interrupts
    after = await resume(bus, run.run_id, {waiting.id: Deny("no")}, agent=nobody.agent)
    assert after.status == "completed"
    assert await (await bus.work_queue(name)).waiting(run.run_id) is not None
    async with worker(bus, clerk.agent, queue=name):
        await settled(bus, name, run)
    assert [text.split()[0] for text in CALLED] == ["completed"]
    assert clerk.paid == nobody.paid == []


async def test_a_paused_run_can_be_called_off_and_its_order_is_settled(bus: Bus, name: str) -> None:
    """Conformance test 23: a parked run"""
    CALLED.clear()
    run = await queued("clerk", "go", queue=name, on_failure=note).send(bus)
    seen: list[RunUpdate] = []
    async with worker(bus, Clerk().agent, queue=name):
        await paused(run)
        assert await cancel_run(bus, run.run_id, "enough")
        await follow(run, seen)
        await settled(bus, name, run)
    assert (outcomes(seen), CALLED) == (["paused", "error"], ["cancelled"])


async def test_a_run_that_a_tool_queued_is_answered_by_itself_when_the_run_above_is_over(bus: Bus, name: str) -> None:
    """G31: nobody above waits for it"""
    clerk, children = Clerk(), list[QueuedRun]()

    @tool
    async def order() -> str:
        """Have it done by another worker."""
        children.append(await queued("clerk", "go", queue=name).send())
        return "ordered"

    use = Answer(parts=(ToolUse(id="1", name="order", arguments={}),), stop_reason="tool_use")
    lead = Agent("lead", model=ScriptedModel([use, "done"]), tools=[order])
    async with worker(bus, lead, clerk.agent, queue=name):
        run = await queued("lead", "go", queue=name).send(bus)
        with anyio.fail_after(20):
            assert (await run.result()).status == "completed"
        (waiting,) = (await paused(children[0])).interrupts
        assert await answer(bus, children[0].run_id, {waiting.id: Approve()}) == "worker"
        seen: list[RunUpdate] = []
        await follow(children[0], seen)
    assert (outcomes(seen), clerk.paid) == (["paused", "done"], [1])


async def test_an_answer_that_comes_before_its_job_is_parked_wakes_it_although_the_worker_is_lost_there() -> None:
    """The worker parks it, and never looks whether there was an answer; with answers by code, once in 400 schedules."""
    async with memory_bus() as bus:
        jobs, run = await bus.work_queue("clerks"), RunContext.root()
        await jobs.send(Job(run.run_id, b""))
        lease = await jobs.take()
        space = await bus.conversation("queue-clerks")
        woken: list[bool] = []

        async def wake() -> None:
            woken.append(await wake_worker(bus, Place(space.log, space.subjects.base), run.run_id))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wake)
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()  # it has asked, and found nothing parked
                await lease.park()
            assert (await jobs.take()).job.id == run.run_id
            assert woken == [True]
            assert await wake_worker(bus, Place(space.log, space.subjects.base), RunContext.root().run_id) is False
