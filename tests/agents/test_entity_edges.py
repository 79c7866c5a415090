"""Entities in corners: stops that come late, strange records, JSON that is none, times, rows, and many observers."""

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from convive.agents import Agent, read_trace
from convive.agents.entities import (
    BadRow,
    Collection,
    Context,
    Entities,
    Wake,
    look,
    send,
    signal,
    spawn,
)
from convive.agents.testing import ScriptedModel
from convive.bus import Draft, memory_bus, mint_run_id, open_bus
from tests.agents.entity_kit import Held, Store, hosting, until

pytestmark = pytest.mark.anyio


class Tally(BaseModel):
    count: int = 0
    more: JsonValue = None


TALLY = Collection("tally", Tally, writable=True)


def one(act: Any, **options: Any) -> tuple[Entities, list[Wake]]:
    """The type `a`, whose handler notes its wakes."""
    entities, wakes = Entities(), list[Wake]()

    @entities.define("a", collections=[TALLY], **options)
    async def handle(context: Context, wake: Wake) -> None:
        wakes.append(wake)
        await act(context, wake)

    return entities, wakes


async def nothing(context: Context, wake: Wake) -> None:
    """Done."""


def watching(entities: Entities) -> list[Wake]:
    """The type `watcher`, which observes `a/1`."""
    wakes = list[Wake]()

    @entities.define("watcher")
    async def watch(context: Context, wake: Wake) -> None:
        wakes.append(wake)
        if wake.kind == "created":
            context.observe("a/1", changes=True)

    return wakes


async def test_a_stop_that_comes_between_a_handler_and_its_commit_is_carried_out() -> None:
    """The commit stands in the log and counts for nothing; the next one follows it all the same."""
    async with memory_bus() as bus:

        async def stop_it(context: Context, wake: Wake) -> None:
            if wake.kind == "message":
                context.rows(TALLY).put("all", Tally(count=1))
                await signal(bus, "a/1", "stop")

        entities, _ = one(stop_it)
        wakes = watching(entities)
        await spawn(bus, "a/1")
        async with hosting(bus, entities, concurrency=1):
            await spawn(bus, "watcher/1")
            await until(bus, "a/1", lambda state: bool(state.observers))
            await send(bus, "a/1", "stop yourself")
            state = await until(bus, "watcher/1", lambda state: state.wakes == 2)
            state = await look(bus, "a/1")
    assert (state.status, state.rows, len(state.waiting)) == ("stopped", {}, 0)
    assert wakes[-1].body == {"status": "stopped", "result": None}


async def test_what_is_paused_can_be_stopped_and_who_observes_it_is_told() -> None:
    async with memory_bus() as bus:
        entities, _ = one(nothing)
        wakes = watching(entities)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            await spawn(bus, "watcher/1")
            await until(bus, "a/1", lambda state: bool(state.observers))
            await signal(bus, "a/1", "pause")
            await send(bus, "a/1", "for later")
            await signal(bus, "a/1", "stop")
            await until(bus, "watcher/1", lambda state: state.wakes == 2)
            assert (await look(bus, "a/1")).status == "stopped"
    assert [wake.kind for wake in wakes] == ["created", "finished"]


async def test_who_resumed_an_entity_comes_again_when_the_job_that_has_it_ends_without_a_look() -> None:
    """The job of a letter reads that its entity is paused; the entity is resumed, and its job sees that of the letter
    alive; only then does that one end."""
    store = Store()
    outside, second = store.process(), store.process()
    entities, wakes = one(nothing)
    async with hosting(outside.bus, entities):
        await spawn(outside.bus, "a/1")
        await until(outside.bus, "a/1", lambda state: state.wakes == 1)
    await signal(outside.bus, "a/1", "pause")
    async with hosting(outside.bus, entities):  # so that its job is gone
        while store.queues["entities-a"]._entries:  # pyright: ignore[reportPrivateUsage]
            await anyio.lowlevel.checkpoint()
    await send(outside.bus, "a/1", "later")
    first = Held(store, None)
    with anyio.fail_after(10):
        async with hosting(first.bus, entities, concurrency=1, lease_s=20):
            await first.ending.wait()
            await signal(outside.bus, "a/1", "resume")
            async with hosting(second.bus, entities, concurrency=1):
                while second.written < 1:
                    await anyio.lowlevel.checkpoint()
                first.may_end.set()
                await until(outside.bus, "a/1", lambda state: state.wakes == 2)
    assert [wake.body for wake in wakes] == [None, "later"]


