"""Entities, runs, what waits for answers, and plain streams over HTTP."""

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, go_on, node_json, read_trace
from convive.agents.entities import Collection, Context, Entities, Wake, host, spawn
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, Chair, RunContext, memory_bus, open_bus
from tests.agents.http_kit import Event, Site, refusal, site, token, until
from tests.agents.runs import Shop, use
from tests.agents.seats import ADA

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    item: str
    count: int = 1


ORDERS = Collection("orders", Order, writable=True)
ENTITIES = Entities()


@ENTITIES.define("shop", collections=[ORDERS], max_attempts=1)
async def shop(context: Context, wake: Wake) -> None:
    if wake.body == "burn":
        raise RuntimeError("it burns")
    if wake.body == "close":
        context.finish("sold out")
    elif wake.kind == "message":
        context.rows(ORDERS).put(f"o{wake.number}", Order(item=str(wake.body)))


@pytest.fixture(params=["memory", "server"])
async def there(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Site]:
    """Once in memory, once on a real server."""
    async with memory_bus() if request.param == "memory" else open_bus(nats_url) as bus, site(bus) as made:
        yield made


@asynccontextmanager
async def hosted(bus: Bus) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host, bus, ENTITIES)
        yield
        tasks.cancel_scope.cancel()


# Entities


async def test_an_entity_is_spawned_sent_to_watched_and_written_to(there: Site, name: str) -> None:
    path = f"/entities/shop/{name}"
    made = await there.ask("PUT", path, {"args": {"open": True}})
    assert (made.status_code, made.json()) == (201, {"name": f"shop/{name}", "spawned": True})
    again = await there.ask("PUT", path, {"args": {"open": False}})
    assert (again.status_code, again.json()["spawned"]) == (200, False)
    async with hosted(there.bus), there.events(f"{path}/events") as events:
        assert (await anext(events)).type == "state"
        assert (await there.ask("POST", f"{path}/messages", {"body": "bread"})).status_code == 202
        while (told := await anext(events)).data.get("value") != "bread" or told.type != "woken":
            pass
        assert told.data["changes"] == [{"collection": "orders", "key": "o2", "row": {"item": "bread", "count": 1}}]
        assert (told.data["kind"], told.data["status"], told.id) == ("message", "idle", told.data["seq"])
        row = {"row": {"item": "figs", "count": 3}}
        assert (await there.ask("PUT", f"{path}/rows/orders/a/b", row)).status_code == 202
        assert (await until(events, "woken"))[-1].data["changes"][0]["key"] == "a/b"
        state = await there.get(path)
        assert state["rows"]["orders"] == {"o2": {"item": "bread", "count": 1}, "a/b": {"item": "figs", "count": 3}}
        assert state["args"] == {"open": True}
        assert (await there.get(f"{path}?at={told.id}"))["rows"]["orders"] == {"o2": {"item": "bread", "count": 1}}
        assert (await there.ask("DELETE", f"{path}/rows/orders/a/b")).status_code == 202
        assert (await until(events, "woken"))[-1].data["changes"][0]["row"] is None
        await there.ask("PUT", f"{path}/rows/orders/c", {"row": {"count": "many"}})
        assert "BadRow" in (await until(events, "woken"))[-1].data["error"]
        await there.ask("POST", f"{path}/messages", {"body": "close"})
        last = [event async for event in events][-1]
        assert (last.data["finished"], last.data["result"], last.data["status"]) == (True, "sold out", "finished")
    assert (await there.ask("GET", f"{path}/events", headers={"last-event-id": str(last.id)})).status_code == 204
    assert refusal(await there.ask("POST", f"{path}/messages", {"body": "more"})) == (409, "EntityOver")
    found = (await there.get("/entities?type=shop"))["entities"]
    assert {"name": f"shop/{name}", "status": "finished"}.items() <= next(
        row for row in found if row["name"] == f"shop/{name}"
    ).items()


