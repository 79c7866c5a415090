"""Whose job a letter is: nobody gives way to one that may end without having seen it."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from convive.agents import Agent, Answer, Approve, Request, ToolUse, accept_answers, answer, pending, tool
from convive.agents.entities import Context, Entities, Wake, send, signal, spawn, verify_entity
from convive.agents.entities._entity_post import post
from convive.agents.entities._entity_records import EntityName, Letter
from convive.agents.journal._faults import only_crashed
from convive.agents.testing import ScriptedModel
from convive.bus import BusUnavailable, MemoryWorkQueue
from tests.agents.entity_kit import Held, Process, Store, hosting, until

pytestmark = pytest.mark.anyio

NAME = "a/1"


def one(act: Callable[[Context, Wake], Awaitable[None]]) -> Entities:
    entities = Entities()
    entities.define("a")(act)
    return entities


def queue(store: Store) -> MemoryWorkQueue:
    return store.queues["entities-a"]


async def until_jobs(store: Store, count: int) -> None:
    """Until so many jobs wait or are being worked on."""
    while len(queue(store)._entries) != count:  # pyright: ignore[reportPrivateUsage]
        await anyio.lowlevel.checkpoint()


async def until_leases_ran_out(store: Store) -> None:
    while any(job.ready_s > time.monotonic() for job in queue(store)._entries.values()):  # pyright: ignore[reportPrivateUsage]
        await anyio.lowlevel.checkpoint()


class Late(Process):
    """Once `holds`, what it reads of an entity is on its way until another job was taken and had time to end."""

    holds = False

    async def looks_for(self, subject: str) -> None:
        if self.holds and subject.endswith(".snapshot"):
            self.holds = False
            known = len(self.taken)
            while len(self.taken) == known:
                await anyio.lowlevel.checkpoint()
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
        await super().looks_for(subject)


async def test_a_letter_that_comes_while_its_entity_is_read_again_is_not_left_to_that_reading() -> None:
    store = Store()
    process, outside = Late(store, None), store.process().bus

    async def handle(context: Context, wake: Wake) -> None:
        process.holds = wake.kind == "created"

    await spawn(outside, NAME)
    with anyio.fail_after(10):
        async with hosting(process.bus, one(handle), concurrency=2):
            await until(outside, NAME, lambda state: state.wakes == 1)
            while process.holds:
                await anyio.lowlevel.checkpoint()
            await send(outside, NAME, "while it is read")
            await until(outside, NAME, lambda state: state.wakes == 2)


async def test_what_began_a_wake_and_found_its_entity_paused_does_not_keep_that_wake_for_good() -> None:
    """The first host stands still in a handler; its job comes to another one, which finds the entity paused. The first
    one goes on then, with a letter that fails: what it says of its job is not heard."""
    store, begun, may = Store(), anyio.Event(), anyio.Event()
    first, second, outside = store.process(), store.process(), store.process().bus
    first.is_cut_off = True

    async def handle(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            begun.set()
            await may.wait()
        elif wake.attempt == 1 and not failed.is_set():
            failed.set()
            raise RuntimeError("once more")

    failed, entities = anyio.Event(), one(handle)
    await spawn(outside, NAME)
    with anyio.fail_after(15):
        async with hosting(first.bus, entities, concurrency=1):
            await begun.wait()
            await send(outside, NAME, "next")
            await signal(outside, NAME, "pause")
            await until_leases_ran_out(store)
            async with hosting(second.bus, entities, concurrency=1):
                await until_jobs(store, 0)
            await signal(outside, NAME, "resume")
            may.set()
            await until(outside, NAME, lambda state: state.wakes == 2)


async def test_a_job_whose_letter_was_handled_gives_way_to_none_of_a_later_letter() -> None:
    """A message came before its entity was there: its job is about to end. The host that handled the first letter is
    lost then, and its job comes again."""
    store, outside = Store(), Store().process().bus
    outside, early, dies = store.process().bus, Held(store, None), store.process(lives=2)

    async def handle(context: Context, wake: Wake) -> None:
        del context, wake

    entities = one(handle)
    with anyio.fail_after(15):
        await post(outside, EntityName.of(NAME), Letter(kind="message", value="early"), None, None)
        async with hosting(early.bus, entities, concurrency=1):
            await early.ending.wait()
            await spawn(outside, NAME)
            try:
                async with hosting(dies.bus, entities, concurrency=1):
                    await until(outside, NAME, lambda state: state.wakes == 1)
                    await anyio.sleep_forever()
            except BaseException as error:
                if not only_crashed(error):
                    raise
            async with hosting(store.process().bus, entities, concurrency=1):
                await until_jobs(store, 1)
                early.may_end.set()
                await early.ended.wait()
            async with hosting(store.process().bus, entities):
                await until(outside, NAME, lambda state: state.wakes == 2)


async def test_who_ends_a_job_that_was_delivered_before_looks_once_more() -> None:
    """The first host stood still. The second one did its work, and is about to end the job, when the first one begins
    the next wake as that job, and the letter's own job gives way to it. What the first one says then is not heard."""
    store, began, may, began_next, may_fail = Store(), anyio.Event(), anyio.Event(), anyio.Event(), anyio.Event()
    first, second, outside = store.process(), Held(store, None), store.process().bus
    first.is_cut_off = True

    async def handle(context: Context, wake: Wake) -> None:
        if wake.kind == "created" and wake.attempt == 1:
            began.set()
            await may.wait()
        elif wake.kind == "message" and not began_next.is_set():
            began_next.set()
            await may_fail.wait()
            raise RuntimeError("once more")

    entities = one(handle)
    await spawn(outside, NAME)
    with anyio.fail_after(15):
        async with hosting(first.bus, entities, concurrency=1):
            await began.wait()
            async with hosting(second.bus, entities, concurrency=1):
                await second.ending.wait()
                await send(outside, NAME, "next")
                may.set()
                await began_next.wait()
                async with hosting(store.process().bus, entities, concurrency=1):
                    await until_jobs(store, 1)
                second.may_end.set()
                await second.ended.wait()
                may_fail.set()
                await until(outside, NAME, lambda state: state.wakes == 2)


