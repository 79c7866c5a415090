"""Runs for a browser: server-sent events, and the chunks of Vercel's AI SDK."""

import json
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from convive.agents import (
    Agent,
    Answer,
    Approve,
    Place,
    Text,
    Thinking,
    ToolContext,
    ToolUse,
    client_tool,
    resume,
    run_events,
    tool,
)
from convive.agents.models._scripted import Scripted
from convive.agents.runs import _events as shown
from convive.agents.testing import ScriptedModel
from convive.agents.web import SSE_HEADERS, UI_STREAM_HEADERS, event_json, sse, ui_stream
from convive.bus import BusUnavailable, MemoryLog, RunContext
from tests.agents.serving import serving

pytestmark = pytest.mark.anyio

Frame = dict[str, str]
Chunk = dict[str, Any]


def frames(body: bytes) -> list[Frame]:
    """The frames of a body, by the rules of the standard: fields of one line each, comments passed over."""
    found: list[Frame] = []
    assert body.endswith(b"\n\n")
    for block in body.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            found.append(dict(line.split(": ", 1) for line in lines))
    return found


def chunks(body: bytes) -> list[Chunk]:
    *told, last = [frame["data"] for frame in frames(body)]
    assert last == "[DONE]"
    return [json.loads(each) for each in told]


async def whole(body: AsyncGenerator[bytes]) -> bytes:
    async with aclosing(body):
        return b"".join([frame async for frame in body])


@tool
async def look(context: ToolContext, where: str) -> str:
    """Look somewhere."""
    await context.update({"at": where})
    if where == "nowhere":
        raise ValueError("there is no such place")
    return f"nothing {where}"


def use(*calls: tuple[str, str, dict[str, Any]], words: str = "") -> Answer:
    said = (Thinking(thinking="hm hm"), Text(text=words)) if words else ()
    parts = (*said, *(ToolUse(id=id, name=name, arguments=arguments) for id, name, arguments in calls))
    return Answer(parts=parts, stop_reason="tool_use")


LOOKING = use(("c1", "look", {"where": "here"}), ("c2", "look", {"where": "nowhere"}), words="let me\nsee")
SCRIPT: list[Scripted] = [LOOKING, use(("c1", "look", {"where": "there"})), "It is gone 😀."]


@pytest.fixture
def place() -> Place:
    return Place(MemoryLog(), "cv.00.web")


async def test_a_stream_is_told_as_frames_each_with_its_type_and_its_json() -> None:
    """3.2"""
    async with Agent("ada", model=ScriptedModel(SCRIPT), tools=[look]).stream("x") as run:
        told = frames(await whole(sse(run)))
        events = [event async for event in run]
    assert [frame["event"] for frame in told] == [event.type for event in events]
    data = [json.loads(frame["data"]) for frame in told]
    assert data == [event_json(event) for event in events]
    assert {each["run_id"] for each in data} == {run.run_id}
    assert data[-1]["result"]["text"].startswith("It is gone")
    assert data[-1]["result"]["usage"]["output_tokens"] == 0
    assert not any("id" in frame for frame in told)
    assert SSE_HEADERS["x-accel-buffering"] == "no"


async def test_who_lost_the_connection_goes_on_behind_the_last_id(place: Place) -> None:
    """3.2: nothing is missed, nothing comes twice; here wherever the connection breaks"""
    result = await Agent("ada", model=ScriptedModel(SCRIPT), tools=[look]).prompt("x", place=place)

    async def body(after: int) -> bytes:
        async with run_events(place, result.run_id, after=after) as events:
            return await whole(sse(events))

    everything = await body(0)
    told = frames(everything)
    for number, frame in enumerate(told):
        assert frames(await body(int(frame["id"])) or b": nothing\n\n") == told[number + 1 :]
    assert [frame["event"] for frame in told][-1] == "run_finished"


