"""Tools and handlers that go wrong in ways that a run must not go wrong with."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

import anyio
import anyio.lowlevel
import pytest
from pydantic import BeforeValidator, JsonValue

from convive.agents import Agent, Answer, ModelRetry, Place, Request, ToolError, ToolUse, tool
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.bus import BusUnavailable, Draft, MemoryLog

pytestmark = pytest.mark.anyio


def use(**calls: Mapping[str, JsonValue]) -> Answer:
    """An answer that calls these tools."""
    parts = tuple(ToolUse(id=name, name=name, arguments=dict(arguments)) for name, arguments in calls.items())
    return Answer(parts=parts, stop_reason="tool_use")


def told(request: Request) -> list[str]:
    return [part.content for part in request.messages[-1].parts if isinstance(part, ToolResult)]


async def a_cancelled_future() -> None:
    """Waits for what somebody else has cancelled: raises CancelledError in a task that nobody cancels."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("beside", [False, True])
async def test_a_tool_that_waits_for_something_cancelled_has_failed_and_is_not_called_again(beside: bool) -> None:
    """Checklist 8.3: only a cancellation of the caller's own task is one of the run."""
    called: list[str] = []

    @tool
    async def bad() -> None:
        called.append("bad")
        await a_cancelled_future()

    @tool
    async def good() -> str:
        await anyio.lowlevel.checkpoint()
        return "good"

    model = ScriptedModel([use(bad={}, good={}) if beside else use(bad={}), "Too bad."])
    result = await Agent("ada", model=model, tools=[bad, good]).execute("x")
    failed = '{"error":"tool_failed","message":"something that it waited for was cancelled","type":"CancelledError"}'
    assert (result.status, called) == ("completed", ["bad"])
    assert told(model.requests[1]) == ([failed, "good"] if beside else [failed])


async def test_a_handler_that_waits_for_something_cancelled_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Rule 10 of the design"""

    async def handler(event: object) -> None:
        await a_cancelled_future()

    result = await Agent("ada", model=ScriptedModel(["hi"])).execute("x", on={"run_started": handler})
    assert (result.status, result.text) == ("completed", "hi")
    assert "a handler of run_started failed" in caplog.text


class Gone(MemoryLog):
    """A log that is away whenever the agent `clerk` starts."""

    async def append(self, draft: Draft) -> int:
        if b'"agent":"clerk"' in draft.body:
            raise BusUnavailable("the bus is away")
        return await super().append(draft)


async def test_a_lost_bus_ends_the_execution_also_out_of_a_tools_task_group() -> None:
    """The run can be continued then; a failed tool would be its last word on an agent that never ran."""
    clerk = Agent("clerk", model=ScriptedModel([]))

    @tool
    async def ask() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clerk.prompt, "x")

    chief = Agent("chief", model=ScriptedModel([use(ask={})]), tools=[ask])
    with pytest.raises(BusUnavailable, match="the bus is away"):
        await chief.execute("x", place=Place(Gone(), "cv.00.test", live=False))


@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ToolError("No such order."), "No such order."),
        (ModelRetry("Take a number."), '{"error":"retry","message":"Take a number."}'),
        (OSError("disk full"), '{"error":"tool_failed","message":"disk full","type":"OSError"}'),
    ],
)
async def test_what_fails_in_a_tools_task_group_reaches_the_model_as_what_it_is(error: Exception, content: str) -> None:
    """Rule 5 of the design"""

    async def fail() -> None:
        raise error

    @tool
    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    model = ScriptedModel([use(work={}), "I see."])
    await Agent("ada", model=model, tools=[work]).execute("x")
    assert told(model.requests[1]) == [content]


class Mute(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ToolError(), "the tool failed"),
        (Mute(), '{"error":"tool_failed","message":"","type":"Mute"}'),
    ],
)
async def test_an_error_without_a_text_is_told_as_one(error: Exception, content: str) -> None:
    """The Messages API refuses a request that holds an error without a text, and with it the rest of the run."""

    @tool
    async def work() -> None:
        raise error

    model = ScriptedModel([use(work={}), "I see."])
    result = await Agent("ada", model=model, tools=[work]).execute("x")
    assert (result.status, told(model.requests[1])) == ("completed", [content])


async def test_a_validator_that_fails_is_told_as_bad_arguments() -> None:
    """Rule 5 of the design"""

    def known(value: str) -> str:
        return {"one": "1"}[value]

    @tool
    async def work(number: Annotated[str, BeforeValidator(known)]) -> str:
        return number

    model = ScriptedModel([use(work={"number": "two"}), "I see."])
    result = await Agent("ada", model=model, tools=[work]).execute("x")
    heard = '{"error":"invalid_arguments","message":"they cannot be checked: KeyError"}'
    assert (result.status, told(model.requests[1])) == ("completed", [heard])
