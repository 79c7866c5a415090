"""What a collector is told in numbers that no span holds: first words, appends, links that came too late."""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Model,
    ModelAnswerBroken,
    Place,
    Plan,
    Request,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolUse,
    export_trace,
    exporting,
    host_seats,
    place_of,
    queued,
    read_trace,
    supervise,
    tool,
)
from convive.agents.entities import Context, Entities, Wake, follow, host, spawn
from convive.agents.journal._journal import ModelAnswered, journal_event_of
from convive.agents.testing import OtlpReceiver, ReceivedPoint, ScriptedModel
from convive.bus import (
    Bus,
    Chair,
    Conflict,
    Conversation,
    MemoryLog,
    NotAppended,
    RunContext,
    SeatName,
    memory_bus,
)
from tests.agents.queues import worker

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"


@pytest.fixture
async def bus() -> AsyncGenerator[Bus]:
    async with memory_bus() as made:
        yield made


@pytest.fixture
def place() -> Place:
    return Place(MemoryLog(), "cv.00.desk", live=False)


@tool
async def look() -> str:
    """Look."""
    return "seen"


class SlowModel:
    """Takes its time before the first item of an answer, and again before the last."""

    name = "scripted/slow"

    def __init__(self, *answers: tuple[TextDelta | ThinkingDelta | Exception, ...]) -> None:
        self._answers = deque(answers)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[TextDelta | ThinkingDelta | Answer]]:
        yield self._items(self._answers.popleft())

    async def _items(
        self, items: tuple[TextDelta | ThinkingDelta | Exception, ...]
    ) -> AsyncIterator[TextDelta | ThinkingDelta | Answer]:
        for item in items:
            await anyio.sleep(0.02)
            if isinstance(item, Exception):
                raise item
            yield item
        await anyio.sleep(0.02)
        yield Answer(parts=(Text(text="so be it"),), stop_reason="end")


async def answers(place: Place) -> list[ModelAnswered]:
    async with place.log.read(f"{place.base}.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    return [event for event in events if isinstance(event, ModelAnswered)]


def named(receiver: OtlpReceiver, name: str) -> list[ReceivedPoint]:
    return [point for point in receiver.points if point.name == name]


# First words


@pytest.mark.parametrize("first", [TextDelta("so"), ThinkingDelta("hm")])
async def test_a_journal_says_how_long_the_first_words_took(place: Place, first: TextDelta | ThinkingDelta) -> None:
    await Agent("guest", model=SlowModel((first, TextDelta(" be it")))).prompt("go", place=place)
    (answer,) = await answers(place)
    assert answer.first_chunk_s is not None
    assert 0.02 <= answer.first_chunk_s <= answer.took_s - 0.04


async def test_what_was_shown_of_a_broken_attempt_does_not_count(place: Place) -> None:
    model = SlowModel((TextDelta("so"), ModelAnswerBroken("cut off")), ())
    await Agent("guest", model=model).prompt("go", place=place)
    assert [answer.first_chunk_s for answer in await answers(place)] == [None]


async def test_an_answer_without_streamed_words_is_journaled_as_ever(place: Place) -> None:
    """Whoever knows no such field reads it: it is not there."""
    call = Answer(parts=(ToolUse(id="c1", name="look", arguments={}),), stop_reason="tool_use")
    await Agent("guest", model=ScriptedModel([call, "done"]), tools=[look]).prompt("go", place=place)
    async with place.log.read(f"{place.base}.run.>") as records:
        bodies = [record.body async for record in records if b'"type":"model_answered"' in record.body]
    assert [b"first_chunk_s" in body for body in bodies] == [False, True]
    assert [answer.first_chunk_s is None for answer in await answers(place)] == [True, False]


async def test_first_words_are_an_attribute_and_a_metric(place: Place, receiver: OtlpReceiver) -> None:
    """Only of answers that were streamed: the call of a tool was not."""
    call = Answer(parts=(ToolUse(id="c1", name="look", arguments={}),), stop_reason="tool_use")
    async with exporting(place, environ=receiver.environ, warn=pytest.fail):
        await Agent("guest", model=ScriptedModel([call, "done"]), tools=[look]).prompt("go", place=place)
    spans = [span for span in receiver.spans if span.name == "chat test"]
    told = [
        span.attributes["gen_ai.response.time_to_first_chunk"]
        for span in spans
        if span.attributes["convive.part"] == "llm/1"
    ]
    (answer,) = [each.first_chunk_s for each in await answers(place) if each.first_chunk_s is not None]
    assert told == [answer]
    (point,) = named(receiver, FIRST_CHUNK)
    assert (point.count, point.unit, point.total) == (1, "s", answer)
    assert point.attributes["gen_ai.request.model"] == "test"
    assert point.attributes["gen_ai.operation.name"] == "chat"


# Appends


async def opened(bus: Bus, run: RunContext) -> Conversation:
    conversation = await bus.conversation("evening")
    await conversation.open(run, "why", [Chair(seat=ADA)])
    return conversation


async def hold(conversation: Conversation, run: RunContext, model: Model) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, {ADA: AgentSeat(Agent("guest", model=model))})
        tasks.start_soon(supervise, conversation, Plan(2, opens=False, toasts=False), run)


