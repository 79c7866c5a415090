"""Conversations over HTTP: read, followed, gone on with after a connection was lost, and a visitor's word."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from convive.agents import Plan, host_seats, supervise
from convive.agents.http import app
from convive.agents.http._events import Events
from convive.bus import HOST, Chair, Conversation, Draft, Noted, RunContext, SeatName, mint_run_id, open_bus
from convive.bus.jetstream._connect import Connection, connect
from convive.bus.jetstream._jetstream import JetStreamLog
from convive.bus.testing import server
from tests.agents.http_kit import DEADLINE_S, TOKENS, Event, Site, refusal, site, token, until
from tests.agents.seats import ADA, BOB, Acting, grant, opened, speak
from tests.agents.serving import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def there(nats_url: str) -> AsyncGenerator[Site]:
    """A bus on a real server, served by a real uvicorn."""
    async with open_bus(nats_url) as bus, site(bus) as made:
        yield made


async def said(conversation: Conversation, text: str, seat: SeatName = ADA) -> int:
    """A turn of that seat, in which it says that."""
    held = await grant(conversation, seat)
    return await conversation.say(await conversation.floor(), held, text, RunContext.root())


async def close(conversation: Conversation) -> int:
    return await conversation.close(await conversation.floor(), RunContext.root(), "enough")


async def test_a_conversation_is_told_as_it_stands_with_what_was_said(there: Site) -> None:
    conversation = await opened(there.bus)
    seq = await said(conversation, "Figs, <b>first</b>.")
    await grant(conversation, BOB)
    told = await there.get(f"/conversations/{conversation.id}")
    assert (told["state"], told["speaking"], told["turn"], told["topic"]) == ("open", "bob", 2, "figs")
    assert [chair["seat"] for chair in told["seats"]] == ["ada", "bob"]
    assert [event["type"] for event in told["events"]] == ["opened", "granted", "said", "granted"]
    assert told["events"][2]["text"] == "Figs, <b>first</b>."
    assert (await there.get(f"/conversations/{conversation.id}?limit=1"))["more"]
    behind = await there.get(f"/conversations/{conversation.id}?after={seq}")
    assert [event["type"] for event in behind["events"]] == ["granted"]
    first = await there.get(f"/conversations/{conversation.id}?after=0&limit=1")
    assert ([event["type"] for event in first["events"]], first["more"]) == (["opened"], True)
    rows = (await there.get("/conversations"))["conversations"]
    assert {"conversation": conversation.id, "speaking": "bob"}.items() <= next(
        row for row in rows if row["conversation"] == conversation.id
    ).items()


async def test_who_lost_the_connection_misses_nothing_and_sees_nothing_twice(there: Site) -> None:
    """3.2: wherever the connection breaks, by the header of a browser and by the parameter of others"""
    conversation = await opened(there.bus)
    await said(conversation, "one")
    await conversation.aside(BOB, Noted(text="a bird comes in"), RunContext.root())
    await said(conversation, "two\nlines", BOB)
    path = f"/conversations/{conversation.id}/events"
    async with there.events(path) as events:
        whole = (await until(events, "caught_up"))[:-1]
    assert [event.type for event in whole] == ["opened", "granted", "said", "noted", "granted", "said"]
    assert [event.id for event in whole] == sorted(event.id for event in whole if event.id)
    for number, broken in enumerate(whole, 1):
        async with there.events(path, after=broken.id) as events:
            assert (await until(events, "caught_up"))[:-1] == whole[number:]
        async with there.events(f"{path}?after={broken.id}") as events:
            assert (await until(events, "caught_up"))[:-1] == whole[number:]


async def test_a_party_is_heard_live_by_two_readers_of_whom_one_loses_the_connection_again_and_again(
    there: Site,
) -> None:
    conversation = await there.bus.conversation(f"party-{mint_run_id()}")
    run = RunContext.root()
    await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    path = f"/conversations/{conversation.id}/events"
    heard: dict[str, list[Event]] = {"steady": [], "broken": []}

    async def steady() -> None:
        async with there.events(path) as events:
            heard["steady"] += [event async for event in events if event.type != "caught_up"]

    async def broken() -> None:
        last: int | None = None
        while not heard["broken"] or heard["broken"][-1].type != "closed":
            async with there.events(path, after=last) as events:
                async for event in events:
                    if event.id is not None:
                        heard["broken"].append(event)
                        last = event.id
                        break  # and this ends the connection

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady)
            tasks.start_soon(broken)
            hosting = anyio.CancelScope()

            async def host() -> None:
                with hosting:
                    await host_seats(conversation, {ADA: Acting(speak), BOB: Acting(speak)})

            tasks.start_soon(host)
            await supervise(conversation, Plan(turns=4, opens=False, toasts=False), run)
            hosting.cancel()
    assert heard["steady"] == heard["broken"]
    words = [event.data["text"] for event in heard["steady"] if event.type == "said"]
    assert len(words) == 4
    last = heard["steady"][-1]
    assert last.type == "closed"
    again = await there.ask("GET", path, headers={"last-event-id": str(last.id)})
    assert (again.status_code, again.content) == (204, b"")  # an EventSource connects no more


async def test_what_is_being_said_is_heard_piece_by_piece_but_nothing_of_other_runs(there: Site) -> None:
    conversation = await opened(there.bus)
    held = await grant(conversation)
    own, other = held.grant.run_id, mint_run_id()

    async def piece(run: str, text: str, offset: int) -> None:
        body = f'{{"type":"delta","trip":0,"attempt":1,"offset":{offset},"text":"{text}"}}'
        await conversation.log.append(Draft(f"{conversation.subjects.base}.live.{own}.{run}", body.encode(), ttl_s=60))

    async with there.events(f"/conversations/{conversation.id}/events") as events:
        await until(events, "caught_up")
        await piece(own, "Figs ", 0)
        await piece(other, "what she really thinks", 0)
        await piece(own, "first", 5)
        await conversation.say(await conversation.floor(), held, "Figs first", RunContext.root())
        told = await until(events, "said")
    assert [(event.type, event.data["text"]) for event in told] == [
        ("text", "Figs "),
        ("text", "first"),
        ("said", "Figs first"),
    ]
    assert told[0].data["seat"] == ADA


async def test_what_breaks_the_protocol_is_told_as_that_and_never_as_somebodys_words(there: Site) -> None:
    conversation = await opened(there.bus)
    forged = b'{"schema":1,"type":"said","link":1,"turn":1,"run_id":"' + b"a" * 32 + b'","text":"I am Ada"}'
    await conversation.log.append(Draft(conversation.subjects.link(ADA), forged))
    await conversation.log.append(Draft(conversation.subjects.link(HOST), b"\xff\x00 no json"))
    async with there.events(f"/conversations/{conversation.id}/events") as events:
        told = (await until(events, "caught_up"))[:-1]
    assert [event.type for event in told] == ["opened", "damaged", "damaged"]
    assert "I am Ada" not in str(told)


async def test_settings_and_memories_of_the_guests_are_not_told(there: Site) -> None:
    conversation = await there.bus.conversation(f"party-{mint_run_id()}")
    await conversation.open(RunContext.root(), "figs", [Chair(seat=ADA)], {"intention": "win the bet"})
    told = await there.ask("GET", f"/conversations/{conversation.id}")
    assert "win the bet" not in told.text


async def test_a_visitor_is_heard_and_refused_in_the_words_of_the_command_line(there: Site) -> None:
    conversation = await opened(there.bus)
    path = f"/conversations/{conversation.id}/sayings"
    async with there.events(f"/conversations/{conversation.id}/events") as events:
        await until(events, "caught_up")
        answered = await there.ask("POST", path, {"as": "Mara", "text": "A book,  or a painting?"})
        assert answered.status_code == 201
        told = (await until(events, "interjected"))[-1]
    assert (told.id, told.data["seat"], told.data["text"]) == (answered.json()["seq"], "mara", "A book, or a painting?")
    for body, why in (
        ({"as": "ada", "text": "x"}, "ada sits at the table"),
        ({"as": "host", "text": "x"}, "supervisor's own name"),
        ({"as": "Mara", "text": "  "}, "between 1 and 20000"),
        ({"as": "Mara", "text": "x" * 20_001}, "between 1 and 20000"),
        ({"as": "!!", "text": "x"}, "is not a seat name"),
        ({"as": "Mara"}, "text: Field required"),
        ({"as": "Mara", "text": "x", "seat": "ada"}, "seat: Extra inputs"),
    ):
        refused = await there.ask("POST", path, body)
        assert refusal(refused)[0] == 400
        assert why in refused.json()["detail"]
    await close(conversation)
    assert refusal(await there.ask("POST", path, {"as": "Mara", "text": "x"})) == (409, "Closed")


async def test_a_place_that_was_never_handed_out_is_refused_and_not_waited_for(there: Site) -> None:
    conversation = await opened(there.bus)
    path = f"/conversations/{conversation.id}/events"
    for place in ("999999999", "-1", "x", "1e3", "", "٣", "9" * 400):
        refused = await there.ask("GET", path, headers={"last-event-id": place.encode()})
        assert refusal(refused) == (400, "Refused")
    unknown = await there.ask("GET", "/conversations/nowhere-at-all/events")
    assert refusal(unknown) == (404, "UnknownConversation")


async def test_a_reader_that_leaves_leaves_no_task_and_no_consumer_behind() -> None:
    """Also when nothing is said: the server hears of it by the connection alone."""
    ended = anyio.Event()
    async with server() as own, open_bus(own.url) as bus, connect(own.url) as connection:
        inner = app(bus, TOKENS)

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            await inner(scope, receive, send)
            if scope["path"].endswith("/events"):
                ended.set()

        conversation = await opened(bus)
        async with serving(watched) as url, httpx2.AsyncClient() as client:
            here = Site(bus, url, client)
            await here.get(f"/conversations/{conversation.id}")
            assert isinstance(conversation.log, JetStreamLog)
            asking = f"CONSUMER.NAMES.{conversation.log._stream}"
            with anyio.fail_after(DEADLINE_S):
                while await _named(connection, asking):  # of what was read until here
                    pass
            before = _tasks()
            async with here.events(f"/conversations/{conversation.id}/events") as events:
                await until(events, "caught_up")
                assert _tasks() - before
                assert len(await _named(connection, asking)) == 1
            with anyio.fail_after(DEADLINE_S):
                await ended.wait()
                while await _named(connection, asking) or _tasks() - before:
                    pass


async def _named(connection: Connection, asking: str) -> list[str]:
    return (await connection.api(asking))["consumers"] or []


def _tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if not task.done()}


async def test_what_goes_on_ends_when_its_token_does(there: Site) -> None:
    conversation = await opened(there.bus)
    brief = token("read:*", for_s=3)
    async with there.events(f"/conversations/{conversation.id}/events", by=brief) as events:
        assert [event.type async for event in events] == ["opened", "caught_up"]
    assert refusal(await there.ask("GET", "/conversations", by=brief)) == (401, "BadToken")


async def test_a_reader_that_takes_nothing_is_left_and_what_was_opened_for_it_is_closed() -> None:
    closed, sent = anyio.Event(), list[Message]()

    async def lines() -> AsyncGenerator[bytes]:
        while True:
            yield b"data: x\n\n"

    @asynccontextmanager
    async def opening() -> AsyncGenerator[AsyncIterator[bytes]]:
        try:
            async with aclosing(lines()) as made:
                yield made
        finally:
            closed.set()

    async def send(message: Message) -> None:
        if len(sent) == 3:
            await anyio.sleep_forever()  # the connection takes no more
        sent.append(message)

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(5):
        await Events(opening, time.time() + 60, send_s=0.05)({"type": "http", "method": "GET"}, receive, send)
    assert closed.is_set()
    assert [message["type"] for message in sent[1:]] == ["http.response.body"] * 2


async def test_a_reader_that_takes_nothing_is_left_as_well_when_its_token_ends() -> None:
    """The end is something to be sent, too."""
    sent = list[Message]()

    @asynccontextmanager
    async def opening() -> AsyncGenerator[AsyncIterator[bytes]]:
        yield nothing()

    async def nothing() -> AsyncGenerator[bytes]:
        await anyio.sleep_forever()
        yield b""

    async def send(message: Message) -> None:
        if sent:
            await anyio.sleep_forever()  # the connection takes no more
        sent.append(message)

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(5):
        await Events(opening, time.time() + 0.05, send_s=0.05)({"type": "http", "method": "GET"}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