async def test_changes_of_an_entity_go_on_exactly_behind_any_of_them(there: Site, name: str) -> None:
    """3.2"""
    path = f"/entities/shop/{name}"
    await spawn(there.bus, f"shop/{name}")
    created = (await there.get(path))["seq"]
    for item in ("bread", "figs", "wine", "close"):
        await there.ask("POST", f"{path}/messages", {"body": item})
    async with hosted(there.bus), there.events(f"{path}/events?after={created}") as events:
        whole = [event async for event in events]
    assert [event.data["value"] for event in whole if event.type == "woken"][-4:] == ["bread", "figs", "wine", "close"]
    for number, broken in enumerate(whole[:-1], 1):
        async with there.events(f"{path}/events", after=broken.id) as events:
            assert [event async for event in events] == whole[number:]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("GET", "", None, 404, "there is no entity"),
        ("POST", "/messages", {"body": 1}, 404, "there is no entity"),
        ("POST", "/messages", {}, 400, "body: Field required"),
        ("PUT", "/rows/orders/a", {"row": 3}, 400, "row: Input should be"),
        ("PUT", "/rows/no collection/a", {"row": {}}, 400, "is not a name for a collection"),
        ("PUT", "/rows/orders/" + "k" * 5_000, {"row": {}}, 400, ""),
        ("DELETE", "/rows/orders/a", None, 404, "there is no entity"),
        ("GET", "?at=x", None, 400, "no whole number"),
        ("GET", "/events", None, 404, "there is no entity"),
    ],
)
async def test_what_an_entity_cannot_be_asked_is_refused_in_words(
    there: Site, name: str, method: str, path: str, body: Any, status: int, why: str
) -> None:
    answered = await there.ask(method, f"/entities/shop/{name}{path}", body)
    assert refusal(answered)[0] == status
    assert why in answered.json()["detail"]


async def test_a_letter_that_no_record_holds_is_refused(there: Site, name: str) -> None:
    await spawn(there.bus, f"shop/{name}")
    deep: Any = "x"
    for _ in range(185):
        deep = [deep]
    for body, status in ((deep, 400), ("x" * 1_500_000, 422)):
        answered = await there.ask("POST", f"/entities/shop/{name}/messages", {"body": body})
        assert refusal(answered)[0] == status
        assert len(answered.content) < 1_000


# Runs


async def test_a_run_is_followed_as_events_and_as_the_ai_sdk_reads_it(there: Site, name: str) -> None:
    result = await Agent("poet", model=ScriptedModel(["one two"])).prompt("x", place=await there.bus.conversation(name))
    path = f"/runs/{result.run_id}/events"
    async with there.events(path) as events:
        whole = [event async for event in events]
    assert [event.type for event in whole][-1] == "run_finished"
    for number, broken in enumerate(whole[:-1], 1):
        async with there.events(path, after=broken.id) as events:
            assert [event async for event in events] == whole[number:]
    assert (await there.ask("GET", path, headers={"last-event-id": str(whole[-1].id)})).status_code == 204
    shown = await there.ask("GET", f"{path}?format=ui")
    assert shown.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert shown.text.endswith("data: [DONE]\n\n")
    assert '"type":"text-start"' in shown.text
    assert refusal(await there.ask("GET", f"{path}?format=xml"))[0] == 400


async def test_the_trace_of_a_run_is_that_of_the_command_line(there: Site, name: str) -> None:
    result = await Agent("poet", model=ScriptedModel(["one"])).prompt("x", place=await there.bus.conversation(name))
    told = await there.get(f"/runs/{result.run_id}")
    (root,) = (await read_trace(there.bus, result.run_id)).roots
    assert told["trace"][0]["run_id"] == result.run_id
    assert told["trace"][0]["children"][0]["kind"] == node_json(root)["children"][0]["kind"] == "trip"  # type: ignore[index]


