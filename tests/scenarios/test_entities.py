"""Entities from a shell, hosted by processes that are killed."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.agents.entities import find, send, spawn, verify_entity
from convive.agents.entities import follow as follow_entity
from convive.bus import open_bus
from convive.bus.testing import server

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

SHOP = """
import os
from pathlib import Path

from pydantic import BaseModel

from convive.agents import Agent
from convive.agents.entities import Collection, Context, Entities, Wake
from convive.agents.testing import ScriptedModel


class Order(BaseModel):
    item: str
    state: str = "open"


def say(request):
    with Path("asked.txt").open("a") as file:
        file.write(request.messages[-1].text + "\\n")
    return "noted"


orders = Collection("orders", Order)
entities = Entities()
scribe = Agent("scribe", model=ScriptedModel(say))


@entities.define("shop", collections=[orders], max_attempts=int(os.environ.get("ATTEMPTS", "5")))
async def shop(context: Context, wake: Wake) -> None:
    if wake.kind == "message":
        if wake.body == "bad":
            raise RuntimeError("out of flour")
        await scribe.prompt(f"{context.name} {wake.body}")
        context.rows(orders).insert(str(wake.body), Order(item=str(wake.body)))
        context.spawn(f"baker/{context.name.partition('/')[2]}-{wake.body}", wake.body)
    elif wake.kind == "finished":
        context.rows(orders).update(wake.body["result"], state="done")


@entities.define("baker")
async def baker(context: Context, wake: Wake) -> None:
    if wake.kind == "created":
        context.wake_after(0.05)
    elif wake.kind == "due":
        context.finish(str(context.args))
