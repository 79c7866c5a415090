"""Exports that are long or large: all of it arrives, in requests that a collector takes, and little waits meanwhile."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import pytest

from convive.agents import Agent, Answer, Place, ToolUse, export_trace, exporting, tool
from convive.agents.journal._journal import JournalEvent
from convive.agents.otel._export_thread import MOST_RECORDS
from convive.agents.otel._otel_send import MOST_BYTES
from convive.agents.otel._otel_sending import MOST_SPANS
from convive.agents.testing import OtlpReceiver, ScriptedModel, otlp_receiver
from convive.bus import BusUnavailable, Draft, LogAround, MemoryLog, Record, RunContext, memory_bus
from tests.agents.traces import answered, began, ended

pytestmark = pytest.mark.anyio


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as made:
        yield made


async def write(place: Place, run: RunContext, events: Iterable[JournalEvent | bytes]) -> None:
    bodies = [event if isinstance(event, bytes) else event.body() for event in events]
    await place.log.append_all([Draft(place.journal(run), body, run.headers()) for body in bodies])


async def test_what_is_more_than_may_wait_to_be_sent_arrives_all_the_same(receiver: OtlpReceiver) -> None:
    """A process that goes on with a long conversation sends what was there before."""
    async with memory_bus() as bus:
        conversation, root = await bus.conversation("evening"), RunContext.root()
        place, run, trips = Place(conversation.log, conversation.subjects.base), root.child(), MOST_SPANS + 100
        await write(
            place, run, [began(run), *(event for trip in range(trips) for event in answered(trip=trip)), ended()]
        )
        told: list[str] = []
        async with exporting(conversation, environ=receiver.environ, warn=told.append):
            await receiver.until(lambda it: len(it.bodies) >= trips // 512)
        assert told == []
        assert len({span.span_id for span in receiver.spans}) == trips + 1


async def test_what_is_more_than_may_wait_to_be_folded_arrives_all_the_same(receiver: OtlpReceiver) -> None:
    async with memory_bus() as bus:
        conversation, run = await bus.conversation("evening"), RunContext.root()
        place = Place(conversation.log, conversation.subjects.base)
        await write(place, run, [began(run), *[b"{}"] * (5 * MOST_RECORDS), *answered(), ended()])
        told: list[str] = []
        async with exporting(conversation, environ=receiver.environ, warn=told.append):
            await receiver.until(lambda it: len(it.bodies) > 0)
        assert told == []
        assert [span.name for span in receiver.spans] == ["chat m", "invoke_agent clerk"]


@tool
async def read() -> str:
    """Read."""
    return "x" * 30_000


async def test_requests_are_no_larger_than_what_collectors_take(receiver: OtlpReceiver) -> None:
    """With content; the OpenTelemetry Collector takes 20 MB, and others less."""
    calls = tuple(ToolUse(id=f"c{n}", name="read", arguments={}) for n in range(200))
    model = ScriptedModel([Answer(parts=calls, stop_reason="tool_use"), "done"])
    place = Place(MemoryLog(), "cv.00.desk")
    result = await Agent("guest", model=model, tools=[read]).prompt("go", place=place)
    environ = {**receiver.environ, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    assert (await export_trace(place, result.run_id, environ)).spans == 203
    assert len(receiver.spans) == 203
    assert all(len(body) < 2 * MOST_BYTES for _, body in receiver.bodies)


class _Failing(LogAround):
    """A log that cannot be read once, when somebody asks for what stands before a record."""

    failures = 0

    @asynccontextmanager
    async def read(
        self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
    ) -> AsyncGenerator[AsyncIterator[Record]]:
        if not subjects[0].endswith("*.*") and not self.failures:
            self.failures += 1
            raise BusUnavailable("the server is away for a moment.")
        async with self.inner.read(*subjects, after=after, until=until, since_s=since_s) as records:
            yield records


async def test_what_was_before_is_read_again_when_it_could_not_be_read(receiver: OtlpReceiver) -> None:
    """Else the trace would have a hole, and the run no name."""
    log, run = _Failing(MemoryLog()), RunContext.root()
    place = Place(log, "cv.00.desk")
    await write(place, run, [began(run), *answered()])
    told: list[str] = []
    async with exporting(place, environ=receiver.environ, warn=told.append):
        await write(place, run, [ended()])
        await receiver.until(lambda it: len(it.bodies) > 0)
    assert log.failures == len(told) == 1
    assert [span.name for span in receiver.spans] == ["chat m", "invoke_agent clerk"]
