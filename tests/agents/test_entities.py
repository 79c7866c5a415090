"""Entities: what a handler sees, what its wake comes to, and who hears of it. On both logs."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, Approve, Node, Request, ToolUse, answer, pending, read_trace, tool
from convive.agents.entities import (
    BadEntity,
    BadRow,
    Collection,
    Context,
    Entities,
    EntityOver,
    UnknownEntity,
    Wake,
    find,
    look,
    put,
    send,
    signal,
    spawn,
)
from convive.agents.testing import ScriptedModel
from convive.bus import Bus, memory_bus, mint_run_id, open_bus
from tests.agents.entity_kit import TALLY, Tally, hosting, until

pytestmark = pytest.mark.anyio


class Line(BaseModel):
    who: str
    text: str


LINES = Collection("lines", Line, writable=True)


@pytest.fixture(params=["memory", "jetstream"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    async with memory_bus() if request.param == "memory" else open_bus(nats_url) as bus:
        yield bus


def an_id() -> str:
    """So that tests that share a server share no entity."""
    return f"x-{mint_run_id()[-12:]}"


class Seen:
    """Types whose handlers note every wake."""

    def __init__(self) -> None:
        self.kind = f"t{mint_run_id()[-10:]}"
        self.entities = Entities()
        self.wakes: list[Wake] = []

    def define(self, act: Any = None, **options: Any) -> None:
        async def handle(context: Context, wake: Wake) -> None:
            self.wakes.append(wake)
            if act is not None:
                await act(context, wake)

        self.entities.define(self.kind, collections=[TALLY, LINES], **options)(handle)

    def name(self, id: str = "a") -> str:
        return f"{self.kind}/{id}"


async def count(context: Context, wake: Wake) -> None:
    tally = context.rows(TALLY)
    if wake.kind == "created":
        tally.insert("all", Tally())
    if wake.kind == "message":
        tally.update("all", count=tally["all"].count + 1)


async def test_a_handler_is_woken_for_its_beginning_and_for_each_message_in_order(bus: Bus) -> None:
    seen = Seen()
    seen.define(count)
    await spawn(bus, seen.name(), {"size": 3})
    for number in range(5):
        await send(bus, seen.name(), {"number": number, "nothing": None})
    async with hosting(bus, seen.entities):
        state = await until(bus, seen.name(), lambda state: state.wakes == 6)
    assert [wake.kind for wake in seen.wakes] == ["created"] + ["message"] * 5
    assert [wake.body for wake in seen.wakes[1:]] == [{"number": number, "nothing": None} for number in range(5)]
    assert [wake.number for wake in seen.wakes] == [1, 2, 3, 4, 5, 6]
    assert (state.rows, state.args, state.status) == ({"tally": {"all": {"count": 5}}}, {"size": 3}, "idle")


async def test_an_entity_without_a_host_keeps_what_comes_and_a_later_host_handles_it(bus: Bus) -> None:
    seen = Seen()
    seen.define(count)
    async with hosting(bus, seen.entities):
        await spawn(bus, seen.name())
        await until(bus, seen.name(), lambda state: state.wakes == 1)
    await send(bus, seen.name(), "while nobody is there")
    assert (await look(bus, seen.name())).status == "busy"
    async with hosting(bus, seen.entities):
        await until(bus, seen.name(), lambda state: state.wakes == 2)
    assert seen.wakes[-1].body == "while nobody is there"


async def test_a_message_before_the_beginning_is_told_after_it(bus: Bus) -> None:
    seen, other = Seen(), Seen()

    async def tell(context: Context, wake: Wake) -> None:
        context.send(seen.name(), "early")
        context.finish()

    seen.define()
    other.define(tell)
    async with hosting(bus, other.entities), hosting(bus, seen.entities):
        await spawn(bus, other.name())
        await until(bus, other.name(), lambda state: state.is_over)
        await spawn(bus, seen.name())
        await until(bus, seen.name(), lambda state: state.wakes == 2)
    assert [(wake.kind, wake.sender) for wake in seen.wakes] == [("created", ""), ("message", other.name())]


async def test_nothing_counts_of_a_handler_that_raises_and_all_of_it_when_it_goes_through(bus: Bus) -> None:
    seen = Seen()

    async def stumble(context: Context, wake: Wake) -> None:
        context.rows(TALLY).put("all", Tally(count=wake.attempt))
        context.send(seen.name("b"), wake.attempt)
        if wake.attempt < 3:
            raise RuntimeError("not yet")
        context.finish(wake.attempt)

    seen.define(stumble)
    await spawn(bus, seen.name())
    async with hosting(bus, seen.entities):
        state = await until(bus, seen.name(), lambda state: state.is_over)
        await spawn(bus, seen.name("b"))
        other = await until(bus, seen.name("b"), lambda state: state.wakes >= 1)
    assert [wake.attempt for wake in seen.wakes[:3]] == [1, 2, 3]
    assert (state.rows, state.result, state.errors) == ({"tally": {"all": {"count": 3}}}, 3, [])
    assert [one.letter.value for one in other.waiting if one.letter.kind == "message"] in ([3], [])


async def test_when_the_attempts_are_spent_the_failure_is_kept_and_the_next_letter_comes(bus: Bus) -> None:
    seen, watcher = Seen(), Seen()

    async def fail_once(context: Context, wake: Wake) -> None:
        if wake.body == "bad":
            context.rows(TALLY).put("all", Tally(count=99))
            raise RuntimeError("no use")

    async def watch(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.spawn(seen.name())
            context.send(seen.name(), "bad")
            context.send(seen.name(), "good")

    seen.define(fail_once, max_attempts=2)
    watcher.define(watch)
    await spawn(bus, watcher.name())
    async with hosting(bus, seen.entities), hosting(bus, watcher.entities):
        state = await until(bus, seen.name(), lambda state: state.wakes == 4)  # created, observe, bad, good
        above = await until(bus, watcher.name(), lambda state: state.wakes == 2)
    assert [wake.body for wake in seen.wakes] == [None, "bad", "bad", "good"]
    assert (state.rows, [failure.error for failure in state.errors]) == ({}, ["RuntimeError: no use"])
    assert (watcher.wakes[-1].kind, watcher.wakes[-1].body) == ("failed", {"error": "RuntimeError: no use"})
    assert above.children == {seen.name(): "failed"}


async def test_who_spawned_is_woken_by_the_end_of_each_child(bus: Bus) -> None:
    parent, child = Seen(), Seen()

    async def work(context: Context, wake: Wake) -> None:
        context.finish(int(str(context.args)) ** 2)

    async def gather(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            for number in range(4):
                context.spawn(child.name(f"n{number}"), number)
        elif len(parent.wakes) == 5:
            bodies: list[Any] = [wake.body for wake in parent.wakes[1:]]
            context.finish(sorted(body["result"] for body in bodies))

    parent.define(gather)
    child.define(work)
    await spawn(bus, parent.name())
    async with hosting(bus, parent.entities), hosting(bus, child.entities):
        state = await until(bus, parent.name(), lambda state: state.is_over)
    assert state.result == [0, 1, 4, 9]
    assert [wake.kind for wake in parent.wakes] == ["created"] + ["finished"] * 4


async def test_rows_that_others_may_write_are_shared_and_who_observes_is_told(bus: Bus) -> None:
    room, guest = Seen(), Seen()
    room.entities.define(room.kind, collections=[LINES, TALLY])

    async def talk(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.observe(room.name(), changes=True)
            context.put(room.name(), LINES, context.name, Line(who=context.name, text="hello"))

    guest.define(talk)
    await spawn(bus, room.name())
    async with hosting(bus, room.entities), hosting(bus, guest.entities):
        await spawn(bus, guest.name())
        await until(bus, guest.name(), lambda state: state.wakes == 2)
        await put(bus, room.name(), LINES, "outside", Line(who="mara", text="hi"))
        await put(bus, room.name(), Collection("tally", Tally), "all", Tally())
        await until(bus, guest.name(), lambda state: state.wakes == 3)
        state = await until(bus, room.name(), lambda state: bool(state.errors))
    assert [wake.body for wake in guest.wakes[1:]] == [{"lines": [guest.name()]}, {"lines": ["outside"]}]
    assert [row["text"] for row in state.rows["lines"].values()] == ["hello", "hi"]
    assert "no collection 'tally' that others may write" in state.errors[0].error


async def test_who_observes_no_more_is_not_told(bus: Bus) -> None:
    room, guest = Seen(), Seen()
    room.entities.define(room.kind, collections=[LINES])

    async def listen(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.observe(room.name(), changes=True)
        elif wake.body == "enough":
            context.unobserve(room.name())

    guest.define(listen)
    await spawn(bus, room.name())
    async with hosting(bus, room.entities), hosting(bus, guest.entities):
        await spawn(bus, guest.name())
        assert (await until(bus, room.name(), lambda state: bool(state.observers))).observers == {guest.name(): True}
        await put(bus, room.name(), LINES, "one", Line(who="mara", text="hi"))
        await until(bus, guest.name(), lambda state: state.wakes == 2)
        await send(bus, guest.name(), "enough")
        await until(bus, room.name(), lambda state: not state.observers)
        await put(bus, room.name(), LINES, "two", Line(who="mara", text="ho"))
        state = await until(bus, room.name(), lambda state: len(state.rows["lines"]) == 2)
    assert state.last is not None
    assert state.last.letters == ()
    assert [(wake.kind, wake.body) for wake in guest.wakes[1:]] == [
        ("changed", {"lines": ["one"]}),
        ("message", "enough"),
    ]


async def test_a_time_that_is_set_wakes_once_and_one_that_is_called_off_does_not(bus: Bus) -> None:
    seen = Seen()

    async def clock(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.wake_after(0.05, "first", id="tick")
            context.wake_after(0.15, "replaced", id="tick")
            context.cancel(context.wake_after(0.05, "never"))
        else:
            context.finish()

    seen.define(clock)
    await spawn(bus, seen.name())
    async with hosting(bus, seen.entities):
        state = await until(bus, seen.name(), lambda state: state.is_over)
    assert [(wake.kind, wake.body) for wake in seen.wakes[1:]] == [("due", "replaced")]
    assert state.timers == {}


async def test_pause_resume_and_stop(bus: Bus) -> None:
    seen = Seen()
    seen.define()
    await spawn(bus, seen.name())
    async with hosting(bus, seen.entities):
        await until(bus, seen.name(), lambda state: state.wakes == 1)
        await signal(bus, seen.name(), "pause")
        await send(bus, seen.name(), "later")
        assert (await look(bus, seen.name())).status == "paused"
        await signal(bus, seen.name(), "resume")
        await until(bus, seen.name(), lambda state: state.wakes == 2)
        await signal(bus, seen.name(), "stop")
        await until(bus, seen.name(), lambda state: state.wakes == 3)
        with pytest.raises(EntityOver, match="is stopped"):
            await send(bus, seen.name(), "too late")
    assert [wake.body for wake in seen.wakes] == [None, "later"]


async def test_agents_in_a_handler_are_of_its_trace_whoever_sent_the_letter(bus: Bus) -> None:
    first, second = Seen(), Seen()
    model = ScriptedModel(lambda request: f"heard {request.messages[-1].text}")

    async def ask(context: Context, wake: Wake) -> None:
        context.spawn(second.name(), (await Agent("ada", model=model).prompt("figs")).text, observe=False)
        context.finish(context.run.run_id)

    async def reply(context: Context, wake: Wake) -> None:
        context.finish((await Agent("bob", model=model).prompt(str(context.args))).text)

    first.define(ask)
    second.define(reply)
    await spawn(bus, first.name())
    async with hosting(bus, first.entities), hosting(bus, second.entities):
        root = (await until(bus, first.name(), lambda state: state.is_over)).result
        result = (await until(bus, second.name(), lambda state: state.is_over)).result
        assert result == "heard heard figs"
        with anyio.fail_after(10):
            trace = await read_trace(bus, str(root))
            while not trace.is_over:
                trace = await read_trace(bus, str(root))

    def tree(node: Node) -> Any:
        return {node.name: [tree(child) for child in node.children if child.kind == "run"]}

    assert [tree(node) for node in trace.roots] == [
        {first.name(): [{"ada": []}, {second.name(): [{"bob": []}]}]},
    ]


async def test_a_wake_waits_for_an_approval_and_goes_on_with_any_host(bus: Bus) -> None:
    seen, sent = Seen(), list[str]()

    @tool(needs_approval=True)
    async def mail(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return "sent"

    def script(request: Request) -> Answer | str:
        call = Answer(parts=(ToolUse(id="c", name="mail", arguments={"to": "ada"}),), stop_reason="tool_use")
        return call if request.messages[-1].text else "It is sent."

    clerk = Agent("clerk", model=ScriptedModel(script), tools=[mail])

    async def act(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            context.finish((await clerk.prompt("write")).text)

    seen.define(act)
    await spawn(bus, seen.name())
    async with hosting(bus, seen.entities):
        with anyio.fail_after(10):
            while not (waiting := [each for each in await pending(bus) if each.agent == seen.name()]):
                await anyio.lowlevel.checkpoint()
    assert ([each.tool for each in waiting[0].interrupts], sent) == (["mail"], [])
    async with hosting(bus, seen.entities):
        assert await answer(bus, waiting[0].run_id, {waiting[0].interrupts[0].id: Approve()}) == "worker"
        state = await until(bus, seen.name(), lambda state: state.is_over)
    assert (state.result, sent, len(seen.wakes)) == ("It is sent.", ["ada"], 2)


async def test_what_is_no_entity_is_told_of_with_one_that_is_near(bus: Bus) -> None:
    for text in ("counter", "Counter/1", "a/b/c", "a--b/c", "/", f"{'x' * 41}/1", f"a/{'x' * 63}"):
        with pytest.raises(BadEntity, match="is not the name of an entity"):
            await spawn(bus, text)
    own = f"{an_id()}/ada"
    await spawn(bus, own)
    for act in (look(bus, own[:-1]), send(bus, own[:-1], 1), signal(bus, own[:-1], "stop")):
        with pytest.raises(UnknownEntity, match=f"Near: {own}"):
            await act
    assert [state.name for state in await find(bus, own.split("/")[0])] == [own]


async def test_an_entity_was_not_there_before_it_was_spawned() -> None:
    async with memory_bus(partitions=1) as bus:
        await spawn(bus, "a/1")
        await spawn(bus, "a/2")
        assert (await look(bus, "a/2", until=2)).name == "a/2"
        with pytest.raises(UnknownEntity, match="there was no entity a/2 yet at 1: it was spawned later"):
            await look(bus, "a/2", until=1)
        with pytest.raises(UnknownEntity, match=r"there is no entity a/3\. Near: a/"):
            await look(bus, "a/3", until=1)


def test_rows_that_do_not_fit_are_refused() -> None:
    entities = Entities()
    entities.define("room")
    with pytest.raises(ValueError, match="already"):
        entities.define("room")
    with pytest.raises(BadRow, match="no Tally"):
        TALLY.read("k", {"count": "many"})
    with pytest.raises(BadRow, match="not a key"):
        TALLY.change("", Tally())