@asynccontextmanager
async def served(place: Place, seen: list[str]) -> AsyncGenerator[str]:
    """The URL of an application that serves the events of runs."""

    async def body(run_id: str, after: int) -> AsyncIterator[bytes]:
        async with run_events(place, run_id, after=after) as events:
            async for frame in sse(events, ping_s=0.05):
                yield frame

    async def answer(request: HttpRequest) -> StreamingResponse:
        after = request.headers.get("last-event-id", "0")
        seen.append(after)
        return StreamingResponse(body(request.path_params["run_id"], int(after)), headers=dict(SSE_HEADERS))

    app = Starlette(routes=[Route("/runs/{run_id}", answer)])
    async with serving(app) as url:
        yield url


async def test_over_http_a_client_that_breaks_off_in_the_middle_sees_every_event_once(place: Place) -> None:
    """3.2"""
    go_on = anyio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        await go_on.wait()
        return "it is time"

    agent = Agent("ada", model=ScriptedModel([use(("c1", "wait", {}), words="one two three"), "four"]), tools=[wait])
    run, seen, got = RunContext.root(), list[str](), list[Frame]()
    with anyio.fail_after(30):
        async with (
            served(place, seen) as url,
            httpx2.AsyncClient(timeout=20) as client,
            agent.stream("x", run=run, place=place) as stream,
        ):
            there = f"{url}/runs/{run.run_id}"
            async with client.stream("GET", there) as response:
                assert response.headers["content-type"] == SSE_HEADERS["content-type"]
                block = ""
                async for line in response.aiter_lines():
                    block += f"{line}\n"
                    if line.startswith(":"):  # a ping: nothing comes while the tool waits
                        break
                got += frames(f"{block}\n".encode())
            go_on.set()
            again = await client.get(there, headers={"Last-Event-ID": got[-1]["id"]})
            got += frames(again.content)
            await stream.result()
    assert seen == ["0", got[len(got) - len(frames(again.content)) - 1]["id"]]
    types = [frame["event"] for frame in got]
    assert types.count("tool_started") == types.count("tool_finished") == types.count("run_finished") == 1
    assert [frame["id"] for frame in got] == sorted({frame["id"] for frame in got}, key=int)
    assert "".join(json.loads(f["data"])["text"] for f in got if f["event"] == "text_delta") == "one two threefour"


async def test_what_ends_the_events_is_told_in_the_last_frame() -> None:
    async def broken() -> AsyncIterator[shown.AnyRunEvent]:
        yield shown.RunStarted(RunContext.root(), "ada")
        raise BusUnavailable("the bus is gone.\nAsk again.")

    told = frames(await whole(sse(broken())))
    assert [frame["event"] for frame in told] == ["run_started", "error"]
    assert json.loads(told[1]["data"])["message"] == "the bus is gone.\nAsk again."
    assert chunks(await whole(ui_stream(broken())))[-1] == {
        "type": "error",
        "errorText": "the bus is gone.\nAsk again.",
    }


async def test_a_ping_breaks_nothing_off_and_whoever_leaves_leaves_nothing_behind() -> None:
    more, left = anyio.Event(), anyio.Event()

    async def slow() -> AsyncIterator[shown.AnyRunEvent]:
        try:
            await more.wait()
            yield shown.RunStarted(RunContext.root(), "ada")
            await anyio.sleep_forever()
        finally:
            left.set()

    with anyio.fail_after(10):
        async with aclosing(sse(slow(), ping_s=0.01)) as body:
            assert [await anext(body) for _ in range(3)] == [b": nothing new\n\n"] * 3
            more.set()
            while (frame := await anext(body)).startswith(b":"):
                pass
            assert b"event: run_started" in frame
            assert await anext(body) == b": nothing new\n\n"
        await left.wait()