async def test_a_run_elsewhere_is_not_there_for_who_may_not_see_it(there: Site, name: str) -> None:
    place = await there.bus.conversation(name)
    result = await Agent("poet", model=ScriptedModel(["one"])).prompt("x", place=place)
    by = token("write:runs:elsewhere", f"write:conversation:{name}")
    hidden = await there.ask("GET", f"/runs/{result.run_id}/events", by=by)
    unknown = await there.ask("GET", f"/runs/{'0' * 32}/events", by=by)
    assert refusal(hidden) == refusal(unknown) == (404, "UnknownRun")
    assert hidden.text.replace(result.run_id, "") == unknown.text.replace("0" * 32, "")


async def test_a_conversation_that_is_called_like_a_run_is_not_shown_in_its_place(there: Site, name: str) -> None:
    """A right to the one is none to the other."""
    result = await Agent("poet", model=ScriptedModel(["one"])).prompt("x", place=await there.bus.conversation(name))
    other = await there.bus.conversation(result.run_id)
    await other.open(RunContext.root(), "a secret matter")
    answered = await there.ask("GET", f"/runs/{result.run_id}", by=token(f"read:runs:{name}"))
    assert refusal(answered) == (404, "UnknownRun")


async def test_a_trace_leaves_out_what_is_kept_where_the_token_does_not_reach(there: Site, name: str) -> None:
    """A run can have others below it that are kept beside another conversation, with their words and arguments."""
    place, hidden = await there.bus.conversation(name), await there.bus.conversation(f"{name}-hidden")
    above = await Agent("poet", model=ScriptedModel(["one"])).prompt("x", place=place)
    run = RunContext(above.run_id, above.run_id).child()
    await Agent("spy", model=ScriptedModel(["a secret"])).prompt("x", place=hidden, run=run)
    narrow = await there.get(f"/runs/{above.run_id}", by=token(f"read:runs:{name}"))
    assert [child["kind"] for child in narrow["trace"][0]["children"]] == ["trip"]
    assert "secret" not in str(narrow)
    both = await there.get(f"/runs/{above.run_id}", by=token(f"read:runs:{name}", f"read:runs:{name}-hidden"))
    assert [child["kind"] for child in both["trace"][0]["children"]] == ["trip", "run"]
    assert "a secret" in str(both)


async def test_the_trace_of_a_conversation_leaves_out_the_same(there: Site, name: str) -> None:
    place, hidden = await there.bus.conversation(name), await there.bus.conversation(f"{name}-hidden")
    run = RunContext.root()
    await place.open(run, "figs", [Chair(seat=ADA)])
    await Agent("spy", model=ScriptedModel(["a secret"])).prompt("x", place=hidden, run=run.child())
    path = f"/conversations/{name}/trace"
    assert "secret" not in str(await there.get(path, by=token(f"read:runs:{name}")))
    assert "a secret" in str(await there.get(path))


async def test_what_waits_is_listed_and_answered_once(there: Site, name: str) -> None:
    shop = Shop()
    agent, _ = shop.agent(use(("refund", {"amount": 50})), "There you are.")
    place = await there.bus.conversation(name)
    run_id = (await agent.prompt("x", place=place)).run_id
    by = token(f"write:runs:{name}")
    (waiting,) = (await there.get("/pending", by=by))["pending"]
    assert (waiting["run_id"], waiting["interrupts"][0]["arguments"]) == (run_id, {"amount": 50})
    assert "token" not in waiting
    assert (await there.get("/pending", by=token("read:runs:other")))["pending"] == []
    id, path = waiting["interrupts"][0]["id"], f"/runs/{run_id}/answers"
    bad: list[dict[str, Any]] = [
        {"answers": {}},
        {"answers": {"nothing": {"type": "approve"}}},
        {"answers": {id: {"type": "result", "value": 1}}},
        {"answers": {id: {"type": "maybe"}}},
        {"answers": {id: {"type": "edit", "arguments": {"amount": "much"}}}},
        {"answers": {id: {"type": "approve"}}, "token": "of another time"},
    ]
    for body in bad:
        assert refusal(await there.ask("POST", path, body, by=by))[0] == 400
    good = {"answers": {id: {"type": "edit", "arguments": {"amount": 20}}}}
    assert refusal(await there.ask("POST", path, good, by=token(f"read:runs:{name}"))) == (403, "NotAllowed")
    answered = await there.ask("POST", path, good, by=by)
    assert (answered.status_code, answered.json()) == (200, {"goes_on": "nobody"})
    assert refusal(await there.ask("POST", path, good, by=by)) == (409, "AlreadyResumed")
    assert (await go_on(place, run_id, agent=agent)).text == "There you are."
    assert shop.done == [20]


