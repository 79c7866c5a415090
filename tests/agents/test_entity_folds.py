"""States however they are read, many entities at once, and the runs of an entity."""

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from convive.agents import Agent, Request
from convive.agents.entities import (
    Context,
    Entities,
    EntityState,
    Wake,
    follow,
    look,
    runs,
    send,
    signal,
    spawn,
)
from convive.agents.entities._entity_state import apply
from convive.agents.testing import Crashed, ScriptedModel
from convive.bus import memory_bus
from tests.agents.entity_kit import TALLY, Store, Tally, hosting, hosting_until_lost, until

pytestmark = pytest.mark.anyio


def lively() -> Entities:
    """A boss that uses all that there is, and children that end."""
    entities = Entities()

    @entities.define("boss", collections=[TALLY], max_attempts=1)
    async def boss(context: Context, wake: Wake) -> None:
        context.rows(TALLY).put(f"k{wake.number % 7}", Tally(count=wake.number))
        if wake.kind == "created":
            for number in range(3):
                context.spawn(f"child/{number}")
            context.wake_after(0, "soon", id="tick")
            context.wake_after(1000, "never", id="never")
        elif wake.kind == "message" and wake.body == "bad":
            raise RuntimeError("bad")
        elif wake.kind == "message":
            context.send(context.name, "bad")
            context.cancel("never")

    @entities.define("child")
    async def child(context: Context, wake: Wake) -> None:
        context.finish("done")

    return entities


async def test_a_state_is_the_same_however_it_is_read() -> None:
    """At every place: `look(until=)`, the fold of all before it, and `follow(after=)`, also beside what was kept."""
    async with memory_bus() as bus:
        await spawn(bus, "boss/1")
        for number in range(120):
            await send(bus, "boss/1", number)
        async with hosting(bus, lively()):
            await until(bus, "boss/1", lambda state: state.wakes >= 240 and not state.waiting)
            await signal(bus, "boss/1", "pause")
            await signal(bus, "boss/1", "resume")
            await signal(bus, "boss/1", "stop")
            await until(bus, "boss/1", lambda state: state.is_stopped and not state.waiting)
        space = await bus.conversation("boss--1")
        subjects = [f"{space.subjects.base}.stream.{name}" for name in ("mailbox", "entity")]
        async with space.log.read(*subjects) as reading:
            records = [record async for record in reading]
        folded = EntityState(name="boss/1")
        with anyio.fail_after(60):
            for place, record in enumerate(records):
                folded = apply(folded, record)
                if place % 10 and place < len(records) - 20:
                    continue
                assert await look(bus, "boss/1", until=record.seq) == folded
                async with follow(bus, "boss/1", after=record.seq) as states:
                    assert await anext(states) == folded
        assert await look(bus, "boss/1") == folded
        assert (folded.status, folded.damage, len(folded.errors)) == ("stopped", 0, 20)


async def test_many_that_end_at_once_are_not_held_up_by_one_another() -> None:
    """Hosts that deliver the same letters and end the same runs at the same time do not wait for a lease to run out."""
    entities, heard = Entities(), list[int]()

    @entities.define("parent")
    async def parent(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            for number in range(60):
                context.spawn(f"child/{number}")
        heard.append(sum(status == "finished" for status in context.children.values()))
        if wake.kind == "finished" and heard[-1] == 60:
            context.finish()

    @entities.define("child")
    async def child(context: Context, wake: Wake) -> None:
        context.finish()

    store = Store()
    outside = store.process()
    await spawn(outside.bus, "parent/1")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(hosting(store.process().bus, entities, lease_s=60))
        await until(outside.bus, "parent/1", lambda state: state.is_over)
    assert heard == list(range(61))


async def test_the_runs_of_an_entity_tell_what_it_did() -> None:
    async with memory_bus() as bus:
        await spawn(bus, "boss/1")
        await send(bus, "boss/1", "on")
        async with hosting(bus, lively()):
            await until(bus, "boss/1", lambda state: len(state.errors) == 1)
            trace: Any = await runs(bus, "boss/1")
            while not trace.is_over:
                trace = await runs(bus, "boss/1")
    statuses = sorted(node.status for node in trace.runs.values())
    assert set(statuses) == {"ok", "failed"}
    assert statuses.count("failed") == 1
    assert {node.name for node in trace.runs.values()} == {"boss/1"}
    assert not any(node.orphan for node in trace.roots)


async def test_a_handler_asks_what_its_entity_did_and_hears_the_same_in_each_attempt() -> None:
    """Also when its host was killed in between, so that the agent that it asks because of it is not asked again."""
    store, asked, entities = Store(), list[str](), Entities()
    heard: list[tuple[int, list[Any], int]] = []
    process = store.process()

    def say(request: Request) -> str:
        asked.append(request.messages[-1].text)
        return "noted"

    ada = Agent("ada", model=ScriptedModel(say))

    @entities.define("a")
    async def handle(context: Context, wake: Wake) -> None:
        trace = await context.runs()
        did = [(node.name, node.status) for root in trace.roots for node in root.walk() if node.kind == "run"]
        heard.append((wake.attempt, did, len(context.errors)))
        await ada.prompt(f"after {len(did)} runs, {len(context.errors)} failed")
        if wake.body == "bad":
            raise RuntimeError("bad")
        if wake.body == "killed" and len(asked) == 3 and not process.is_dead:
            process.is_dead = True
            raise Crashed("this process has ended")

    outside = store.process().bus
    entities.types["a"].max_attempts = 2
    await spawn(outside, "a/1")
    for body in ("bad", "killed"):
        await send(outside, "a/1", body)
    with anyio.fail_after(20):
        async with hosting_until_lost(process, entities, concurrency=1):
            while not process.is_dead:
                await anyio.lowlevel.checkpoint()
        async with hosting(outside, entities):
            await until(outside, "a/1", lambda state: state.wakes == 3)
    wake, scribe, failed = ("a/1", "ok"), ("ada", "ok"), ("a/1", "failed")
    assert heard == [
        (1, [], 0),
        (1, [wake, scribe], 0),
        (2, [wake, scribe], 0),
        (1, [wake, scribe, failed, scribe], 1),
        (2, [wake, scribe, failed, scribe], 1),
    ]
    assert asked == ["after 0 runs, 0 failed", "after 2 runs, 0 failed", "after 4 runs, 1 failed"]
