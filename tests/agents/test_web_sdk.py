"""What the AI SDK refuses, or takes for something else, of what a run may tell; and what it makes of it."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    ToolContext,
    tool,
)
from convive.agents.runs import _events as shown
from convive.agents.testing import ScriptedModel
from convive.agents.web import ui_stream
from convive.agents.web._sse import data
from convive.agents.web._ui_stream import UiFold
from convive.bus import RunContext
from tests.agents.test_web import chunks, sound, use, whole

pytestmark = pytest.mark.anyio


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
