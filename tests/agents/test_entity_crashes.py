"""A host that ends before or after anything that it writes: what was to happen happens, once."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from convive.agents import Agent, Request
from convive.agents.entities import Collection, Context, Entities, Wake, find, host, look, put, send, spawn
from convive.agents.journal._faults import only_crashed
from convive.agents.testing import Crashed, ScriptedModel
from tests.agents.entity_kit import LEASE_S, TALLY, Held, Process, Store, Tally, hosting, hosting_until_lost, until

pytestmark = pytest.mark.anyio


CHILDREN, MESSAGES = 2, 3


def types(asked: Counter[str]) -> Entities:
    """A boss that spawns counters, sends each some messages, sets a time, and ends when all have come."""
    entities = Entities()

    def say(request: Request) -> str:
        asked[request.messages[-1].text] += 1
        return f"heard {request.messages[-1].text}"

    ada = Agent("ada", model=ScriptedModel(say))

    @entities.define("counter", collections=[TALLY])
    async def counter(context: Context, wake: Wake) -> None:
        tally = context.rows(TALLY)
        if wake.kind == "created":
            tally.insert("all", Tally())
        if wake.kind == "message":
            heard = await ada.prompt(f"{context.name} {wake.body}")
            tally.update("all", count=tally["all"].count + 1)
            tally.insert(heard.text, Tally())
        if tally["all"].count == MESSAGES:
            context.finish(tally["all"].count)

    @entities.define("boss", collections=[TALLY])
    async def boss(context: Context, wake: Wake) -> None:
        ends = context.rows(TALLY)
        if wake.kind == "created":
            for number in range(CHILDREN):
                child = context.spawn(f"counter/{number}")
                for message in range(MESSAGES):
                    context.send(child, message)
            context.wake_after(0.01, "tick")
        else:
            ends.insert(wake.sender or "tick", Tally(count=wake.number))
        if len(ends) == CHILDREN + 1:
            context.finish("done")

    return entities


async def play(store: Store, process: Process, asked: Counter[str]) -> None:
    """A host that may end, and then one that does not, until all is over."""
    try:
        with anyio.move_on_after(3 if process.lives is None else 30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_over, store, tasks.cancel_scope)
                await host(process.bus, types(asked), concurrency=2, lease_s=LEASE_S, retry_s=0.01)
    except BaseException as error:
        if not only_crashed(error):
            raise
    else:
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_over, store, tasks.cancel_scope)
        await host(store.process().bus, types(asked), concurrency=2, lease_s=LEASE_S, retry_s=0.01)


async def until_over(store: Store, scope: anyio.CancelScope) -> None:
    await until(store.process().bus, "boss/1", lambda state: state.is_over)
    scope.cancel()


async def outcome(store: Store) -> dict[str, Any]:
    found = await find(store.process().bus)
    return {
        state.name: (
            state.status,
            state.result,
            sorted(state.rows["tally"]),
            state.wakes,
            state.errors,
            state.damage,
            len(state.waiting),
        )
        for state in found
    }


async def one(lives: int | None, *, before: bool) -> tuple[dict[str, Any], Counter[str], int]:
    store, asked = Store(), Counter[str]()
    await spawn(store.process().bus, "boss/1")
    process = Process(store, lives, before=before)
    await play(store, process, asked)
    answers = 0
    async with store.log.read("cv.*.*.run.*.*") as records:
        async for record in records:
            answers += b'"model_answered"' in record.body
    return await outcome(store), asked, answers


async def test_a_host_may_end_at_anything_that_it_writes() -> None:
    """Before it is stored and after: the rows, letters and ends are those of a party without a crash, no answer that a
    journal holds was asked for again, and at most the question that was under way was asked twice."""
    with anyio.fail_after(120):
        store, asked = Store(), Counter[str]()
        await spawn(store.process().bus, "boss/1")
        alive = Process(store, None)
        await play(store, alive, asked)
        expected = await outcome(store)
        assert expected["boss/1"][:3] == ("finished", "done", ["counter/0", "counter/1", "tick"])
        assert asked.total() == CHILDREN * MESSAGES
        found: dict[tuple[int, bool], tuple[dict[str, Any], Counter[str], int]] = {}
        async with anyio.create_task_group() as tasks:

            async def crash(lives: int, before: bool) -> None:
                async with limit:
                    found[lives, before] = await one(lives, before=before)

            limit = anyio.CapacityLimiter(32)
            for lives in range(1, alive.written + 1):
                tasks.start_soon(crash, lives, True)
                tasks.start_soon(crash, lives, False)
    for where, (came, asked, answers) in found.items():
        assert came == expected, where
        assert answers == CHILDREN * MESSAGES, where
        assert asked.total() <= answers + 2, where  # two entities may have been at work


@pytest.mark.parametrize("seed", range(8))
async def test_several_hosts_at_once_ask_no_model_twice(seed: int) -> None:
    """Jobs of one entity are taken by different hosts at the same time: one of them has it, and nobody forgets it."""
    store, asked = Store(), Counter[str]()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(_host, store, asked)
        outside = store.process().bus
        for number in range(4):
            await spawn(outside, f"counter/{seed}-{number}")
        for message in range(MESSAGES):
            for number in range(4):
                await send(outside, f"counter/{seed}-{number}", message)
                for _ in range(seed):
                    await anyio.lowlevel.checkpoint()
        for number in range(4):
            await until(outside, f"counter/{seed}-{number}", lambda state: state.is_over)
        tasks.cancel_scope.cancel()
    assert set(asked.values()) == {1}
    assert asked.total() == 4 * MESSAGES
    assert (await look(store.process().bus, f"counter/{seed}-0")).damage == 0


async def _host(store: Store, asked: Counter[str]) -> None:
    await host(store.process().bus, types(asked), concurrency=3, lease_s=5, retry_s=0.01)


async def test_a_handler_that_takes_its_hosts_with_it_is_given_up_and_the_next_letter_comes() -> None:
    store, begun = Store(), list[tuple[object, int]]()
    entities = Entities()

    @entities.define("bomb", max_attempts=3)
    async def bomb(context: Context, wake: Wake) -> None:
        begun.append((wake.body, wake.attempt))
        if wake.body == "boom":
            raise Crashed("the handler killed its process")

    outside = store.process().bus
    await spawn(outside, "bomb/1")
    for message in ("before", "boom", "after"):
        await send(outside, "bomb/1", message)
    with anyio.fail_after(20):
        while (await look(outside, "bomb/1")).wakes < 4:
            process = store.process()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_until_wakes, store, 4, tasks.cancel_scope)
                    await _dying_host(process, entities)
            except BaseException as error:
                if not only_crashed(error):
                    raise
    state = await look(outside, "bomb/1")
    assert begun == [(None, 1), ("before", 1), ("boom", 1), ("boom", 2), ("boom", 3), ("after", 1)]
    assert [failure.error.partition(":")[0] for failure in state.errors] == ["HostsLost"]


async def _dying_host(process: Process, entities: Entities) -> None:
    try:
        await host(process.bus, entities, concurrency=1, lease_s=LEASE_S)
    except BaseException:
        process.is_dead = True
        raise


async def _until_wakes(store: Store, wakes: int, scope: anyio.CancelScope) -> None:
    await until(store.process().bus, "bomb/1", lambda state: state.wakes == wakes)
    scope.cancel()


async def test_an_end_that_is_on_its_way_for_long_takes_no_job_from_who_has_it_by_then() -> None:
    """The first host's end comes when its lease has run out. The second one has the job by then, handled a letter with
    it and began the next wake; the jobs of both letters gave way to it. Then the second host is lost."""
    store, begun, entities = Store(), list[object](), Entities()
    is_first, hangs = True, anyio.Event()

    shared = Collection("shared", Tally, writable=True)

    @entities.define("a", collections=[shared])
    async def handle(context: Context, wake: Wake) -> None:
        nonlocal is_first
        begun.append(wake.body)
        if wake.body == "later" and is_first:
            is_first = False
            hangs.set()
            await anyio.sleep_forever()

    outside, first, second, third = store.process(), Held(store, None), store.process(), store.process()
    await spawn(outside.bus, "a/1")
    jobs = store.queues["entities-a"]._entries  # pyright: ignore[reportPrivateUsage]
    (job,) = jobs.values()
    with anyio.fail_after(20):
        async with hosting(first.bus, entities, concurrency=1):
            await first.ending.wait()
            first.is_cut_off = True
            await put(outside.bus, "a/1", shared, "all", Tally())
            await send(outside.bus, "a/1", "later")
            while job.ready_s > time.monotonic():
                await anyio.lowlevel.checkpoint()
            async with hosting_until_lost(second, entities, concurrency=1):
                await hangs.wait()
                async with hosting(third.bus, entities, concurrency=1):
                    while len(jobs) > 1:
                        await anyio.lowlevel.checkpoint()
                first.may_end.set()
                await first.ended.wait()
        async with hosting(outside.bus, entities):
            await until(outside.bus, "a/1", lambda state: state.wakes == 3)
    assert begun == [None, "later", "later"]


class Crossed(Process):
    """Where two jobs meet: who first asks for one hears of it when it was taken again some steps ago, and that one ends
    after the other one, if at all."""

    met = ""

    async def asks(self, job: str) -> None:
        if not self.met:
            self.met = job
            while self.taken[job] < 2:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        await super().asks(job)

    async def write(self, act: Callable[[], Any]) -> Any:
        if act.__name__ == "done" and act.__self__.job.id == self.met:  # type: ignore[attr-defined]
            while len(self.store.queues["entities-a"]._entries) > 1:  # pyright: ignore[reportPrivateUsage]
                await anyio.lowlevel.checkpoint()
        return await super().write(act)


async def test_two_jobs_of_one_host_do_not_give_way_to_each_other() -> None:
    """The wake of the first is tried again later, and its journal is begun; meanwhile the job of the second letter sees
    that, and while it looks the first one comes back."""
    store, entities, failed = Store(), Entities(), anyio.Event()

    @entities.define("a")
    async def handle(context: Context, wake: Wake) -> None:
        if wake.body == "first" and wake.attempt == 1:
            failed.set()
            raise RuntimeError("once more")

    process = Crossed(store, None)
    with anyio.fail_after(10):
        await spawn(process.bus, "a/1")
        async with hosting(store.process().bus, entities):
            while store.queues["entities-a"]._entries:  # pyright: ignore[reportPrivateUsage]
                await anyio.lowlevel.checkpoint()
        async with hosting(process.bus, entities, concurrency=2, retry_s=0.1):
            await send(process.bus, "a/1", "first")
            await failed.wait()
            await send(process.bus, "a/1", "second")
            state = await until(process.bus, "a/1", lambda state: state.wakes == 3)
    assert process.met
    assert state.errors == []


async def test_a_job_that_comes_again_to_the_host_that_is_at_it_waits_for_that() -> None:
    """As when a process stood still for longer than its lease: what the first delivery says of the job is not heard."""
    store, entities = Store(), Entities()
    process = store.process()
    process.is_cut_off = True
    attempts: list[int] = []

    @entities.define("a")
    async def handle(context: Context, wake: Wake) -> None:
        attempts.append(wake.attempt)
        if wake.attempt == 1:
            while max(process.taken.values()) < 2:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            raise RuntimeError("once more")

    await spawn(process.bus, "a/1")
    with anyio.fail_after(10):
        async with hosting(process.bus, entities, concurrency=2):
            await until(process.bus, "a/1", lambda state: state.wakes == 1)
    assert attempts == [1, 2]