async def test_records_that_nobody_should_have_written_stop_nothing() -> None:
    async with memory_bus() as bus:
        entities, wakes = one(nothing)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            await until(bus, "a/1", lambda state: state.wakes == 1)
            space = await bus.conversation("a--1")
            for body in (
                b"not JSON",
                b'{"schema":1,"type":"woken","wake":7,"letter":1,"run_id":"00000000000000000000000000000000"}',
            ):
                await space.log.append(Draft(f"{space.subjects.base}.stream.entity", body))
            for body in (
                b"not JSON",
                b'{"schema":1,"type":"letter","kind":"observe","sender":"No Name!"}',
                b'{"schema":1,"type":"letter","kind":"observe"}',
                b'{"schema":1,"type":"letter","kind":"signal","value":"explode"}',
            ):
                await space.log.append(Draft(f"{space.subjects.base}.stream.mailbox", body))
            await send(bus, "a/1", "after")
            state = await until(bus, "a/1", lambda state: state.wakes == 2)
    assert (state.damage, state.observers, wakes[-1].body) == (6, {}, "after")


@pytest.mark.parametrize("stream", ["mailbox", "entity"])
async def test_what_a_newer_version_wrote_is_left_to_a_newer_host(stream: str) -> None:
    async with memory_bus() as bus:
        entities, wakes = one(nothing)
        await spawn(bus, "a/1")
        space = await bus.conversation("a--1")
        await space.log.append(Draft(f"{space.subjects.base}.stream.{stream}", b'{"schema":2,"type":"new"}'))
        async with hosting(bus, entities):
            await spawn(bus, "a/2")
            await until(bus, "a/2", lambda state: state.wakes == 1)
        state = await look(bus, "a/1")
    assert (state.wakes, len(wakes)) == (0, 1)
    assert "a newer version wrote it" in state.newer


async def test_the_damaged_journal_of_a_wake_fails_that_wake_and_not_the_entity() -> None:
    async with memory_bus() as bus:
        entities, wakes = one(nothing)
        await spawn(bus, "a/1")
        waiting = (await look(bus, "a/1")).waiting[0]
        space = await bus.conversation("a--1")
        await space.log.append(Draft(f"{space.subjects.base}.run.{waiting.root_run_id}.{waiting.run_id}", b"broken"))
        await send(bus, "a/1", "after")
        async with hosting(bus, entities):
            state = await until(bus, "a/1", lambda state: state.wakes == 2)
    assert [failure.error.partition(":")[0] for failure in state.errors] == ["BadRecord"]
    assert [wake.body for wake in wakes] == ["after"]


def nest(levels: int) -> JsonValue:
    value: JsonValue = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [float("nan"), "\ud800", nest(190), nest(1000), b"\xff", object()],
    ids=str.split("nan surrogate deep deeper bytes object"),
)
async def test_what_json_cannot_hold_is_refused_where_it_is_given(value: Any) -> None:
    async with memory_bus() as bus:
        with pytest.raises(ValueError, match="not JSON data"):
            await spawn(bus, "a/1", value)
        with pytest.raises(BadRow, match="cannot be written down"):
            TALLY.change("k", Tally.model_construct(count=1, more=value))
    with pytest.raises(BadRow, match="not a key"):
        TALLY.change("\ud800", None)


