"""Entities from a shell: exported, imported elsewhere, verified; what makes no sense is refused."""

from typing import TYPE_CHECKING

import anyio
import pytest

from convive.agents.entities import follow, look
from convive.bus import open_bus
from tests.scenarios.test_entities import READY, SHOP

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio


async def filled(person: "Person") -> None:
    person.writes("my_shop.py", SHOP)
    async with person.starts("worker", "my_shop") as worker:
        await worker.err.until(READY)
        assert (await person.does("entity", "spawn", "shop/main")).code == 0
        assert (await person.does("entity", "send", "shop/main", "bread")).code == 0
        async with open_bus(data=person.folder / ".convive") as bus, follow(bus, "shop/main") as states:
            with anyio.fail_after(30):
                async for state in states:
                    if state.rows.get("orders", {}).get("bread", {}).get("state") == "done":
                        break


async def test_an_entity_goes_elsewhere_and_on_with_all_that_it_was(person: "Person") -> None:
    await filled(person)
    did = await person.does("export", "shop/main", "shop.jsonl")
    assert (did.code, "records of shop/main are in shop.jsonl" in did.err) == (0, True)
    assert (await person.does("export", "baker/main-bread", "baker.jsonl")).code == 0
    there = ("--data", "there")
    brought = await person.does("import", "shop.jsonl", *there)
    assert "convive entity show shop/main --runs --data there" in brought.err
    assert "shop/main is idle here and goes on with whoever hosts it here; the original is not told." in brought.err
    assert (await person.does("import", "baker.jsonl", *there)).code == 0
    assert (await person.does("import", "shop.jsonl", *there)).code == 0  # changes nothing
    shown = [(await person.does("entity", "show", "shop/main", "--runs", "--json", *at)).rows[0] for at in ((), there)]
    for each in shown:
        each["runs"] = [(run["run_id"], run["name"], run["status"], len(run["children"])) for run in each["runs"]]
        each.pop("seq")
    assert shown[0] == shown[1]
    checked = [await person.does("verify", "shop/main", *at) for at in ((), there)]
    for each in checked:
        assert each.code == 0, each.out
        assert each.out.splitlines()[0] == "shop/main idle, 3 wakes"
        assert "damage    none" in each.out.splitlines()
    assert checked[0].out.splitlines()[-1] == checked[1].out.splitlines()[-1]  # the content head
    asked = (person.folder / "asked.txt").read_text()
    async with person.starts("worker", "my_shop", *there) as worker:
        await worker.err.until(READY)
        assert (await person.does("entity", "send", "shop/main", "cake", *there)).code == 0
        async with open_bus(data=person.folder / "there") as bus, follow(bus, "shop/main") as states:
            with anyio.fail_after(30):
                async for state in states:
                    if state.rows["orders"].get("cake", {}).get("state") == "done":
                        break
    assert (person.folder / "asked.txt").read_text() == asked + "shop/main cake\n"
    async with open_bus(data=person.folder / ".convive") as bus:
        assert list((await look(bus, "shop/main")).rows["orders"]) == ["bread"]


async def test_what_an_entity_is_not_is_told_and_what_is_damaged_is_named(person: "Person") -> None:
    await filled(person)
    async with open_bus(data=person.folder / ".convive") as bus:  # one server for all of them
        for arguments, complaint in (
            (("fork", "shop/main"), "is an entity: others know it by that name"),
            (("export", "shop/mian"), "there is no entity shop/mian. Near: shop/main."),
            (("export", "shop/main", "--to", "turn:3"), "is an entity and has no turns"),
            (("export", "shop/main", "--to", "99999"), "has not come to 99999 yet"),
        ):
            done = await person.does(*arguments)
            assert (done.code, complaint in done.complaint) == (1, True), done.err
        assert (await person.does("export", "shop/main", "then.jsonl", "--to", "3")).code == 0
        refused = await person.does("import", "then.jsonl", "--as", "shop/other")
        assert (refused.code, "leave out --as" in refused.complaint) == (1, True)
        revived = await person.does("entity", "revive", "shop/main")
        assert "shop/main is idle; whoever hosts it goes on with what waits." in revived.err
        await (await bus.stream("shop--main/entity")).append(b"nonsense")
        found = await person.does("verify", "shop/main", "--json")
        assert (found.code, found.rows[0]["whole"], found.rows[0]["counts"]) == (1, False, {"foreign": 1})
        lines = (await person.does("verify", "shop/main")).out.splitlines()
    assert any(line.startswith("  foreign ") and "not the commit of a wake" in line for line in lines)