"""
READY = "Hosting entities of the types shop, baker."


async def test_entities_from_a_shell(person: "Person") -> None:
    person.writes("my_shop.py", SHOP)
    async with person.starts("worker", "my_shop", env={"ATTEMPTS": "1"}) as worker:
        await worker.err.until(READY)
        assert (await person.does("entity", "spawn", "shop/main", '{"open": true}')).code == 0
        for message in ("bread", "bad"):
            assert (await person.does("entity", "send", "shop/main", message)).code == 0
        async with open_bus(data=person.folder / ".convive") as bus, follow_entity(bus, "shop/main", after=0) as states:
            at = 0
            with anyio.fail_after(30):
                async for state in states:
                    bread = state.rows.get("orders", {}).get("bread", {})
                    at = state.seq if bread.get("state") == "open" else at
                    if state.errors and bread.get("state") == "done":
                        break
        shown = (await person.does("entity", "show", "shop/main")).out
        assert shown.splitlines()[:3] == ["shop/main  idle", 'args       {"open": true}', shown.splitlines()[2]]
        for line in ('  bread  {"item": "bread", "state": "done"}', "child      baker/main-bread finished"):
            assert line in shown.splitlines()
        assert "RuntimeError: out of flour" in shown
        then = (await person.does("entity", "show", "shop/main", "--at", str(at), "--json")).rows[0]
        assert (then["rows"], then["children"]) == (
            {"orders": {"bread": {"item": "bread", "state": "open"}}},
            {"baker/main-bread": "running"},
        )
        beyond = await person.does("entity", "show", "shop/main", "--at", "999999")
        assert (beyond.code, beyond.out) == (0, shown)
        assert beyond.err.startswith("Nothing is at 999999 yet: its log ends at ")
        both = await person.does("entity", "show", "shop/main", "--at", str(at), "--runs")
        assert (both.code, "leave out one of them" in " ".join(both.err.split())) == (2, True)
        did = (await person.does("entity", "show", "shop/main", "--runs")).out
        assert [line.split()[:2] for line in did.splitlines() if "scribe" in line or "answer 1" in line] == [
            ["└", "✓"],
            ["└", "✓"],
        ]
        ran = (await person.does("entity", "show", "shop/main", "--runs", "--json")).rows[0]["runs"]
        assert {run["name"]: run["status"] for run in ran if run["status"] != "ok"} == {"shop/main": "failed"}
        listed = (await person.does("entity", "list", "--json")).rows
        assert {row["name"]: row["status"] for row in listed} == {"baker/main-bread": "finished", "shop/main": "idle"}
        assert (await person.does("entity", "signal", "shop/main", "stop")).code == 0
        told = (await person.does("entity", "follow", "shop/main")).out.splitlines()
        assert told[0].split() == ["1", "created", '{"open":', "true}"]
        assert [line.split()[1] for line in told] == [
            "created",
            "message",
            *[line.split()[1] for line in told[2:-1]],
            "signal",
        ]
        assert (await person.does("entity", "list", "shop", "--status", "stopped")).out.count("shop/main") == 1
        forgotten = await person.does("entity", "trim", "shop/main", "--keep", "1")
        assert forgotten.err.splitlines()[-1].endswith(" records of shop/main forgotten.")
        assert (await person.does("entity", "follow", "shop/main")).out.splitlines() == told[-2:]
        assert (await person.does("entity", "show", "shop/main", "--at", "1")).complaint.count("is forgotten") == 1


async def test_mistakes_are_told_in_one_line(person: "Person") -> None:
    for before, said in (
        (("spawn", "shop/main"), "shop/main is spawned."),
        (("spawn", "shop/main"), "shop/main is there already (busy), and stays as it is."),
        (("signal", "shop/main", "stop"), "shop/main is told to stop."),
    ):
        assert (await person.does("entity", *before)).err.splitlines()[-1] == said
    for arguments, told in (
        (("send", "shop/mian", "x"), "Near: shop/main"),
        (("show", "shop"), "is not the name of an entity: use TYPE/ID"),
        (("send", "shop/main", "x"), "is stopped and takes nothing any more. Nothing was sent."),
        (("follow", "shop/none"), "there is no entity shop/none."),
    ):
        done = await person.does("entity", *arguments)
        assert done.code == 1
        assert told in done.complaint
    assert (await person.does("entity", "list", "--status", "bored")).code == 2


async def test_hosts_and_servers_may_be_killed_while_messages_come(person: "Person") -> None:
    """kill -9 of the host five times, and of the server once: every message has its effect once, no model is asked
    twice for what a journal holds."""
    shops, messages, kills = 3, 12, 5
    person.writes("my_shop.py", SHOP)
    async with server() as own, open_bus(own.url) as bus:
        for kind in ("shop", "baker"):
            jobs = await bus.work_queue(f"entities-{kind}", lease_s=0.5)
            with anyio.move_on_after(0.3):  # the first to listen decides on the lease: a short one, for this test
                await jobs.take()
        for number in range(shops):
            await spawn(bus, f"shop/{number}")

        async def order() -> None:
            for message in range(messages):
                for number in range(shops):
                    await send(bus, f"shop/{number}", f"m{message}")
                await anyio.sleep(0.1)

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(order)
                for kill in range(kills):
                    async with person.starts("worker", "my_shop", "--url", own.url) as worker:
                        await worker.err.until(READY)
                        await anyio.sleep(0.15 * kill)
                        await worker.kill()
                    if kill == 2:
                        own.kill()
                        await own.start()
            async with person.starts("worker", "my_shop", "--url", own.url):
                for number in range(shops):
                    async with follow_entity(bus, f"shop/{number}") as states:
                        async for state in states:
                            rows = state.rows.get("orders", {})
                            if len(rows) == messages and all(row["state"] == "done" for row in rows.values()):
                                break
            found = await find(bus)
            for state in found:
                with anyio.fail_after(
                    30
                ):  # the last ends are written, and the jobs of the hosts that were killed settled
                    while (verdict := await verify_entity(bus, state.name)).under_way or verdict.runs.keys() > {
                        "ended"
                    }:
                        assert verdict.whole, verdict.findings
                assert verdict.whole, verdict.findings
        asked = Counter((person.folder / Path("asked.txt")).read_text().splitlines())
        answers = 0
        for pattern, log in (await bus.partitions()).items():
            async with log.read(f"{pattern}.run.*.*") as records:
                async for record in records:
                    answers += b'"model_answered"' in record.body
    assert [(state.name, state.errors, state.damage) for state in found if state.errors or state.damage] == []
    assert sum(state.status == "finished" for state in found) == shops * messages
    assert answers == len(asked) == shops * messages
    assert asked.total() <= answers + kills * 8  # what was under way when its host was killed may be asked again
