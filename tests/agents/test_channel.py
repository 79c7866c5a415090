"""Channels (G56, G57): queued runs that are followed by whoever does not know them."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import nats
import pytest

from convive.agents import Agent, Answer, QueuedRun, RunUpdate, ToolUse, client_tool, follow_channel, queued, tool, work
from convive.agents.queues._channel import RunBegun, announce, announcements, channel_space
from convive.agents.queues._queue import place_of
from convive.agents.testing import ScriptedModel
from convive.bus import BadName, BadRecord, Bus, BusUnavailable, Draft, RunContext, RunId, memory_bus, open_bus
from convive.bus.testing import server

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def working(bus: Bus, queue: str, *agents: Agent) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        given: dict[str, Any] = {"queue": queue, "retry_s": 0.05, "lease_s": 1.0}
        tasks.start_soon(lambda: work(bus, {agent.name: agent for agent in agents}, **given))
        yield
        tasks.cancel_scope.cancel()


async def heard(bus: Bus, channel: str, until: Callable[[list[RunUpdate]], bool], **options: Any) -> list[RunUpdate]:
    """What a follower is told up to a certain moment."""
    told: list[RunUpdate] = []
    with anyio.fail_after(20):
        async with follow_channel(bus, channel, **options) as updates:
            async for update in updates:
                told.append(update)
                if until(told):
                    break
    return told


def outcomes(count: int) -> Callable[[list[RunUpdate]], bool]:
    return lambda told: sum(not update.name.endswith("chunk") for update in told) == count


def lasting(told: list[RunUpdate], run: RunId) -> list[tuple[str, int]]:
    """The updates of a run that are there for good."""
    return [(each.name, each.seq) for each in told if each.run_id == run and each.data["type"] not in ("delta", "end")]


def echo() -> Agent:
    return Agent("echo", model=ScriptedModel(lambda request: f"heard: {request.messages[-1].text}"))


async def test_followers_early_and_late_are_told_the_same_of_all_runs_of_a_channel(bus: Bus, name: str) -> None:
    """G56, G57: chunks, then `done` or `error` once a run, with the prefix that its sender chose; other runs are not
    there."""
    channel = f"user.{name}.support"
    told: dict[str, list[RunUpdate]] = {}
    runs: dict[str, RunId] = {}

    async def listen(who: str) -> None:
        told[who] = await heard(bus, channel, outcomes(3))

    async def send(agent: str, input: str, **options: Any) -> QueuedRun:
        run = await queued(agent, input, queue=name, max_attempts=1, **options).send(bus)
        runs[input] = run.run_id
        return run

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen, "early")
        tasks.start_soon(listen, "also early")
        await send("echo", "one", channel=channel)
        async with working(bus, name, echo()):
            await send("echo", "two", channel=channel, event_prefix="agent.")
            await send("nobody", "lost", channel=channel)
            await send("echo", "elsewhere", channel=f"user.{name}")
            await (await send("echo", "alone")).result()
            await listen("late")
    for input, ending in (("one", "done"), ("two", "agent.done"), ("lost", "error")):
        early, too, late = (lasting(told[who], runs[input]) for who in ("early", "also early", "late"))
        assert early == too == late
        assert late[-1][0] == ending
    assert {each.run_id for updates in told.values() for each in updates} == {
        runs[each] for each in ("one", "two", "lost")
    }
    assert {each.name for each in told["early"] if each.run_id == runs["two"]} == {"agent.chunk", "agent.done"}
    texts = {each.run_id: each.data.get("text") for each in told["late"] if each.name.endswith("done")}
    assert texts == {runs["one"]: "heard: one", runs["two"]: "heard: two"}


async def test_a_follower_goes_on_behind_what_it_has_seen(bus: Bus, name: str) -> None:
    """G56: a user interface that was away; and one that wants no old runs."""
    first = await queued("echo", "one", queue=name, channel=name).send(bus)
    async with working(bus, name, echo()):
        told = await heard(bus, name, outcomes(1))
        now_s = time.time()
        second = await queued("echo", "two", queue=name, channel=name).send(bus)
        half, whole = told[1].seq, told[-1].seq
        again = await heard(bus, name, outcomes(2), seen={first.run_id: half})
        rest = await heard(bus, name, outcomes(1), seen={first.run_id: whole})
        new = await heard(bus, name, outcomes(1), since_s=now_s)
    assert lasting(again, first.run_id) == [each for each in lasting(told, first.run_id) if each[1] > half]
    assert {each.run_id for each in rest} == {each.run_id for each in new} == {second.run_id}


async def test_what_runs_below_is_not_told_and_a_run_that_waits_holds_nothing_up(bus: Bus, name: str) -> None:
    """G58: `paused`, while other runs of the channel are told on."""
    inner = echo()

    @tool
    async def ask() -> str:
        """Ask another one."""
        return (await inner.prompt("inside")).text

    calls = tuple(ToolUse(id=each, name=each, arguments={}) for each in ("ask", "pick"))
    lead = Agent(
        "lead",
        model=ScriptedModel([Answer(parts=calls, stop_reason="tool_use")]),
        tools=[ask, client_tool("pick", "Pick a file.")],
    )
    async with working(bus, name, lead, echo()):
        waits = await queued("lead", "go", queue=name, channel=name).send(bus)
        await waits.result()
        runs = await queued("echo", "x", queue=name, channel=name).send(bus)
        told = await heard(bus, name, outcomes(2))
    assert Counter(each.name for each in told if each.name != "chunk") == {"paused": 1, "done": 1}
    assert {each.run_id for each in told} == {waits.run_id, runs.run_id}


async def test_a_run_that_is_announced_again_is_told_once(bus: Bus, name: str) -> None:
    """As by a worker that takes the run over long after: the log has forgotten the id by then."""
    run = await queued("echo", "one", queue=name, channel=name).send(bus)
    space = await bus.conversation(channel_space(name))
    body = RunBegun(space=f"queue-{name}").body()
    for _ in range(2):
        await space.log.append(Draft(announcements(space), body, run.run.headers()))
    async with working(bus, name, echo()):
        await run.result()
        other = await queued("echo", "two", queue=name, channel=name).send(bus)
        told = await heard(
            bus, name, lambda told: [each.name for each in told if each.run_id == other.run_id][-1:] == ["done"]
        )
    assert [each.name for each in told if each.run_id == run.run_id].count("done") == 1


@pytest.mark.parametrize(
    ("channel", "meant"),
    [
        ("", None),
        ("User.42", "user.42"),
        ("user..42", "user.42"),
        ("user_42", "user-42"),
        ("a--b", "a-b"),
        ("a-.b", "a.b"),
        ("user.*", "user"),
        ("x" * 56, None),
        ("x\ny", "x-y"),
    ],
)
async def test_what_is_no_channel_is_refused_and_nothing_is_sent(channel: str, meant: str | None) -> None:
    async with memory_bus() as bus:
        run = RunContext.root()
        with pytest.raises(BadName, match="is not a channel") as error:
            await queued("echo", "x", channel=channel, run=run).send(bus)
        assert (f"Did you mean {meant!r}?" in str(error.value)) is (meant is not None)
        assert await (await bus.work_queue()).waiting(run.run_id) is None
        with pytest.raises(BadName):
            async with follow_channel(bus, channel):
                pass


def test_two_channels_are_never_one() -> None:
    spaces = [channel_space(channel) for channel in ("a.b", "a-b", "ab", "a.b.c", "a.b-c", "a-b.c", "x" * 55)]
    assert len(set(spaces)) == len(spaces)


async def test_a_damaged_record_ends_the_iteration_with_an_error(bus: Bus, name: str) -> None:
    space = await bus.conversation(channel_space(name))
    await space.log.append(Draft(announcements(space), b"{}", RunContext.root().headers()))
    with pytest.raises(BadRecord, match="not a record of a channel"):
        await heard(bus, name, outcomes(1))


@pytest.mark.parametrize("lost", ["channel", "journal"])
async def test_a_log_that_is_gone_for_good_ends_the_iteration_with_an_error(lost: str) -> None:
    async with server() as own, open_bus(own.url, patience_s=0.5) as bus, await nats.connect(own.url) as admin:
        run, place, space = (
            RunContext.root(),
            await place_of(bus, "default"),
            await bus.conversation(channel_space("a.b")),
        )
        await announce(bus, "a.b", run, place)
        await place.log.append(Draft(place.journal(run), b'{"type":"run_started"}', run.headers()))
        gone = (space.subjects.base if lost == "channel" else place.base).split(".")[1]

        async def follow() -> None:
            async with follow_channel(bus, "a.b") as updates:
                async for _ in updates:
                    await admin.jetstream().delete_stream(f"CONVIVE_{gone}")

        with anyio.fail_after(20), pytest.raises(BusUnavailable, match="stream not found"):
            await follow()


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async def block() -> None:
        async with memory_bus() as bus, follow_channel(bus, "a.b"):
            raise KeyError

    with pytest.raises(KeyError):
        await block()