def sound(told: list[Chunk]) -> list[str]:
    """The types of chunks that stand as the protocol has them: what is written was begun, and ends."""
    is_open: set[str] = set()
    inputs: set[str] = set()
    steps = 0
    for chunk in told:
        kind, _, what = chunk["type"].rpartition("-")
        match chunk["type"]:
            case "text-start" | "reasoning-start":
                assert not is_open
                is_open.add(chunk["id"])
            case "text-delta" | "reasoning-delta":
                assert chunk["id"] in is_open
            case "text-end" | "reasoning-end":
                is_open.remove(chunk["id"])
            case "tool-input-start":
                assert chunk["toolCallId"] not in inputs
                inputs.add(chunk["toolCallId"])
            case "start-step":
                steps += 1
            case "finish-step":
                steps -= 1
            case "finish" | "abort":
                assert (is_open, steps) == (set(), 0 if chunk["type"] == "finish" else steps)
            case _ if kind.startswith("tool-"):
                assert chunk["toolCallId"] in inputs, what
            case _:
                pass
    return [chunk["type"] for chunk in told]


def said(told: list[Chunk]) -> str:
    return "".join(chunk["delta"] for chunk in told if chunk["type"] == "text-delta")


async def test_a_run_is_one_message_of_the_ai_sdk(place: Place) -> None:
    """3.2: calls side by side keep their own arguments, a call that failed is one, progress is preliminary"""
    agent = Agent("ada", model=ScriptedModel(SCRIPT), tools=[look])
    async with agent.stream("x", place=place) as run:
        told = chunks(await whole(ui_stream(run)))
    types = sound(told)
    assert (types[0], types[-1]) == ("start", "finish")
    assert types.count("start-step") == types.count("finish-step") == 3
    assert told[0]["messageId"] == run.run_id
    assert said(told) == "let me\nseeIt is gone 😀."
    assert "".join(chunk["delta"] for chunk in told if chunk["type"] == "reasoning-delta") == "hm hm"
    inputs = {chunk["toolCallId"]: chunk["input"] for chunk in told if chunk["type"] == "tool-input-available"}
    assert inputs == {"c1": {"where": "here"}, "c2": {"where": "nowhere"}, "c1/1": {"where": "there"}}
    for call, given in inputs.items():
        own = [chunk for chunk in told if chunk["type"] == "tool-input-delta" and chunk["toolCallId"] == call]
        assert json.loads("".join(chunk["inputTextDelta"] for chunk in own)) == given
    outputs = [chunk for chunk in told if chunk["type"].startswith("tool-output")]
    final = {chunk["toolCallId"]: chunk for chunk in outputs if "preliminary" not in chunk}
    assert final["c1/1"]["output"] == "nothing there"
    assert final["c2"]["type"] == "tool-output-error"
    assert {"at": "here"} in [chunk["output"] for chunk in outputs if "preliminary" in chunk]
    assert told[-1]["finishReason"] == "stop"
    assert told[-1]["messageMetadata"]["status"] == "completed"
    assert UI_STREAM_HEADERS["x-vercel-ai-ui-message-stream"] == "v1"

    # From the journal, when nobody has heard the deltas: the same message, in fewer pieces.
    async with run_events(place, run.run_id) as events:
        later = chunks(await whole(ui_stream(events)))
    sound(later)
    assert said(later) == said(told)
    assert {c["toolCallId"]: c["input"] for c in later if c["type"] == "tool-input-available"} == inputs


