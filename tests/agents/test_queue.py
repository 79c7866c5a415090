"""Queued runs (G53-G58, agents.md rule 13): sent once, carried out by any worker, followed from any process."""

from collections.abc import Callable
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
    find_queued,
    queued,
    queueing_on,
    work,
)
from convive.agents.queues._queue import place_of
from convive.agents.testing import ScriptedModel
from convive.bus import BadName, Bus, Draft, NotAppended, RunContext, memory_bus
from tests.agents.queues import echo, updates_of, worker

pytestmark = pytest.mark.anyio

CALLS: list[AgentResult] = []


async def note(result: AgentResult) -> None:
    """A callback that a worker finds by its name; it fails the first time, when told so."""
    CALLS.append(result)
    if result.text == "fail the callback" and len(CALLS) == 1:
        raise OSError("nobody answers")


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - what the worker does sets no event
            await anyio.sleep(0.01)


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
    """G55, C26: a closure lives in this process only."""
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
    """G58, C26: `paused` comes once, and the follower stays for what comes after the suspension."""
    run = await queued("echo", "hello", queue=name).send(bus)
    place = await place_of(bus, name)
    subject = place.journal(run.run)
    for body in (b'{"type":"run_started"}', b'{"type":"suspended"}', b'{"type":"resumed"}', b'{"type":"run_finished"}'):
        await place.log.append(Draft(subject, body, run.run.headers()))
    assert [event.name for event in await updates_of(run)] == ["chunk", "paused", "chunk", "done"]


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
