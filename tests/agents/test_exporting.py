"""Live export: what happens arrives while it happens, and whatever a collector does, nobody feels it."""

import time
from collections.abc import AsyncGenerator, Mapping

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Place,
    Plan,
    export_trace,
    exporting,
    host_seats,
    place_of,
    queued,
    supervise,
    tool,
    work,
)
from convive.agents.testing import OtlpReceiver, otlp_receiver
from convive.bus import Bus, Chair, Conversation, MemoryLog, RunContext, SeatName, memory_bus
from nested import guest, helper, once

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


async def opened(bus: Bus, run: RunContext, name: str = "evening") -> Conversation:
    conversation = await bus.conversation(name)
    await conversation.open(run, "why", [Chair(seat=ADA)])
    return conversation


async def hold(conversation: Conversation, run: RunContext, turns: int) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, {ADA: AgentSeat(guest)})
        tasks.start_soon(supervise, conversation, Plan(turns, opens=False, toasts=False), run)


async def test_what_arrives_live_is_what_is_sent_afterwards(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        await hold(conversation, run, 3)
    live = {span.span_id: span for span in receiver.spans}
    assert len(receiver.spans) == len(live) == 1 + 3 * 9
    await export_trace(bus, "evening", receiver.environ)
    assert {span.span_id: span for span in receiver.spans[len(live) :]} == live


async def test_spans_arrive_while_the_party_goes_on(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        floor = await conversation.floor()
        await conversation.grant(floor, ADA, run.child(), time.time() + 60)
        floor = await conversation.floor()
        assert floor.open_grant is not None
        turn = run.child(floor.open_grant.grant.run_id)
        await conversation.pass_on(floor, floor.open_grant, turn, "")
        await receiver.until(lambda there: [span.name for span in there.spans] == ["turn 1 ada"])


async def test_metrics_are_counted_once_and_sent_at_the_end(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        await hold(conversation, run, 2)
    points = {
        (point.name, point.attributes.get("gen_ai.token.type") or point.attributes.get("gen_ai.operation.name")): point
        for point in receiver.points
    }
    assert points["gen_ai.client.token.usage", "input"].total == 2 * 2 * 10
    assert points["gen_ai.client.token.usage", "output"].total == 2 * 2 * 3
    assert points["gen_ai.client.token.usage", "input"].unit == "{token}"
    assert points["gen_ai.client.operation.duration", "chat"].count == 2 * 4
    (overhead,) = (point for point in receiver.points if point.name == "convive.turn.overhead")
    assert (overhead.count, overhead.attributes["convive.seat"]) == (2, "ada")
    assert 0 < overhead.total < 10
    before = len(receiver.points)
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        pass  # what was there before is sent again, and not counted again
    assert len(receiver.points) == before
    assert len(receiver.spans) == 2 * (1 + 2 * 9)


async def test_a_backend_that_takes_no_metrics_is_no_trouble(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    receiver.answers.extend([200, 404])
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        await hold(conversation, run, 1)
    assert receiver.asked == 2
    assert not receiver.points


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
    ],
)
async def test_without_an_endpoint_nothing_is_exported(bus: Bus, environ: Mapping[str, str]) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    async with exporting(conversation, environ=environ, warn=pytest.fail):
        await hold(conversation, run, 1)


@pytest.mark.parametrize("trouble", ["dead", "hangs", "401", "500", "503"])
async def test_a_collector_in_trouble_costs_one_warning_and_no_time(
    bus: Bus, receiver: OtlpReceiver, trouble: str
) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    environ = receiver.environ
    if trouble == "dead":
        with otlp_receiver() as gone:
            environ = gone.environ
    elif trouble == "hangs":
        receiver.hang()
    else:
        receiver.answers.extend([int(trouble)] * 1_000)
    told: list[str] = []
    async with exporting(conversation, environ=environ, warn=told.append):
        await hold(conversation, run, 3)
        ended = time.monotonic()
    assert time.monotonic() - ended < 5
    assert (await conversation.floor()).said_turns == 3
    (warning,) = told
    assert "convive trace evening --export otlp" in warning
    assert "in time" in warning if trouble in ("hangs", "503") else "/v1/" in warning
    with otlp_receiver() as later:
        assert (await export_trace(bus, "evening", later.environ)).spans == 1 + 3 * 9


async def test_an_endpoint_that_cannot_be_costs_one_warning(bus: Bus) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    told: list[str] = []
    async with exporting(conversation, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost"}, warn=told.append):
        await hold(conversation, run, 1)
    (warning,) = told
    assert "is not the URL of a collector" in warning


async def test_what_was_refused_for_a_moment_is_sent_again(bus: Bus, receiver: OtlpReceiver) -> None:
    """A 500 is not tried again by the exporter itself."""
    run = RunContext.root()
    conversation = await opened(bus, run)
    receiver.answers.append(500)
    told: list[str] = []
    async with exporting(conversation, environ=receiver.environ, warn=told.append):
        await hold(conversation, run, 1)
        await receiver.until(lambda there: len(there.spans) == 10)
    assert len(told) == 1


async def test_the_error_of_the_block_comes_out_as_it_is(bus: Bus, receiver: OtlpReceiver) -> None:
    conversation = await opened(bus, RunContext.root())
    with pytest.raises(ZeroDivisionError):
        async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
            raise ZeroDivisionError


async def test_a_party_that_is_cancelled_still_sends_what_was_over(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    with anyio.CancelScope() as scope:
        async with (
            exporting(conversation, environ=receiver.environ, warn=pytest.fail),
            anyio.create_task_group() as tasks,
            conversation.follow() as tail,
        ):
            tasks.start_soon(hold, conversation, run, 1_000)
            async for record in tail:
                if b'"type":"said"' in record.body:
                    scope.cancel()
    assert scope.cancelled_caught
    assert "turn 1 ada" in [span.name for span in receiver.spans]


async def test_runs_at_a_place_of_their_own_arrive_from_now_on(receiver: OtlpReceiver) -> None:
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    await helper.prompt("before", place=place)
    async with exporting(place, environ=receiver.environ, warn=pytest.fail):
        run = await helper.prompt("go", place=place)
    assert len(receiver.spans) == 4
    assert {span.trace_id for span in receiver.spans} == {run.run_id}


async def test_a_run_that_began_before_arrives_whole(receiver: OtlpReceiver) -> None:
    place, run = Place(MemoryLog(), "cv.00.desk", live=False), RunContext.root()
    reached = anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        reached.set()
        await anyio.sleep_forever()
        return ""

    async with anyio.create_task_group() as tasks:

        async def begin() -> None:
            await Agent("slow", model=once("wait"), tools=[wait]).execute("go", run=run, place=place, on_cancel="leave")

        tasks.start_soon(begin)
        await reached.wait()
        tasks.cancel_scope.cancel()

    @tool(name="wait")
    async def no_wait() -> str:
        """Wait."""
        return ""

    async with exporting(place, environ=receiver.environ, warn=pytest.fail):
        await Agent("slow", model=once("wait"), tools=[no_wait]).prompt("go", run=run, place=place)
    names = sorted(span.name for span in receiver.spans)
    assert names == ["attempt 1", "attempt 2", "chat test", "chat test", "execute_tool wait", "invoke_agent slow"]


async def test_two_workers_of_a_queue_export_each_run_once(bus: Bus, receiver: OtlpReceiver) -> None:
    """Also a run that another run queues, whoever carries it out."""

    @tool
    async def pass_on() -> str:
        """Pass on."""
        return (await queued("helper", "go").send()).run_id

    boss = Agent("boss", model=once("pass_on"), tools=[pass_on])
    place = await place_of(bus, "default")

    async def keep_working() -> None:
        async with exporting(place, only_taken=True, environ=receiver.environ, warn=pytest.fail) as export:
            await work(bus, {"boss": boss, "helper": helper}, begun=export.take)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_working)
        tasks.start_soon(keep_working)
        for _ in range(4):
            await queued("boss", "go").send(bus)
        await receiver.until(lambda there: len({span.span_id for span in there.spans}) == 8 * 4)
        tasks.cancel_scope.cancel()
    assert len(receiver.spans) == 8 * 4
    known = {span.span_id for span in receiver.spans}
    assert all(not span.parent_id or span.parent_id in known for span in receiver.spans)
    assert len({span.trace_id for span in receiver.spans}) == 4