def asking() -> tuple[Entities, list[object]]:
    """Each message is a mail that somebody has to approve."""

    @tool(needs_approval=True)
    async def mail() -> str:
        """Send a mail."""
        return "sent"

    def say(request: Request) -> Answer | str:
        calls = (ToolUse(id="c", name="mail", arguments={}),)
        return Answer(parts=calls, stop_reason="tool_use") if request.messages[-1].text else "done"

    ada, begun = Agent("ada", model=ScriptedModel(say), tools=[mail]), list[object]()

    async def handle(context: Context, wake: Wake) -> None:
        del context
        begun.append(wake.body)
        if wake.body == "mail":
            await ada.prompt("send it")

    return one(handle), begun


async def until_pending(bus: Any) -> tuple[str, dict[str, Any]]:
    """The run that waits, and answers for it."""
    while not (found := await pending(bus)):
        await anyio.lowlevel.checkpoint()
    return found[0].run_id, {each.id: Approve() for each in found[0].interrupts}


async def test_an_answer_reaches_a_wake_whose_job_is_gone() -> None:
    """The job that began it was lost, and that of another letter went on with it."""
    store, (entities, _) = Store(), asking()
    outside = store.process().bus
    await spawn(outside, NAME)
    with anyio.fail_after(15):
        async with hosting(outside, entities):
            await until(outside, NAME, lambda state: state.wakes == 1)
            await until_jobs(store, 0)
        await send(outside, NAME, "mail")
        with suppress(BaseExceptionGroup):
            async with hosting(store.process(lives=1).bus, entities, concurrency=1):
                await anyio.sleep_forever()
        queue(store)._entries.clear()  # pyright: ignore[reportPrivateUsage]
        await send(outside, NAME, "next")
        async with hosting(outside, entities):
            run, answers = await until_pending(outside)
            await until_jobs(store, 0)
            assert (await verify_entity(outside, NAME)).findings == ()
            assert await answer(outside, run, answers) == "worker"
            await until(outside, NAME, lambda state: state.wakes == 3)
            await until_jobs(store, 0)
    assert queue(store)._parked == {}  # pyright: ignore[reportPrivateUsage]


async def test_an_answer_of_which_no_host_was_told_is_found_when_the_next_letter_comes() -> None:
    store, (entities, _) = Store(), asking()
    outside = store.process().bus
    await spawn(outside, NAME)
    await send(outside, NAME, "mail")
    with anyio.fail_after(15):
        async with hosting(outside, entities):
            run, answers = await until_pending(outside)
            await until_jobs(store, 0)
            await accept_answers(outside, run, answers)
            await send(outside, NAME, "next")
            await until(outside, NAME, lambda state: state.wakes == 3)


async def test_a_stop_that_is_broken_off_leaves_no_job_and_no_question_behind() -> None:
    store, (entities, _) = Store(), asking()
    outside = store.process().bus
    await spawn(outside, NAME)
    await send(outside, NAME, "mail")
    with anyio.fail_after(15):
        async with hosting(outside, entities):
            await until_pending(outside)
            await until_jobs(store, 0)
        await signal(outside, NAME, "stop")
        with suppress(BaseExceptionGroup):
            async with hosting(store.process(lives=1).bus, entities, concurrency=1):
                await anyio.sleep_forever()
        async with hosting(outside, entities):
            await until(outside, NAME, lambda state: state.wakes == 2)
            await until_jobs(store, 0)
    assert queue(store)._parked == {}  # pyright: ignore[reportPrivateUsage]
    assert await pending(outside) == []


class Away(Process):
    """Its bus is away once, when a time has come and its letter is to be stored."""

    async def write(self, act: Callable[[], Any]) -> Any:
        if self.written == 5:
            self.written += 1
            raise BusUnavailable("away")
        return await super().write(act)


async def test_a_bus_that_is_away_when_a_time_comes_ends_no_host() -> None:
    store, wakes = Store(), list[str]()
    process = Away(store, None)

    async def handle(context: Context, wake: Wake) -> None:
        wakes.append(wake.kind)
        if wake.kind == "created":
            context.wake_after(0)

    await spawn(store.process().bus, NAME)
    with anyio.fail_after(15):
        async with hosting(process.bus, one(handle), concurrency=1):
            await until(store.process().bus, NAME, lambda state: state.wakes == 2)
    assert wakes == ["created", "due"]
