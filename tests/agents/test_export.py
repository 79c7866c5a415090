"""A trace sent to a collector after the fact: whole, checked, and in one clear sentence when it fails."""

import os
import sys
import time
from collections.abc import Mapping

import anyio
import pytest

from convive.agents import (
    Agent,
    Answer,
    BadCollector,
    NotExported,
    Place,
    ToolUse,
    UnknownRun,
    export_trace,
    tool,
)
from convive.agents.testing import OtlpReceiver, ScriptedModel, otlp_receiver
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


@pytest.fixture
def place() -> Place:
    return Place(MemoryLog(), "cv.00.desk", live=False)


def use(name: str) -> Answer:
    return Answer(parts=(ToolUse(id="c1", name=name, arguments={}),), stop_reason="tool_use")


@tool
async def look() -> str:
    """Look."""
    return "seen"


async def ran(place: Place) -> str:
    result = await Agent("guest", model=ScriptedModel([use("look"), "done"]), tools=[look]).prompt("go", place=place)
    return result.run_id


async def test_a_trace_arrives_whole_and_the_same_each_time(place: Place, receiver: OtlpReceiver) -> None:
    run = await ran(place)
    sent = await export_trace(place, run, receiver.environ)
    assert (sent.url, sent.spans, sent.open_nodes) == (f"{receiver.url}/v1/traces", 4, 0)
    await export_trace(place, run, receiver.environ)
    (path, first), (_, second) = receiver.bodies
    assert path == "/v1/traces"
    assert first == second
    names = ["chat test", "chat test", "execute_tool look", "invoke_agent guest"]
    assert sorted(span.name for span in receiver.spans[:4]) == names


async def test_a_long_trace_goes_in_chunks(place: Place, receiver: OtlpReceiver) -> None:
    calls = tuple(ToolUse(id=f"c{n}", name="look", arguments={}) for n in range(600))
    model = ScriptedModel([Answer(parts=calls, stop_reason="tool_use"), "done"])
    result = await Agent("guest", model=model, tools=[look]).prompt("go", place=place)
    assert (await export_trace(place, result.run_id, receiver.environ)).spans == 603
    assert len(receiver.bodies) == 2
    assert len({span.span_id for span in receiver.spans}) == 603


async def test_what_is_still_open_is_left_out_and_counted(place: Place, receiver: OtlpReceiver) -> None:
    @tool(needs_approval=True)
    async def risk() -> str:
        """Risk it."""
        return "well"

    result = await Agent("guest", model=ScriptedModel([use("risk")]), tools=[risk]).execute("go", place=place)
    sent = await export_trace(place, result.run_id, receiver.environ)
    assert (sent.spans, sent.open_nodes) == (1, 2)  # the run and its call
    assert [span.name for span in receiver.spans] == ["chat test"]


async def test_a_collector_that_is_overloaded_for_a_moment_is_asked_again(place: Place, receiver: OtlpReceiver) -> None:
    receiver.answers.append(503)
    assert (await export_trace(place, await ran(place), receiver.environ)).spans == 4
    assert (receiver.asked, len(receiver.bodies)) == (2, 1)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 500])
async def test_a_refusal_is_told_with_its_status(place: Place, receiver: OtlpReceiver, status: int) -> None:
    receiver.answers.append(status)
    with pytest.raises(NotExported, match=rf"{receiver.url}/v1/traces: it answered {status}.* 0 of 4 spans"):
        await export_trace(place, await ran(place), receiver.environ)
    assert receiver.asked == 1


async def test_a_collector_that_is_not_there_is_told_at_once(place: Place) -> None:
    with otlp_receiver() as gone:
        pass
    began = time.monotonic()
    with pytest.raises(NotExported, match="nobody answers there"):
        await export_trace(place, await ran(place), gone.environ)
    assert time.monotonic() - began < 5


async def test_a_collector_that_hangs_is_left_after_its_time(place: Place, receiver: OtlpReceiver) -> None:
    receiver.hang()
    environ = {**receiver.environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3"}
    with pytest.raises(NotExported, match="it did not answer in time"):
        await export_trace(place, await ran(place), environ)


async def test_waiting_for_a_collector_can_be_cancelled(place: Place, receiver: OtlpReceiver) -> None:
    run = await ran(place)
    receiver.hang()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(export_trace, place, run, receiver.environ)
            await receiver.until(lambda there: there.asked == 1)
            scope.cancel()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"OTEL_SDK_DISABLED": "TRUE"}, "OTEL_SDK_DISABLED=true forbids it"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT is not the URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not the URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "is not the URL of a collector"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "only http/protobuf is spoken here",
        ),
    ],
)
async def test_an_environment_that_cannot_be_is_refused(
    place: Place, environ: Mapping[str, str], complaint: str
) -> None:
    with pytest.raises(BadCollector, match=complaint):
        await export_trace(place, await ran(place), environ)


async def test_an_unknown_run_is_refused_before_anything_is_sent(place: Place, receiver: OtlpReceiver) -> None:
    await ran(place)
    with pytest.raises(UnknownRun):
        await export_trace(place, "f" * 32, receiver.environ)
    assert receiver.asked == 0


async def test_a_password_in_a_url_is_not_shown(place: Place, receiver: OtlpReceiver) -> None:
    receiver.answers.append(404)
    url = receiver.url.replace("//", "//me:hush@")
    with pytest.raises(NotExported) as caught:
        await export_trace(place, await ran(place), {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces?key=hush"})
    assert "hush" not in str(caught.value)
    assert receiver.url in str(caught.value)


COMPRESSED = """
import asyncio
import sys
from convive.agents import Agent, Place, export_trace
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog

async def main():
    place = Place(MemoryLog(), "cv.00.desk", live=False)
    ran = await Agent("guest", model=ScriptedModel(["done"])).prompt("go", place=place)
    await export_trace(place, ran.run_id)

asyncio.run(main())
"""


async def test_what_is_sent_is_compressed_when_that_is_asked_for_also_when_tried_again(receiver: OtlpReceiver) -> None:
    receiver.answers.append(503)
    environ = {**os.environ, **receiver.environ, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    await anyio.run_process([sys.executable, "-c", COMPRESSED], env=environ)
    assert receiver.asked == 2
    assert [span.name for span in receiver.spans] == ["chat test", "invoke_agent guest"]
