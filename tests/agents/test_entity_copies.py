"""Entities on another bus: exported, imported, and gone on with there."""

import tempfile
from collections.abc import AsyncGenerator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, Approve, Request, ToolUse, answer, pending, tool
from convive.agents.entities import (
    Collection,
    Context,
    Entities,
    EntityState,
    NoEntity,
    UnknownEntity,
    Wake,
    export_entity,
    follow,
    import_entity,
    look,
    names_of,
    revive,
    runs,
    send,
    signal,
    spawn,
    trim,
)
from convive.agents.journal._faults import only_crashed
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Archive,
    Bus,
    Chair,
    NameTaken,
    RunContext,
    SeatName,
    export_lines,
    memory_bus,
    mint_run_id,
    open_archive,
    open_bus,
)
from convive.bus.jetstream._connect import connect
from convive.bus.testing import server
from tests.agents.entity_kit import Process, Store, hosting, until

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    item: str
    note: str = ""


ORDERS = Collection("orders", Order)


class Shop:
    """A shop that asks an agent about an order, may have to mail, has it baked elsewhere, and looks after it later."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.mailed: list[str] = []
        self.baked: list[str] = []
        self.entities = Entities()

        @tool(needs_approval=True)
        async def mail(to: str) -> str:
            """Send a mail."""
            self.mailed.append(to)
            return "sent"

        def say(request: Request) -> Answer | str:
            text = request.messages[-1].text
            self.asked.append(text)
            calls = (ToolUse(id="c", name="mail", arguments={"to": "ada"}),)
            return Answer(parts=calls, stop_reason="tool_use") if "mail" in text else "noted"

        scribe = Agent("scribe", model=ScriptedModel(say), tools=[mail])

        @self.entities.define("shop", collections=[ORDERS])
        async def shop(context: Context, wake: Wake) -> None:
            if wake.kind == "message":
                note = (await scribe.prompt(str(wake.body))).text
                context.rows(ORDERS).insert(str(wake.body), Order(item=str(wake.body), note=note))
                context.spawn(f"baker/{wake.body}", wake.body)
            elif wake.kind == "finished":
                item = wake.sender.partition("/")[2]
                context.rows(ORDERS).update(item, note="baked")
                context.wake_after(0.1 if item == "soon" else 1000, item, id=wake.sender)

        @self.entities.define("baker")
        async def baker(context: Context, wake: Wake) -> None:
            self.baked.append(str(context.args))
            context.finish(context.args)


async def archived(bus: Bus, name: str, until: int | None = None) -> Archive:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        async for line in export_entity(bus, name, until):
            file.write(line)
    return open_archive(Path(file.name))


def told(state: EntityState) -> dict[str, Any]:
    """A state without the places of this log."""
    found = state.model_dump(mode="json", exclude={"seq", "committed_at", "errors"})
    for each in (found["last_handled"], *found["waiting"]):
        del each["seq"]
    return found


@pytest.fixture
async def elsewhere(nats_url: str) -> AsyncGenerator[Bus]:
    async with server() as own, open_bus(own.url) as bus:
        yield bus


def is_baked(item: str, state: EntityState) -> bool:
    return state.rows.get("orders", {}).get(item, {}).get("note") == "baked"


async def filled(bus: Bus, shop: Shop) -> None:
    await spawn(bus, "shop/1", {"open": True})
    async with hosting(bus, shop.entities):
        for item in ("bread", "cake"):
            await send(bus, "shop/1", item)
            await until(bus, "shop/1", partial(is_baked, item))


async def test_rows_history_and_traces_are_the_same_elsewhere_and_it_goes_on(elsewhere: Bus) -> None:
    shop = Shop()
    async with memory_bus() as bus:
        await filled(bus, shop)
        before, did = await look(bus, "shop/1"), await runs(bus, "shop/1")
        archives = [await archived(bus, name) for name in await names_of(bus)]
        assert len(archives) == 3
        for archive in archives:
            await import_entity(elsewhere, archive)
    after, done = await look(elsewhere, "shop/1"), await runs(elsewhere, "shop/1")
    assert told(after) == told(before)
    assert {run: (node.name, node.status) for run, node in done.runs.items()} == {
        run: (node.name, node.status) for run, node in did.runs.items()
    }
    assert len(after.timers) == 2
    async with hosting(elsewhere, shop.entities):
        await send(elsewhere, "shop/1", "soon")
        state = await until(elsewhere, "shop/1", lambda state: state.wakes == before.wakes + 3)  # also its time
    assert (list(state.rows["orders"]), state.damage, state.errors) == (["bread", "cake", "soon"], 0, [])
    assert (shop.asked, shop.baked) == (["bread", "cake", "soon"], ["bread", "cake", "soon"])


async def test_what_waits_goes_on_elsewhere_from_where_it_was(elsewhere: Bus) -> None:
    """Letters, a time, and a wake that waits for an approval: no model is asked twice, and the answer finds it."""
    shop = Shop()
    async with memory_bus() as bus:
        await spawn(bus, "shop/1")
        async with hosting(bus, shop.entities):
            await send(bus, "shop/1", "soon")
            await until(bus, "shop/1", lambda state: bool(state.timers))
            await send(bus, "shop/1", "mail")
            await send(bus, "shop/1", "behind")
            with anyio.fail_after(10):
                while not await pending(bus):
                    await anyio.lowlevel.checkpoint()
        for name in ("shop/1", "baker/soon"):
            await import_entity(elsewhere, await archived(bus, name))
    asked = list(shop.asked)
    async with hosting(elsewhere, shop.entities):
        with anyio.fail_after(10):
            while not (waits := await pending(elsewhere)):
                await anyio.lowlevel.checkpoint()
        assert waits[0].interrupts[0].through is None  # a wake has no calls
        assert await answer(elsewhere, waits[0].run_id, {waits[0].interrupts[0].id: Approve()}) == "worker"
        state = await until(elsewhere, "shop/1", lambda state: state.wakes == 8)
    assert (state.damage, state.errors, set(state.timers)) == (
        0,
        [],
        {"baker/mail", "baker/behind"},
    )
    assert shop.mailed == ["ada"]
    assert shop.asked[: len(asked)] == asked
    assert shop.asked.count("mail") == 1


async def test_a_copy_of_a_copy_and_a_copy_of_what_was_trimmed_are_the_same() -> None:
    shop = Shop()
    async with memory_bus() as bus, memory_bus(partitions=1) as second, memory_bus(partitions=3) as third:
        await filled(bus, shop)
        await signal(bus, "shop/1", "pause")
        await send(bus, "shop/1", "soon")
        before = await look(bus, "shop/1")
        await spawn(second, "other/1")  # so that no place is the same
        await import_entity(second, await archived(bus, "shop/1"))
        assert await trim(second, "shop/1", keep=2, runs=True) > 0
        await import_entity(third, await archived(second, "shop/1"))
        assert told(await look(second, "shop/1")) == told(before)
        assert told(await look(third, "shop/1")) == told(before)
        assert await trim(third, "shop/1", keep=1) > 0
        assert told(await look(third, "shop/1")) == told(before)
        for name in ("baker/bread", "baker/cake"):
            await import_entity(third, await archived(bus, name))
        async with hosting(third, shop.entities):
            await signal(third, "shop/1", "resume")
            state = await until(third, "shop/1", lambda state: state.wakes == before.wakes + 3)
    assert (shop.baked, state.damage, state.errors) == (["bread", "cake", "soon"], 0, [])


async def test_an_entity_is_brought_as_it_was_at_a_place() -> None:
    shop = Shop()
    async with memory_bus() as bus, memory_bus() as other:
        await filled(bus, shop)
        async with follow(bus, "shop/1", after=0) as states:
            place, rows = 0, dict[str, Any]()
            async for state in states:
                if state.rows.get("orders"):
                    place, rows = state.seq, deepcopy(state.rows)
                    break
        brought = await import_entity(other, await archived(bus, "shop/1", place))
        assert (brought.rows, brought.wakes, brought.status) == (rows, 2, "idle")
        assert list(rows["orders"]) == ["bread"]
        with pytest.raises(UnknownEntity, match="no entity shop/2"):
            await archived(bus, "shop/2")


async def test_what_is_there_already_or_is_no_entity_is_refused() -> None:
    shop = Shop()
    async with memory_bus() as bus, memory_bus() as other:
        await filled(bus, shop)
        archive = await archived(bus, "shop/1")
        await import_entity(other, archive)
        await import_entity(other, archive)  # as after an import that was broken off
        await send(other, "shop/1", "cake")
        with pytest.raises(NameTaken, match="shop--1"):
            await import_entity(other, archive)
        talk = await bus.conversation("small--talk")
        await talk.open(RunContext.root(), "figs", [Chair(seat=SeatName("ada"))])
        with tempfile.NamedTemporaryFile(delete=False) as file:
            async for line in export_lines(talk):
                file.write(line)
        with pytest.raises(NoEntity, match="holds small--talk, which is no entity"):
            await import_entity(other, open_archive(Path(file.name)))


async def test_an_import_that_is_broken_off_anywhere_is_completed_by_making_it_again() -> None:
    shop = Shop()
    async with memory_bus() as bus:
        await filled(bus, shop)
        await send(bus, "shop/1", "soon")
        before, archive = await look(bus, "shop/1"), await archived(bus, "shop/1")
        baked = list(shop.baked)
    for lives in range(1, 6):
        for early in (False, True):
            store = Store()
            try:
                await import_entity(Process(store, lives, before=early).bus, archive)
            except BaseException as error:
                if not only_crashed(error):
                    raise
            outside = store.process().bus
            assert told(await import_entity(outside, archive)) == told(before)
            async with hosting(outside, shop.entities):
                await until(outside, "shop/1", lambda state: state.wakes == before.wakes + 3)
            baked.append("soon")
            assert shop.baked == baked


async def test_jobs_that_were_lost_are_sent_again(nats_url: str) -> None:
    """What waits for an entity whose queue is gone, and a time of it, come when it is revived."""
    shop, prefix = Shop(), f"t{mint_run_id()[-8:]}"
    async with open_bus(nats_url, prefix=prefix) as bus:
        await spawn(bus, "shop/1")
        await send(bus, "shop/1", "soon")
        await spawn(bus, "baker/soon", "soon")
    async with connect(nats_url) as connection:
        await connection.api(f"STREAM.DELETE.CONVIVE_{prefix.upper()}-QUEUE")
    async with open_bus(nats_url, prefix=prefix) as bus, hosting(bus, shop.entities):
        assert (await revive(bus, "shop/1")).status == "busy"
        assert (await revive(bus, "baker/soon")).status == "busy"
        state = await until(bus, "shop/1", lambda state: state.wakes == 4)
        assert (state.timers, is_baked("soon", state)) == ({}, True)
        await revive(bus, "shop/1")  # once more than needed
        await send(bus, "shop/1", "bread")
        await until(bus, "shop/1", lambda state: state.wakes == 6)
    assert (shop.asked, shop.baked) == (["soon", "bread"], ["soon", "bread"])