async def test_a_run_that_waits_ends_its_stream_and_the_answer_goes_on_with_the_same_message(place: Place) -> None:
    @tool(needs_approval=True)
    async def pay(euros: int) -> str:
        """Pay."""
        return f"paid {euros}"

    tools = [pay, client_tool("locate", "Where the browser is.")]
    asks = use(("c1", "pay", {"euros": 3}), ("c2", "locate", {}))
    agent = Agent("ada", model=ScriptedModel([asks]), tools=tools)
    async with agent.stream("x", place=place) as run:
        told = chunks(await whole(ui_stream(run)))
    result = await run.result()
    types = sound(told)
    assert types[-1] == "finish"
    assert told[-1]["finishReason"] == "tool-calls"
    assert told[-1]["messageMetadata"]["resume_token"] == result.resume_token
    (asked,) = (chunk for chunk in told if chunk["type"] == "tool-approval-request")
    assert asked["toolCallId"] == "c1"
    assert [chunk["toolCallId"] for chunk in told if chunk["type"] == "tool-input-available"] == ["c1", "c2"]
    after = Agent("ada", model=ScriptedModel([]), tools=tools)
    still = await resume(place, run.run_id, {asked["approvalId"]: Approve()}, agent=after)
    assert [each.tool for each in still.interrupts] == ["locate"]


async def test_how_a_run_ends_is_told() -> None:
    async with Agent("ada", model=ScriptedModel([RuntimeError("no model")])).stream("x") as run:
        failed = chunks(await whole(ui_stream(run)))
    assert sound(failed)[-3:] == ["finish-step", "error", "finish"]
    assert failed[-1]["finishReason"] == "error"
    async with Agent("ada", model=ScriptedModel(["one two three"])).stream("x") as run:
        run.cancel("enough")
        cancelled = chunks(await whole(ui_stream(run)))
    assert cancelled[-1] == {"type": "abort", "reason": "enough"}
    sound(cancelled)


async def test_an_answer_that_is_asked_for_again_takes_back_what_was_shown() -> None:
    run = RunContext.root()

    async def events() -> AsyncIterator[shown.AnyRunEvent]:
        yield shown.RunStarted(run, "ada")
        yield shown.TripStarted(run, 0, 1)
        yield shown.TextDelta(run, 0, "It was a")
        yield shown.TextDelta(run.child(), 0, "of a run below")
        yield shown.TripStarted(run, 0, 2)
        yield shown.TextDelta(run, 0, "It is")

    told = chunks(await whole(ui_stream(events())))
    at = [chunk["type"] for chunk in told].index("reset-step")
    assert (said(told[:at]), said(told[at:])) == ("It was a", "It is")
    assert told[at + 1]["type"] == "text-start"


READ = """
import { parseJsonEventStream } from '@ai-sdk/provider-utils';
import { readUIMessageStream, uiMessageChunkSchema } from 'ai';
const body = new Response(process.stdin).body;
const chunks = parseJsonEventStream({ stream: body, schema: uiMessageChunkSchema }).pipeThrough(
  new TransformStream({ transform(each, to) { if (!each.success) throw each.error; to.enqueue(each.value); } }));
let last;
for await (const message of readUIMessageStream({ stream: chunks, terminateOnError: true })) last = message;
console.log(JSON.stringify(last));
"""


@pytest.mark.ai_sdk
async def test_the_ai_sdk_itself_reads_the_message() -> None:
    async with Agent("ada", model=ScriptedModel(SCRIPT), tools=[look]).stream("x") as run:
        body = await whole(ui_stream(run))
    command = ["node", "--input-type=module", "-e", READ]
    done = await anyio.to_thread.run_sync(
        partial(subprocess.run, command, input=body, capture_output=True, cwd=os.environ["CONVIVE_AI_SDK"], timeout=60)
    )
    assert not done.stderr
    message = json.loads(done.stdout)
    parts = message["parts"]
    assert message["id"] == run.run_id
    assert [part["text"] for part in parts if part["type"] == "text"] == ["let me\nsee", "It is gone 😀."]
    assert [part["text"] for part in parts if part["type"] == "reasoning"] == ["hm hm"]
    calls = [(part["toolCallId"], part["state"], part["input"]) for part in parts if part["type"] == "tool-look"]
    assert calls == [
        ("c1", "output-available", {"where": "here"}),
        ("c2", "output-error", {"where": "nowhere"}),
        ("c1/1", "output-available", {"where": "there"}),
    ]