async def test_appends_of_the_process_that_exports_are_measured(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation, log = await opened(bus, run), (await bus.conversation("evening")).log
    began_s = time.perf_counter()
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        await hold(conversation, run, ScriptedModel(lambda request: "well"))
        assert conversation.log is not log
    took_s = time.perf_counter() - began_s
    points = {point.attributes["convive.subject.kind"]: point for point in named(receiver, "convive.append.duration")}
    assert {kind: point.count for kind, point in points.items()} == {"floor": 5, "run": 8}  # two turns, and the end
    assert {point.unit for point in points.values()} == {"s"}
    assert 0 < sum(point.total for point in points.values()) < took_s
    assert named(receiver, "convive.floor.conflicts") == []
    assert conversation.log is log


async def test_links_that_came_too_late_are_counted_by_who_wrote_them(bus: Bus, receiver: OtlpReceiver) -> None:
    run = RunContext.root()
    conversation = await opened(bus, run)
    async with exporting(conversation, environ=receiver.environ, warn=pytest.fail):
        floor = await conversation.floor()
        await conversation.grant(floor, ADA, run.child(), time.time() + 60)
        for _ in range(2):
            with pytest.raises(Conflict):
                await conversation.grant(floor, ADA, run.child(), time.time() + 60)
        floor = await conversation.floor()
        held = floor.open_grant
        assert held is not None
        await conversation.revoke(floor, held, run, "too slow")
        with pytest.raises(Conflict):
            await conversation.say(floor, held, "well", run.child(held.grant.run_id))
        with pytest.raises(NotAppended):  # refused as well, but not for another one's sake
            await conversation.close(await conversation.floor(), run, "x" * 10_000_000)
    conflicts = {point.attributes["convive.seat"]: point for point in named(receiver, "convive.floor.conflicts")}
    assert {seat: point.total for seat, point in conflicts.items()} == {"host": 2, "ada": 1}
    assert {point.unit for point in conflicts.values()} == {"{conflict}"}
    refused = [point for point in named(receiver, "convive.append.duration") if "error.type" in point.attributes]
    assert {point.attributes["error.type"]: point.count for point in refused} == {"Conflict": 3, "NotAppended": 1}


@pytest.mark.parametrize("unset", ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"])
async def test_nothing_is_measured_when_no_metrics_are_exported(bus: Bus, receiver: OtlpReceiver, unset: str) -> None:
    environ = {**receiver.environ, "OTEL_METRICS_EXPORTER": "none"} if "METRICS" in unset else {}
    conversation = await opened(bus, RunContext.root())
    log = conversation.log
    async with exporting(conversation, environ=environ, warn=pytest.fail):
        assert conversation.log is log


async def test_appends_of_a_worker_are_measured(bus: Bus, receiver: OtlpReceiver) -> None:
    """Its journals and channels, and what its tools do on the bus that it works on."""
    run, place = RunContext.root(), await place_of(bus, "default")
    await opened(bus, run)
    async with exporting(place, only_taken=True, environ=receiver.environ, warn=pytest.fail) as export:
        measured = export.measured(bus)

        @tool
        async def look() -> str:
            """Grant the floor when somebody else has done so."""
            conversation = await measured.existing("evening")
            floor = await conversation.floor()
            await conversation.grant(floor, ADA, run.child(), time.time() + 60)
            with pytest.raises(Conflict):
                await conversation.grant(floor, ADA, run.child(), time.time() + 60)
            return "seen"

        model = ScriptedModel(
            [Answer(parts=(ToolUse(id="c1", name="look", arguments={}),), stop_reason="tool_use"), "ok"]
        )
        async with worker(measured, Agent("support", model=model, tools=[look]), begun=export.take):
            sent = await queued("support", "go", channel="user.42").send(bus)
            with anyio.fail_after(20):
                assert (await sent.result()).text == "ok"
    points = named(receiver, "convive.append.duration")
    told = {(point.attributes["convive.subject.kind"], point.attributes.get("error.type")): point for point in points}
    async with place.log.read(f"{place.base}.run.>") as records:
        journal = len([record async for record in records])
    counts = {("floor", None): 1, ("floor", "Conflict"): 1, ("stream", None): 1, ("run", None): journal}
    assert {each: point.count for each, point in told.items()} == counts
    conflicts = {point.attributes["convive.seat"]: point for point in named(receiver, "convive.floor.conflicts")}
    assert {seat: point.total for seat, point in conflicts.items()} == {"host": 1}


async def test_appends_of_a_host_of_entities_are_measured(bus: Bus, receiver: OtlpReceiver) -> None:
    entities = Entities()

    @entities.define("order")
    async def order(context: Context, wake: Wake) -> None:
        context.finish()

    export_here = exporting(await place_of(bus, "default"), environ=receiver.environ, warn=pytest.fail)
    async with export_here as export, anyio.create_task_group() as tasks:
        tasks.start_soon(host, export.measured(bus), entities)
        await spawn(bus, "order/1")
        with anyio.fail_after(20):
            async with follow(bus, "order/1") as states:
                while not (await anext(states)).is_over:
                    pass
        tasks.cancel_scope.cancel()
    told = {point.attributes["convive.subject.kind"]: point for point in named(receiver, "convive.append.duration")}
    assert {kind: point.count for kind, point in told.items()} == {"run": 1, "stream": 1}  # the wake, and its commit


async def test_a_worker_whose_metrics_go_nowhere_is_not_measured(bus: Bus, receiver: OtlpReceiver) -> None:
    environ = {**receiver.environ, "OTEL_METRICS_EXPORTER": "none"}
    for each in (environ, {}):
        async with exporting(await place_of(bus, "default"), environ=each, warn=pytest.fail) as export:
            assert export.measured(bus) is bus


async def test_an_export_afterwards_counts_nothing(bus: Bus, receiver: OtlpReceiver) -> None:
    """What the log does not hold cannot be told of later, and what it holds was counted."""
    run = RunContext.root()
    await hold(await opened(bus, run), run, ScriptedModel(lambda request: "well"))
    await export_trace(bus, "evening", receiver.environ)
    assert receiver.points == []
    (trip, *_) = [node for node in (await read_trace(bus, "evening")).roots[0].walk() if node.kind == "trip"]
    assert trip.first_chunk_s is not None
