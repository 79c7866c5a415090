"""Entities that forget: what they are, what waits and whom they have counted stay; their old letters and wakes go."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent
from convive.agents.entities import (
    Collection,
    Context,
    Entities,
    Forgotten,
    Wake,
    find,
    follow,
    look,
    names_of,
    runs,
    send,
    signal,
    spawn,
    trim,
)
from convive.agents.entities._entity_reading import read_on
from convive.agents.journal._faults import only_crashed
from convive.agents.testing import ScriptedModel
from convive.bus import BadRecord, Bus, Draft, NewerRecord, NotAppended, memory_bus, mint_run_id, open_bus
from tests.agents.entity_kit import Process, Store, hosting, until

pytestmark = pytest.mark.anyio


class Tally(BaseModel):
    count: int = 0
    more: str = ""


TALLY = Collection("tally", Tally)


def types(kind: str = "a") -> tuple[Entities, list[Wake]]:
    """A type that counts messages, asks an agent about each, and passes numbers on to the type `<kind>b`."""
    entities, wakes = Entities(), list[Wake]()
    ada = Agent("ada", model=ScriptedModel(lambda request: f"heard {request.messages[-1].text}"))

    @entities.define(kind, collections=[TALLY])
    async def one(context: Context, wake: Wake) -> None:
        wakes.append(wake)
        tally = context.rows(TALLY)
        if wake.kind == "message":
            heard = await ada.prompt(str(wake.body))
            tally.put("all", Tally(count=len(wakes), more=heard.text))
            context.send(f"{kind}b/1", wake.body)
            context.wake_after(1000, wake.body, id=f"t{wake.body}")

    @entities.define(f"{kind}b", collections=[TALLY])
    async def other(context: Context, wake: Wake) -> None:
        rows = context.rows(TALLY)
        rows.insert(f"{wake.number}", Tally(count=wake.number, more=str(wake.body)))

    return entities, wakes


@pytest.fixture(params=["memory", "jetstream"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    async with memory_bus() if request.param == "memory" else open_bus(nats_url) as bus:
        yield bus


async def records_of(bus: Bus, name: str) -> dict[str, int]:
    """How many records there are below the name space of an entity, by stream."""
    space = await bus.conversation(name.replace("/", "--"))
    found = await space.log.subjects(f"{space.subjects.base}.>")
    count: dict[str, int] = {}
    for subject, number in found.items():
        below = subject.removeprefix(f"{space.subjects.base}.")
        part = "run" if below.startswith("run.") else below
        count[part] = count.get(part, 0) + number
    return count


async def test_what_an_entity_is_stays_and_what_it_was_before_is_forgotten(bus: Bus) -> None:
    kind = f"t{mint_run_id()[-10:]}"
    name, entities = f"{kind}/1", types(kind)[0]
    await spawn(bus, name, {"size": 1})
    await spawn(bus, f"{kind}b/1")
    for number in range(20):
        await send(bus, name, number)
    async with hosting(bus, entities):
        before = (await until(bus, name, lambda state: state.wakes == 21)).model_copy(deep=True)
        await until(bus, f"{kind}b/1", lambda state: state.wakes == 21)
    await signal(bus, name, "pause")
    await send(bus, name, "waits")
    before = await look(bus, name)
    old = before.waiting[0].seq - 1
    assert await trim(bus, name, keep=3) == 21 + 18  # letters, all of which came before, and commits
    assert await look(bus, name) == before
    assert len((await runs(bus, name)).runs) == 41  # the journals are there
    assert await trim(bus, name, keep=3, runs=True) > 18 * 5
    assert await look(bus, name) == before
    trace = await runs(bus, name)
    assert (len(trace.runs), trace.is_over) == (3 * 2, True)
    assert await trim(bus, name, keep=3, runs=True) == 0
    assert await look(bus, name, until=old) != before
    with pytest.raises(Forgotten, match=f"what {name} was at 3 is forgotten: it was trimmed up to"):
        await look(bus, name, until=3)
    async with follow(bus, name, after=0) as states:
        wakes = [state.wakes async for state in _upto(states, before.seq)]
    assert (wakes[0], wakes[-1]) == (18, 21)
    counts = await records_of(bus, name)
    assert (counts["stream.mailbox"], counts["stream.entity"]) == (2, 3)
    assert await trim(bus, name, keep=1, runs=True) > 0
    assert await look(bus, name) == before
    assert name in await names_of(bus, kind)
    assert before in await find(bus, kind)
    await signal(bus, name, "resume")
    async with hosting(bus, entities):
        state = await until(bus, name, lambda state: state.wakes == 22)
        await until(bus, f"{kind}b/1", lambda state: state.wakes == 22)
    assert (state.rows["tally"]["all"]["more"], state.damage, len(state.timers)) == ("heard waits", 0, 21)


async def _upto(states: Any, seq: int) -> AsyncGenerator[Any]:
    async for state in states:
        yield state
        if state.seq >= seq:
            return


async def test_an_entity_of_which_all_letters_are_forgotten_is_still_there() -> None:
    async with memory_bus() as bus:
        entities, _ = types()
        await spawn(bus, "ab/1")
        for number in range(3):
            await send(bus, "ab/1", number)
        async with hosting(bus, entities):
            await until(bus, "ab/1", lambda state: state.wakes == 4)
            await trim(bus, "ab/1", keep=1)
            assert "stream.mailbox" not in await records_of(bus, "ab/1")
            assert await names_of(bus) == ["ab/1"]
            await send(bus, "ab/1", "on")
            assert (await until(bus, "ab/1", lambda state: state.wakes == 5)).damage == 0


async def test_letters_that_are_forgotten_are_not_counted_again() -> None:
    """A new host delivers what the last commit of the sender sends once more; the receiver has forgotten the letter."""
    store = Store()
    outside = store.process().bus
    entities, _ = types()
    await spawn(outside, "a/1")
    await spawn(outside, "ab/1")
    async with hosting(outside, entities):
        for number in range(3):
            await send(outside, "a/1", number)
        await until(outside, "ab/1", lambda state: state.wakes == 4)
        await send(outside, "ab/1", "from outside")
        before = await until(outside, "ab/1", lambda state: state.wakes == 5)
    assert await trim(outside, "ab/1", keep=1, runs=True) > 0
    store.log._ids.clear()  # pyright: ignore[reportPrivateUsage] - as after ten minutes
    async with hosting(store.process().bus, entities):
        await signal(outside, "a/1", "resume")
        with anyio.fail_after(10):
            while (await records_of(outside, "ab/1"))["stream.mailbox"] < 2:
                await anyio.lowlevel.checkpoint()
        await send(outside, "ab/1", "last")
        after = await until(outside, "ab/1", lambda state: state.wakes == 6)
    assert (after.seen, after.damage) == (before.seen, 0)
    assert [row["more"] for row in after.rows["tally"].values()] == ["None", "0", "1", "2", "from outside", "last"]


async def test_a_wake_that_is_under_way_is_not_disturbed_and_who_has_an_old_state_reads_anew() -> None:
    async with memory_bus() as bus:
        entities, goes_on, waits, begun = Entities(), anyio.Event(), anyio.Event(), list[object]()

        @entities.define("a", collections=[TALLY])
        async def handle(context: Context, wake: Wake) -> None:
            begun.append(wake.body)
            if wake.body == "wait":
                waits.set()
                await goes_on.wait()
            context.rows(TALLY).put(str(wake.number), Tally())

        await spawn(bus, "a/1")
        async with hosting(bus, entities):
            places = [await send(bus, "a/1", number) for number in range(8)]
            await until(bus, "a/1", lambda state: state.wakes == 9)
            old = await look(bus, "a/1", until=places[4])
            await send(bus, "a/1", "wait")
            await waits.wait()
            assert await trim(bus, "a/1", keep=1, runs=True) > 0
            space = await bus.conversation("a--1")
            assert await read_on(old, space.log, space.subjects.base) == await look(bus, "a/1")
            assert old.damage == 0
            goes_on.set()
            await send(bus, "a/1", "end")
            state = await until(bus, "a/1", lambda state: state.wakes == 11)
    assert begun == [None, *range(8), "wait", "end"]
    assert (len(state.rows["tally"]), state.damage) == (11, 0)


async def test_who_follows_from_behind_a_trim_sees_no_state_that_never_was() -> None:
    """A follower that has not come to what is forgotten meanwhile goes on with what the entity is then."""
    async with memory_bus() as bus:
        entities, _ = types()
        await spawn(bus, "ab/1")
        async with hosting(bus, entities):
            for number in range(30):
                await send(bus, "ab/1", number)
            await until(bus, "ab/1", lambda state: state.wakes == 31)
        async with follow(bus, "ab/1", after=5) as states:
            began = (await anext(states)).wakes
            await trim(bus, "ab/1", keep=2)
            now = await look(bus, "ab/1")
            state = await anext(states)
            with anyio.fail_after(10):
                while state.wakes < now.wakes:
                    assert state.damage == 0
                    state = await anext(states)
    assert began <= 5
    assert state == now


@pytest.mark.parametrize("lives", range(1, 7))
@pytest.mark.parametrize("before", [False, True])
async def test_a_trim_that_is_broken_off_anywhere_changes_nothing_and_is_completed_by_another(
    lives: int, before: bool
) -> None:
    store = Store()
    outside = store.process().bus
    entities, _ = types()
    await spawn(outside, "ab/1")
    async with hosting(outside, entities):
        for number in range(8):
            await send(outside, "ab/1", number)
        state = (await until(outside, "ab/1", lambda state: state.wakes == 9)).model_copy(deep=True)
    process = Process(store, lives, before=before)
    try:
        await trim(process.bus, "ab/1", keep=2, runs=True)
    except BaseException as error:
        if not only_crashed(error):
            raise
    assert await look(outside, "ab/1") == state
    await trim(outside, "ab/1", keep=2, runs=True)
    assert await look(outside, "ab/1") == state
    counts = await records_of(outside, "ab/1")
    assert (counts["stream.mailbox"], counts["stream.entity"]) == (2, 2)


async def test_nothing_is_forgotten_that_no_record_can_hold_or_that_nobody_can_read() -> None:
    async with memory_bus() as bus:
        entities, _ = types()
        await spawn(bus, "ab/1")
        async with hosting(bus, entities):
            for number in range(4):
                await send(bus, "ab/1", "x" * 400_000 + str(number))
            await until(bus, "ab/1", lambda state: state.wakes == 5)
        counts = await records_of(bus, "ab/1")
        with pytest.raises(NotAppended, match="Nothing was appended"):
            await trim(bus, "ab/1", keep=1)
        assert await records_of(bus, "ab/1") == counts
        with pytest.raises(ValueError, match="keeps one wake at least"):
            await trim(bus, "ab/1", keep=0)
        space = await bus.conversation("ab--1")
        subject = f"{space.subjects.base}.stream.entity.snapshot"
        for body, error in ((b"nonsense", BadRecord), (b'{"schema":2,"type":"entity_kept"}', NewerRecord)):
            await space.log.append(Draft(subject, body, {"Cv-Next": "1"}, replaces=True))
            with pytest.raises(error, match=r"stream\.entity\.snapshot"):
                await look(bus, "ab/1")


async def test_commits_that_were_never_written_end_no_trim() -> None:
    async with memory_bus() as bus:
        entities, _ = types()
        await spawn(bus, "ab/1")
        space = await bus.conversation("ab--1")
        forged = b'{"schema":1,"type":"woken","wake":7,"letter":1,"run_id":"00000000000000000000000000000000"}'
        async with hosting(bus, entities):
            await until(bus, "ab/1", lambda state: state.wakes == 1)
            await space.log.append(Draft(f"{space.subjects.base}.stream.entity", forged))
            await send(bus, "ab/1", "on")
            state = await until(bus, "ab/1", lambda state: state.wakes == 2)
        with anyio.fail_after(10):
            assert await trim(bus, "ab/1", keep=1) == 2
            assert (await look(bus, "ab/1"), state.damage) == (state, 1)
