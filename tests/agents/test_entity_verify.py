"""Entities that are verified: whole however they came about, and what is damaged, lost or forged is named."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import pytest

from convive.agents import Agent
from convive.agents.entities import (
    Context,
    Entities,
    Forgotten,
    UnknownEntity,
    Wake,
    import_entity,
    look,
    send,
    signal,
    spawn,
    trim,
    verify_entity,
)
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, Draft, Record, memory_bus, mint_run_id
from tests.agents.entity_kit import TALLY, Store, Tally, hosting, until
from tests.agents.test_entity_copies import archived

pytestmark = pytest.mark.anyio


def types() -> Entities:
    """A boss that asks an agent and sends what it says to a clerk, whom it observes, and sets times."""
    entities = Entities()
    ada = Agent("ada", model=ScriptedModel(lambda request: "heard"))

    @entities.define("boss", collections=[TALLY], max_attempts=1)
    async def boss(context: Context, wake: Wake) -> None:
        context.rows(TALLY).put(str(wake.number), Tally())
        if wake.kind == "created":
            context.spawn("clerk/1")
            context.observe("clerk/1", changes=True)
        elif wake.body == "bad":
            raise RuntimeError("bad")
        elif wake.kind == "message" and wake.body is not None:
            context.send("clerk/1", (await ada.prompt("well?")).text)
            context.send(context.name, None)
            context.wake_after(1000, id="later")

    @entities.define("clerk", collections=[TALLY])
    async def clerk(context: Context, wake: Wake) -> None:
        context.rows(TALLY).put(str(wake.number), Tally())

    return entities


@dataclass
class World:
    """A boss and a clerk that exchanged letters, and nobody who hosts them any more."""

    bus: Bus
    store: Store

    async def records(self, name: str, on: str) -> list[Record]:
        space = await self.bus.conversation(name.replace("/", "--"))
        async with space.log.read(f"{space.subjects.base}.{on}") as records:
            return [record async for record in records]

    async def again(self, record: Record, *change: tuple[bytes, bytes]) -> int:
        """Append a record once more, changed."""
        body = record.body
        for old, new in change:
            assert old in body
            body = body.replace(old, new)
        space = await self.bus.conversation(record.subject.split(".")[2])
        own = {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}
        return await space.log.append(Draft(record.subject, body, own))

    async def remove(self, record: Record) -> None:
        """As a disk might: one record, and none else."""
        self.store.log._remove([record.seq])  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
async def world() -> World:
    store = Store()
    bus = store.process().bus
    await spawn(bus, "boss/1")
    async with hosting(bus, types()):
        for number in range(3):
            await send(bus, "boss/1", number)
        await send(bus, "boss/1", "bad")
        await until(bus, "boss/1", lambda state: state.wakes == 11)
        await until(bus, "clerk/1", lambda state: state.wakes == 6)
        with anyio.fail_after(10):
            for name in ("boss/1", "clerk/1"):
                while (verdict := await verify_entity(bus, name)).under_way or set(verdict.runs) != {"ended"}:
                    await anyio.lowlevel.checkpoint()
    return World(bus, store)


Damage = Callable[[World], Awaitable[object]]


async def unreadable(world: World) -> None:
    await world.again((await world.records("boss/1", "stream.entity"))[1], (b'"woken"', b'"spoken"'))
    await world.again((await world.records("boss/1", "stream.mailbox"))[1], (b'"letter"', b'"ladder"'))


async def a_commit_twice(world: World) -> None:
    await world.again((await world.records("boss/1", "stream.entity"))[-1])


async def a_commit_of_the_future(world: World) -> None:
    await send(world.bus, "boss/1", "waits")
    run = (await look(world.bus, "boss/1")).waiting[0].run_id
    last = (await world.records("boss/1", "stream.entity"))[-1]
    handled = (await look(world.bus, "boss/1")).last
    assert handled is not None
    await world.again(last, (b'"wake":11', b'"wake":13'), (handled.run_id.encode(), run.encode()))


async def a_wake_without_an_end(world: World) -> None:
    commit = (await world.records("boss/1", "stream.entity"))[1]
    await world.remove((await world.records("boss/1", f"run.*.{commit.headers['Cv-Run']}"))[-1])


async def a_wake_without_a_journal(world: World) -> None:
    commit = (await world.records("clerk/1", "stream.entity"))[-2]
    for record in await world.records("clerk/1", f"run.*.{commit.headers['Cv-Run']}"):
        await world.remove(record)


async def a_wake_without_a_letter(world: World) -> None:
    started = next(one for one in await world.records("clerk/1", "run.*.*") if b"run_started" in one.body)
    space = await world.bus.conversation("clerk--1")
    run = mint_run_id()
    body = started.body.replace(started.subject.split(".")[-2].encode(), run.encode())
    await space.log.append(Draft(f"{space.subjects.base}.run.{run}.{run}", body))


async def a_letter_that_did_not_come(world: World) -> None:
    await world.remove((await world.records("clerk/1", "stream.mailbox"))[3])


async def a_letter_twice_with_other_words(world: World) -> None:
    await world.again((await world.records("clerk/1", "stream.mailbox"))[3], (b"heard", b"hoard"))


async def a_letter_that_was_never_sent(world: World) -> None:
    await world.again((await world.records("clerk/1", "stream.mailbox"))[3], (b'"number":[', b'"number":[1'))


async def a_letter_that_was_changed(world: World) -> None:
    letter = (await world.records("clerk/1", "stream.mailbox"))[-1]
    await world.remove(letter)
    await world.again(letter, (b"heard", b"hoard"))


async def jobs_that_are_lost(world: World) -> None:
    await send(world.bus, "boss/1", "waits")
    world.store.queues.clear()


@pytest.mark.parametrize(
    ("damage", "name", "found"),
    [
        (unreadable, "boss/1", ["foreign: not the commit of a wake", "foreign: not a letter to an entity"]),
        (a_commit_twice, "boss/1", ["wake: wake 11 for the letter at", "no such letter waits"]),
        (a_commit_of_the_future, "boss/1", ["wake: wake 13 for the letter at", "wake 12 was due"]),
        (a_wake_without_an_end, "boss/1", ["wake: wake 2 is followed by another, and its run has a journal without"]),
        (a_wake_without_a_journal, "clerk/1", ["wake: wake 5 is followed by another, and its run has no journal"]),
        (a_wake_without_a_letter, "clerk/1", ["orphan: the run of a wake, and no letter is there for it"]),
        (a_letter_that_did_not_come, "boss/1", ["letter: letter 1 of wake 2 of boss/1, to clerk/1, was never"]),
        (a_letter_twice_with_other_words, "clerk/1", ["letter: letter 1 of wake 2 of boss/1 came before with other"]),
        (a_letter_that_was_never_sent, "clerk/1", ["letter: letter 1 of wake 12 of boss/1 is not what that one sent"]),
        (a_letter_that_was_changed, "clerk/1", ["letter: letter 1 of wake 4 of boss/1 is not what that one sent"]),
        (
            jobs_that_are_lost,
            "boss/1",
            ["waits, and no job is there for that: convive entity revive", "lost: the time 'later' that is set has"],
        ),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
async def test_what_is_damaged_lost_or_forged_is_named(
    world: World, damage: Damage, name: str, found: list[str]
) -> None:
    before = await verify_entity(world.bus, name)
    assert (before.whole, before.again, before.under_way, before.elsewhere) == (True, 0, 0, 0)
    assert (before.sent, before.letters) == ((9, 11) if name == "boss/1" else (3, 6))
    await damage(world)
    told = [f"{one.kind}: {one.why}" for one in (await verify_entity(world.bus, name)).findings]
    for each in found:
        assert [one for one in told if each in one], told
    counts = (await verify_entity(world.bus, name)).counts
    assert set(counts) <= {"foreign", "wake", "orphan", "letter", "lost"}


async def test_a_letter_that_is_delivered_twice_counts_once_and_is_no_damage(world: World) -> None:
    await world.again((await world.records("clerk/1", "stream.mailbox"))[3])
    verdict = await verify_entity(world.bus, "clerk/1")
    assert (verdict.whole, verdict.again, verdict.state.wakes, verdict.state.waiting) == (True, 1, 6, [])


async def test_an_import_has_the_same_content_and_is_whole_also_alone_and_trimmed(world: World) -> None:
    origin = await verify_entity(world.bus, "boss/1")
    async with memory_bus(partitions=3) as both, memory_bus() as alone:
        for name in ("boss/1", "clerk/1"):
            await import_entity(both, await archived(world.bus, name))
        await import_entity(alone, await archived(world.bus, "boss/1"))
        for bus, elsewhere in ((both, 0), (alone, 3)):
            verdict = await verify_entity(bus, "boss/1")
            assert (verdict.counts, verdict.elsewhere > 0) == ({}, elsewhere > 0)
            assert verdict.bus.content_head == origin.bus.content_head
            assert verdict.bus.head != origin.bus.head
            async with hosting(bus, types()):
                await send(bus, "boss/1", "on")
                await until(bus, "clerk/1", lambda state: bool(state.waiting) or state.wakes > 0 or state.seq > 0)
                await until(bus, "boss/1", lambda state: not state.waiting)
            assert (await verify_entity(bus, "boss/1")).counts == {}
        for name in ("boss/1", "clerk/1"):
            assert await trim(both, name, keep=2, runs=True) > 0
        for name in ("boss/1", "clerk/1"):
            assert (await verify_entity(both, name)).counts == {}


async def test_a_part_is_verified_as_it_was_and_what_is_not_there_is_told(world: World) -> None:
    commits = await world.records("boss/1", "stream.entity")
    verdict = await verify_entity(world.bus, "boss/1", until=commits[4].seq)
    assert (verdict.whole, verdict.state.wakes, verdict.bus.through) == (True, 5, commits[4].seq)
    with pytest.raises(UnknownEntity, match=r"Near: boss/1"):
        await verify_entity(world.bus, "boss/2")
    await trim(world.bus, "boss/1", keep=2)
    with pytest.raises(Forgotten):
        await verify_entity(world.bus, "boss/1", until=commits[4].seq)


async def test_a_large_exchange_is_verified_in_a_time_that_grows_with_it() -> None:
    """Records that are read: each of both sides once, however many letters there are."""
    store = Store()
    outside = store.process()
    await spawn(outside.bus, "boss/1")
    async with hosting(outside.bus, types()):
        for number in range(100):
            await send(outside.bus, "boss/1", number)
        await until(outside.bus, "clerk/1", lambda state: state.wakes == 103)
        await signal(outside.bus, "boss/1", "pause")
    process = store.process()
    verdict = await verify_entity(process.bus, "boss/1")
    assert verdict.counts == {}
    assert process.read < 2 * len(store.log._records)  # pyright: ignore[reportPrivateUsage]