# Streams


async def test_records_are_appended_as_expected_and_read_as_they_were(there: Site, name: str) -> None:
    path = f"/streams/{name}/records"
    first = await there.ask("POST", path, {"json": {"item": "figs"}, "headers": {"Kind": "order"}, "expected": 0})
    assert first.status_code == 201
    position = first.json()["position"]
    late = await there.ask("POST", path, {"json": 1, "expected": 0})
    assert refusal(late) == (409, "Conflict")
    await there.ask("POST", path, {"text": "no JSON, just words", "expected": position})
    raw = base64.b64encode(b"\xff\x00").decode()
    twice = [(await there.ask("POST", path, {"base64": raw, "id": "once"})).json()["position"] for _ in range(2)]
    assert twice[0] == twice[1]
    told = await there.get(path)
    bodies = [{key: row[key] for key in row.keys() & {"json", "text", "base64"}} for row in told["records"]]
    assert bodies == [{"json": {"item": "figs"}}, {"text": "no JSON, just words"}, {"base64": raw}]
    assert told["records"][0]["headers"] == {"Kind": "order"}
    behind = await there.get(f"{path}?after={position}&limit=1")
    assert [row["text"] for row in behind["records"]] == ["no JSON, just words"]
    assert [row["position"] for row in (await there.get(f"{path}?last=1"))["records"]] == [twice[0]]
    assert refusal(await there.ask("GET", f"{path}?last=1&after=1"))[0] == 400
    assert refusal(await there.ask("GET", f"{path}?limit=10001"))[0] == 400
    assert refusal(await there.ask("GET", f"{path}?after=999999999"))[0] == 400
    assert {"stream": name, "records": 3} in (await there.get("/streams"))["streams"]


async def test_a_number_that_json_readers_cannot_hold_is_told_as_text(there: Site, name: str) -> None:
    await (await there.bus.stream(name)).append(b'{"price":1e999}')
    (row,) = (await there.get(f"/streams/{name}/records"))["records"]
    assert {key: row[key] for key in row.keys() & {"json", "text", "base64"}} == {"text": '{"price":1e999}'}


async def test_a_stream_is_followed_on_behind_any_record(there: Site, name: str) -> None:
    """3.2"""
    stream = await there.bus.stream(f"{name}/notes")
    await stream.append_all([{"n": n} for n in range(3)])
    path, got = f"/streams/{name}/notes/events", list[Event]()
    async with there.events(path) as events:
        got += [await anext(events) for _ in range(2)]
    await stream.append_all([{"n": n} for n in range(3, 6)])
    async with there.events(path, after=got[-1].id) as events:
        got += [await anext(events) for _ in range(4)]
        await stream.append({"n": 6})
        got.append(await anext(events))
    assert [event.data["json"]["n"] for event in got] == list(range(7))
    await stream.trim(got[3].id or 0)
    trimmed = await there.ask("GET", path, headers={"last-event-id": str(got[1].id)})
    assert refusal(trimmed) == (410, "Trimmed")


async def test_what_an_entity_consists_of_is_no_stream(there: Site, name: str) -> None:
    """Who could append there could forge what it did, with a right to streams alone."""
    await spawn(there.bus, f"shop/{name}")
    for what in ("mailbox", "entity"):
        for method in ("GET", "POST"):
            refused = await there.ask(method, f"/streams/shop--{name}/{what}/records", {"json": 1})
            assert refusal(refused)[0] == 403
    assert name not in str((await there.get("/streams"))["streams"])