async def test_what_json_can_hold_comes_as_it_was() -> None:
    """As deep as is allowed, and a number of 4,000 digits: in a letter, a time, a row and a result."""
    value: JsonValue = {"deep": nest(180), "long": 10**4000, "text": "\u0000\u2028\U0001f355"}

    async def pass_on(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.wake_after(0, wake.body)
        elif wake.kind == "due":
            context.rows(TALLY).put("all", Tally(more=wake.body))
            context.send("a/1", context.rows(TALLY)["all"].more)
        else:
            context.finish(wake.body)

    async with memory_bus() as bus:
        entities, _ = one(pass_on)
        await spawn(bus, "a/1", value)
        async with hosting(bus, entities):
            state = await until(bus, "a/1", lambda state: state.is_over)
    assert (state.result, state.errors, state.damage) == (value, [], 0)


async def test_a_handler_that_changes_what_it_was_given_changes_nothing() -> None:
    async def scribble(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.rows(TALLY).put("all", Tally(more=[1]))
        else:
            given: Any
            for given in (context.args, wake.body, context.rows(TALLY)["all"].more):
                assert given == [1]
                given.append(2)

    async with memory_bus() as bus:
        entities, wakes = one(scribble, max_attempts=1)
        await spawn(bus, "a/1", [1])
        for _ in range(2):
            await send(bus, "a/1", [1])
        async with hosting(bus, entities):
            state = await until(bus, "a/1", lambda state: state.wakes == 3)
    assert (state.errors, state.args, state.rows["tally"]["all"]["more"]) == ([], [1], [1])
    assert len(wakes) == 3


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    pair: tuple[int, int] = Field(alias="Pair")
    note: str = ""


def test_a_row_may_be_strict_and_have_other_names_in_json() -> None:
    strict = Collection("strict", Strict)
    change = strict.change("k", Strict(Pair=(1, 2)))
    row = strict.read("k", change.row or {})
    assert (change.row, row.pair) == ({"Pair": [1, 2], "note": ""}, (1, 2))
    assert strict.updated(row, {"pair": (3, 4)}).pair == (3, 4)
    with pytest.raises(BadRow, match="note"):
        strict.updated(row, {"note": 3})
    with pytest.raises(BadRow, match="has no field nota"):
        strict.updated(row, {"nota": "3"})


async def test_times_without_an_id_are_not_mixed_up_when_one_is_called_off() -> None:
    async def clock(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            called_off = context.wake_after(0, "called off")
            context.wake_after(0, "first")
            context.cancel(called_off)
            context.wake_after(0, "second")

    async with memory_bus() as bus:
        entities, wakes = one(clock)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            await until(bus, "a/1", lambda state: state.wakes == 3)
    assert sorted(str(wake.body) for wake in wakes[1:]) == ["first", "second"]


async def test_a_long_result_reaches_as_many_observers_as_there_are() -> None:
    """A commit says once what all of them are told."""
    long = "x" * 200_000

    async def finish(context: Context, wake: Wake) -> None:
        if wake.kind == "message":
            context.finish(long)

    async with memory_bus() as bus:
        entities, _ = one(finish)
        wakes = watching(entities)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            for number in range(8):
                await spawn(bus, f"watcher/{number}")
            await until(bus, "a/1", lambda state: len(state.observers) == 8)
            await send(bus, "a/1", "finish")
            await until(bus, "a/1", lambda state: state.is_over)
            for number in range(8):
                await until(bus, f"watcher/{number}", lambda state: state.wakes == 2)
    assert [wake.body for wake in wakes if wake.kind == "finished"] == [{"status": "finished", "result": long}] * 8


async def test_who_observes_an_end_that_is_too_long_to_be_told_again_hears_so() -> None:
    async def finish(context: Context, wake: Wake) -> None:
        context.finish("x" * 1_046_300)

    async with memory_bus() as bus:
        entities, _ = one(finish)
        wakes = watching(entities)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            await until(bus, "a/1", lambda state: state.is_over)
            for number in range(2):
                await spawn(bus, f"watcher/{number}")
                await until(bus, f"watcher/{number}", lambda state: state.wakes == 2)
    assert [wake.kind for wake in wakes] == ["created", "failed"] * 2
    assert "the body has" in str(wakes[1].body)


async def test_a_commit_is_taken_only_if_what_it_sends_can_be_sent(nats_url: str) -> None:
    """Letters and jobs have more around them than a commit has, and a server counts that."""
    ends = list[str]()

    async def pass_on(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.wake_after(0, "x" * int(str(context.args)))
        elif wake.kind == "due":
            context.send(context.name, wake.body)

    entities, _ = one(pass_on, max_attempts=1)
    async with open_bus(nats_url, prefix=f"t{mint_run_id()[-8:]}") as bus, hosting(bus, entities):
        for size in (1_048_000, 1_047_935, 1_047_900, 1_046_500, 1_046_000, 1_045_500):
            await spawn(bus, f"a/{size}", size)
            state = await until(bus, f"a/{size}", lambda state: bool(state.errors) or state.wakes == 3)
            ends.append("refused" if state.errors else "sent")
    assert ends == sorted(ends)
    assert (ends[0], ends[-1]) == ("refused", "sent")


async def test_a_run_that_a_handler_left_behind_is_ended_with_the_wake() -> None:
    slow = Agent("slow", model=ScriptedModel(["never"], pause=anyio.sleep_forever))

    async def give_up(context: Context, wake: Wake) -> None:
        with anyio.move_on_after(0.05):
            await slow.prompt("think")

    async with memory_bus() as bus:
        entities, _ = one(give_up)
        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            state = await until(bus, "a/1", lambda state: state.wakes == 1)
            assert state.last is not None
            with anyio.fail_after(10):
                trace = await read_trace(bus, state.last.run_id)
                while not trace.is_over:
                    trace = await read_trace(bus, state.last.run_id)
    assert [node.status for node in trace.roots[0].walk() if node.name == "slow"] == ["cancelled"]


@pytest.mark.parametrize("hosts", [1, 3])
async def test_what_waits_is_read_once_and_not_by_every_job(hosts: int) -> None:
    store, letters = Store(), 300
    outside, processes = store.process(), [store.process() for _ in range(hosts)]
    entities, wakes = one(nothing)
    await spawn(outside.bus, "a/1")
    for number in range(letters):
        await send(outside.bus, "a/1", number)
    async with AsyncExitStack() as stack:
        for process in processes:
            await stack.enter_async_context(hosting(process.bus, entities))
        await until(outside.bus, "a/1", lambda state: state.wakes == letters + 1)
    assert [wake.body for wake in wakes] == [None, *range(letters)]
    for process in processes:
        assert process.read < 6 * letters  # letters, commits, and the few records of each journal
