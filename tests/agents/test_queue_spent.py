"""The last attempt at a queued run: however it fails, the worker goes on with others."""

import anyio
import pytest

from convive.agents import Agent, ModelOverloaded, Place, queued
from convive.agents.queues._queue import place_of
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, DeadJob, Draft, RunContext
from tests.agents.queues import echo, worker

pytestmark = pytest.mark.anyio


async def until_dead(bus: Bus, name: str) -> DeadJob:
    jobs = await bus.work_queue(name)
    with anyio.fail_after(20):
        while not (dead := await jobs.dead()):  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.01)
    return dead[0]


async def goes_on(bus: Bus, name: str) -> bool:
    """Whether the worker of a queue still does what it is sent."""
    run = await queued("echo", "still there?", queue=name).send(bus)
    with anyio.fail_after(20):
        return (await run.result()).text == "heard: still there?"


async def with_journal(bus: Bus, name: str, body: bytes) -> tuple[Place, RunContext]:
    """A run that was queued, of an agent that nobody here knows, with this for a journal."""
    run = RunContext.root()
    await queued("nobody", "hello", queue=name, run=run, max_attempts=1).send(bus)
    place = await place_of(bus, name)
    await place.log.append(Draft(place.journal(run), body, run.headers()))
    return place, run


async def test_an_error_with_a_very_long_text_is_recorded_cut_short(bus: Bus, name: str) -> None:
    broken = Agent("broken", model=ScriptedModel([OSError("no disk " * 300_000)]))
    async with worker(bus, broken, echo(), queue=name):
        run = await queued("broken", "hello", queue=name, max_attempts=1).send(bus)
        with anyio.fail_after(20):
            result = await run.result()
        dead = await until_dead(bus, name)
        assert await goes_on(bus, name)
    assert result.error is not None
    assert result.error.message.startswith("no disk")
    assert len(result.error.message) < 20_000
    assert (dead.job.id, dead.reason[:16]) == (run.run_id, "OSError: no disk")


async def test_so_is_that_of_an_answer_that_never_came(bus: Bus, name: str) -> None:
    busy = Agent("busy", model=ScriptedModel([ModelOverloaded("busy " * 300_000)]))
    async with worker(bus, busy, echo(), queue=name):
        run = await queued("busy", "hello", queue=name, max_attempts=1).send(bus)
        with anyio.fail_after(20):
            assert (await run.result()).status == "failed"
        assert await goes_on(bus, name)


async def test_a_journal_that_cannot_be_read_is_given_up_with_its_job(bus: Bus, name: str) -> None:
    _, run = await with_journal(bus, name, b"{}")
    async with worker(bus, echo(), queue=name):
        dead = await until_dead(bus, name)
        assert await goes_on(bus, name)
    assert dead.job.id == run.run_id
    assert "not a journal event of ours" in dead.reason


async def test_a_journal_of_a_newer_version_is_left_to_a_newer_worker(bus: Bus, name: str) -> None:
    place, run = await with_journal(bus, name, b'{"type":"run_forgotten","schema":2}')
    before = await place.log.last(place.journal(run))
    async with worker(bus, echo(), queue=name, concurrency=2):
        assert await goes_on(bus, name)
    assert await place.log.last(place.journal(run)) == before
    jobs = await bus.work_queue(name)
    assert await jobs.waiting(run.run_id) is not None
    assert await jobs.dead() == []
