"""What the AI SDK refuses, or takes for something else, of what a run may tell; and what it makes of it."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    Approve,
    Deny,
    Followed,
    Place,
    Result,
    ToolContext,
    accept_answers,
    client_tool,
    resume,
    run_events,
    tool,
)
from convive.agents.runs import _events as shown
from convive.agents.testing import ScriptedModel
from convive.agents.web import ui_stream
from convive.agents.web._sse import data
from convive.agents.web._ui_stream import UiFold
from convive.bus import MemoryLog, RunContext
from tests.agents.test_web import chunks, sound, use, whole

pytestmark = pytest.mark.anyio

GoOn = Callable[[Place, str, dict[str, Any]], Awaitable[bytes]]

READ = """
import { parseJsonEventStream } from '@ai-sdk/provider-utils';
import { readUIMessageStream, uiMessageChunkSchema } from 'ai';
let message;
for (const body of JSON.parse(await new Response(process.stdin).text())) {
  const chunks = parseJsonEventStream({ stream: new Response(body).body, schema: uiMessageChunkSchema }).pipeThrough(
    new TransformStream({ transform(each, to) { if (!each.success) throw each.error; to.enqueue(each.value); } }));
  for await (const next of readUIMessageStream({ message, stream: chunks, terminateOnError: true })) message = next;
}
console.log(JSON.stringify(message));
"""


async def read(*bodies: bytes) -> dict[str, Any]:
    """The message that the SDK makes of a stream, or of several, each of which goes on with it."""
    command = ["node", "--input-type=module", "-e", READ]
    given = json.dumps([body.decode() for body in bodies]).encode()
    done = await anyio.to_thread.run_sync(
        partial(subprocess.run, command, input=given, capture_output=True, cwd=os.environ["CONVIVE_AI_SDK"], timeout=60)
    )
    assert not done.stderr
    message: dict[str, Any] = json.loads(done.stdout)
    return message


def calls_of(message: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    parts = [part for part in message["parts"] if part["type"].startswith("tool-")]
    return [(part["toolCallId"], part["state"], part.get("input"), part.get("output")) for part in parts]


def asked_again() -> Iterator[shown.AnyRunEvent]:
    run = RunContext.root()
    yield shown.RunStarted(run, "ada")
    for attempt in (1, 2):
        yield shown.TripStarted(run, 0, attempt)
        yield shown.TextDelta(run, 0, "so")
        yield shown.ArgumentsDelta(run, 0, 0, "c1", "look", "")
        yield shown.ArgumentsDelta(run, 0, 0, "c1", "look", '{"where":')
    yield shown.ArgumentsDelta(run, 0, 0, "c1", "look", '"here"}')
    yield shown.ToolStarted(run, 0, "c1", "look", {"where": "here"})
    yield shown.ToolFinished(run, 0, "c1", "look", "nothing", is_error=False)


HOSTILE: dict[str, Any] = {
    "__proto__": {"a": 1},
    "deep": [{"constructor": {"prototype": 1, "b": 2}}],
    "constructor": "of ships",
}
HARMLESS: dict[str, Any] = {"deep": [{}], "constructor": "of ships"}


@tool
async def store(context: ToolContext, thing: dict[str, Any]) -> str:
    """Store a thing."""
    await context.update(thing)
    return "stored"


def storing() -> Agent:
    return Agent("ada", model=ScriptedModel([use(("c1", "store", {"thing": HOSTILE})), "done"]), tools=[store])


@tool(needs_approval=True)
async def pay(euros: int) -> str:
    """Pay."""
    return f"paid {euros}"


TOOLS = [pay, client_tool("locate", "Where the browser is.")]


def paying() -> Agent:
    waits = use(("c1", "pay", {"euros": 3}), ("c2", "pay", {"euros": 4}), ("c3", "locate", {}))
    return Agent("ada", model=ScriptedModel([use(("c0", "unheard_of", {})), waits]), tools=TOOLS)


async def waiting(place: Place) -> tuple[bytes, str, dict[str, Any]]:
    """A run that waits: the stream that ended there, its id, and answers to all that it waits for."""
    async with paying().stream("x", place=place) as run:
        body = await whole(ui_stream(run))
    pays, denied, locates = (await run.result()).interrupts
    return body, run.run_id, {pays.id: Approve(), denied.id: Deny("too much"), locates.id: Result("home")}


async def gone_on(place: Place, run_id: str, answers: dict[str, Any]) -> bytes:
    """The stream of the run that is gone on with here."""
    after = Agent("ada", model=ScriptedModel(["there"]), tools=TOOLS)
    options = await accept_answers(place, run_id, answers, agent=after)
    async with after.stream(**options) as run:
        return await whole(ui_stream(run))


async def followed(place: Place, run_id: str, answers: dict[str, Any]) -> bytes:
    """The same from the log, behind the place where it waited."""
    async with run_events(place, run_id) as events:
        (seq,) = [each.seq async for each in until_waiting(events)]
    await resume(place, run_id, answers, agent=Agent("ada", model=ScriptedModel(["there"]), tools=TOOLS))
    async with run_events(place, run_id, after=seq) as events:
        return await whole(ui_stream(events))


async def until_waiting(events: AsyncIterator[Followed]) -> AsyncIterator[Followed]:
    async for each in events:
        if isinstance(each.event, shown.RunSuspended):
            yield each
            return


GOING_ON = pytest.mark.parametrize("going_on", [gone_on, followed])


def test_the_sdk_is_told_again_of_a_call_that_was_taken_back() -> None:
    fold = UiFold()
    told = [chunk for event in asked_again() for chunk in fold.push(event)]
    at = [chunk["type"] for chunk in told].index("reset-step")
    sound(told[:at])
    sound(told[at:])
    assert [chunk["type"] for chunk in told[at:]].count("tool-input-start") == 1


async def test_names_for_which_the_sdk_refuses_the_whole_stream_are_left_out() -> None:
    async with storing().stream("x") as run:
        told = chunks(await whole(ui_stream(run)))
    (given,) = (chunk["input"] for chunk in told if chunk["type"] == "tool-input-available")
    shown = [chunk["output"] for chunk in told if chunk["type"] == "tool-output-available"]
    assert given == {"thing": HARMLESS}
    assert shown == [HARMLESS, "stored"]


@GOING_ON
async def test_what_was_shown_before_the_run_waited_is_not_asked_for_again(going_on: GoOn) -> None:
    """The browser would carry its tool out again, and ask for more answers."""
    place = Place(MemoryLog(), "cv.00.web")
    _, run_id, answers = await waiting(place)
    told = chunks(await going_on(place, run_id, answers))
    types = [chunk["type"] for chunk in told]
    assert "tool-input-available" not in types
    assert types.count("tool-output-available") == 2
    assert types.count("tool-output-error") == 1
    assert types[-1] == "finish"


@pytest.mark.ai_sdk
async def test_the_ai_sdk_reads_what_was_asked_for_again() -> None:
    fold = UiFold()
    told = [chunk for event in asked_again() for chunk in fold.push(event)]
    message = await read(b"".join(map(data, told)))
    assert calls_of(message) == [("c1", "output-available", {"where": "here"}, "nothing")]


@pytest.mark.ai_sdk
async def test_the_ai_sdk_reads_hostile_data() -> None:
    async with storing().stream("x") as run:
        message = await read(await whole(ui_stream(run)))
    assert calls_of(message) == [("c1", "output-available", {"thing": HARMLESS}, "stored")]


@GOING_ON
@pytest.mark.ai_sdk
async def test_the_ai_sdk_goes_on_with_the_message_of_a_run_that_waited(going_on: GoOn) -> None:
    place = Place(MemoryLog(), "cv.00.web")
    before, run_id, answers = await waiting(place)
    assert calls_of(await read(before))[1:] == [
        ("c1", "approval-requested", {"euros": 3}, None),
        ("c2", "approval-requested", {"euros": 4}, None),
        ("c3", "input-available", {}, None),
    ]
    message = await read(before, await going_on(place, run_id, answers))
    assert message["id"] == run_id
    assert calls_of(message)[1:] == [
        ("c1", "output-available", {"euros": 3}, "paid 3"),
        ("c2", "output-error", {"euros": 4}, None),
        ("c3", "output-available", {}, "home"),
    ]
    assert [part["text"] for part in message["parts"] if part["type"] == "text"] == ["there"]
