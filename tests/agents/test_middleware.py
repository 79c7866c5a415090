"""Middleware at the joints of a run."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from convive.agents import (
    Abort,
    Agent,
    Answer,
    Approve,
    HookContext,
    HookedCall,
    Limits,
    Middleware,
    Place,
    ReplaceArgs,
    Request,
    Skip,
    Text,
    ToolUse,
    Usage,
    resume,
    tool,
)
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._events import TextDelta
from convive.agents.runs._middleware import Chunk
from convive.agents.runs._result import AgentResult, Failure
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def use(*names: str, **arguments: Any) -> Answer:
    uses = tuple(ToolUse(id=f"c{n}", name=name, arguments=arguments) for n, name in enumerate(names))
    return Answer(parts=(Text(text="hm"), *uses), stop_reason="tool_use", usage=Usage(output_tokens=3))


def told(request: Request) -> list[ToolResult]:
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]


@tool
async def look(where: str = "here") -> str:
    return f"nothing {where}"


class Diary(Middleware):
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_config(self, ctx: HookContext, request: Request) -> Request | None:
        self.seen.append("config")
        return None

    async def on_start(self, ctx: HookContext) -> None:
        self.seen.append(f"start {ctx.agent} {ctx.model} {ctx.tools}")

    async def on_iteration(self, ctx: HookContext) -> None:
        self.seen.append(f"iteration {ctx.trip}")

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> Skip | ReplaceArgs | Abort | None:
        self.seen.append(f"before {call.name}")
        return None

    async def after_tool(self, ctx: HookContext, call: HookedCall, content: str, is_error: bool) -> None:
        self.seen.append(f"after {call.name} {content} {is_error}")

    async def on_tool_phase_complete(self, ctx: HookContext) -> None:
        self.seen.append("tools done")

    async def on_usage(self, ctx: HookContext, usage: Usage) -> None:
        self.seen.append(f"usage {usage.output_tokens}")

    async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
        self.seen.append(f"finish {result.text}")

    async def on_abort(self, ctx: HookContext, reason: str) -> None:
        self.seen.append(f"abort {reason}")

    async def on_error(self, ctx: HookContext, error: Failure) -> None:
        self.seen.append(f"error {error.error}")


async def test_hooks_are_called_in_the_order_of_the_run() -> None:
    """G59, C14"""
    diary = Diary()
    await Agent("ada", model=ScriptedModel([use("look"), "done"]), tools=[look], middleware=[diary]).prompt("x")
    assert diary.seen == [
        "start ada scripted/test ('look',)",
        "iteration 0",
        "config",
        "usage 3",
        "before look",
        "after look nothing here False",
        "tools done",
        "iteration 1",
        "config",
        "usage 0",
        "finish done",
    ]


async def test_a_failed_run_tells_on_error_and_only_that() -> None:
    """G59"""
    diary = Diary()
    await Agent("ada", model=ScriptedModel([BadModelRequest("no")]), middleware=[diary]).execute("x")
    assert [seen for seen in diary.seen if seen.split()[0] in ("finish", "abort", "error")] == ["error BadModelRequest"]


class Dashes(Middleware):
    async def on_chunk(self, ctx: HookContext, chunk: Chunk) -> Chunk | None:
        return None if chunk.text.strip() == "secret" else replace(chunk, text=chunk.text.strip() + "-")


async def test_chunks_are_changed_and_dropped_for_the_watcher_only() -> None:
    """G60, C14"""
    ada = Agent("ada", model=ScriptedModel(["the secret word"]), middleware=[Dashes()])
    async with ada.stream("x") as run:
        seen = [event.text async for event in run if isinstance(event, TextDelta)]
    assert seen == ["the-", "word-"]
    assert (await run.result()).text == "the secret word"


class Before(Middleware):
    def __init__(self, answer: Skip | ReplaceArgs | Abort | None) -> None:
        self._answer = answer

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> Skip | ReplaceArgs | Abort | None:
        return self._answer


async def test_a_call_can_be_skipped_and_the_first_answer_counts() -> None:
    """G61"""
    model = ScriptedModel([use("look"), "done"])
    middleware = [Before(None), Before(Skip("disabled")), Before(Abort("never"))]
    await Agent("ada", model=model, tools=[look], middleware=middleware).prompt("x")
    assert told(model.requests[1])[0].content == "disabled"


async def test_replaced_arguments_are_validated_and_are_those_that_run() -> None:
    """G62"""
    model = ScriptedModel([use("look"), "done"])
    await Agent("ada", model=model, tools=[look], middleware=[Before(ReplaceArgs({"where": "there"}))]).prompt("x")
    assert told(model.requests[1])[0].content == "nothing there"
    model = ScriptedModel([use("look"), "done"])
    await Agent("ada", model=model, tools=[look], middleware=[Before(ReplaceArgs({"where": 1}))]).prompt("x")
    assert "invalid_arguments" in told(model.requests[1])[0].content


async def test_an_approval_is_for_the_arguments_as_replaced_and_they_are_not_replaced_again() -> None:
    """G62, G85, D8, C7"""
    done: list[str] = []

    @tool(needs_approval=True)
    async def send(to: str) -> str:
        done.append(to)
        return "sent"

    class Counting(Middleware):
        times = 0

        async def before_tool(self, ctx: HookContext, call: HookedCall) -> ReplaceArgs:
            self.times += 1
            return ReplaceArgs({"to": f"checked {self.times}"})

    counting = Counting()
    where = Place(MemoryLog(), "base", live=False)
    ada = Agent("ada", model=ScriptedModel([use("send", to="x"), "done"]), tools=[send], middleware=[counting])
    result = await ada.prompt("x", place=where)
    assert result.interrupts[0].arguments == {"to": "checked 1"}
    await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=ada)
    assert (done, counting.times) == (["checked 1"], 1)


async def test_an_abort_really_stops_and_leaves_a_history_that_can_be_replayed() -> None:
    """G63, D3, C13"""
    diary, model, done = Diary(), ScriptedModel([use("work", "work")]), list[str]()

    @tool
    async def work() -> None:
        done.append("work")

    ada = Agent("ada", model=model, tools=[work], middleware=[diary, Before(Abort("not allowed"))])
    result = await ada.execute("x")
    assert (result.status, result.error and result.error.message) == ("cancelled", "not allowed")
    assert (len(model.requests), done) == (1, [])
    assert [seen for seen in diary.seen if seen.split()[0] in ("finish", "abort", "error")] == ["abort not allowed"]
    uses = [part for message in result.messages for part in message.parts if isinstance(part, ToolUse)]
    results = [part for message in result.messages for part in message.parts if isinstance(part, ToolResult)]
    assert [part.id for part in uses] == [part.tool_use_id for part in results]


async def test_any_hook_can_abort() -> None:
    """G66"""

    class Budget(Middleware):
        async def on_usage(self, ctx: HookContext, usage: Usage) -> None:
            ctx.abort("too dear")

    model = ScriptedModel([use("look")])
    result = await Agent("ada", model=model, tools=[look], middleware=[Budget()]).execute("x")
    assert (result.status, result.error and result.error.message, len(model.requests)) == ("cancelled", "too dear", 1)


async def test_state_is_fresh_in_every_run_and_shared_by_the_middleware_of_one() -> None:
    """W35, G66"""
    seen: list[tuple[int, bool]] = []

    class Count(Middleware):
        async def on_iteration(self, ctx: HookContext) -> None:
            ctx.state["trips"] = ctx.state.get("trips", 0) + 1

    class Read(Middleware):
        async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
            seen.append((ctx.state["trips"], ctx.run_id == ctx.root_run_id == result.run_id))

    for _ in range(2):
        model = ScriptedModel([use("look"), "done"])
        await Agent("ada", model=model, tools=[look], middleware=[Count(), Read()]).prompt("x")
    assert seen == [(2, True), (2, True)]


async def test_the_request_can_be_changed_before_each_trip() -> None:
    """G59, G96, D4"""

    class Louder(Middleware):
        async def on_config(self, ctx: HookContext, request: Request) -> Request | None:
            return replace(request, system=f"{request.system} Loudly.", tools=())

    model = ScriptedModel(["HI"])
    await Agent("ada", model=model, instructions="Speak.", tools=[look], middleware=[Louder()]).prompt("x")
    assert (model.requests[0].system, model.requests[0].tools) == ("Speak. Loudly.", ())


async def test_a_hook_that_raises_fails_the_run_and_one_of_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """G59"""

    class Broken(Middleware):
        async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
            raise ZeroDivisionError

    class Worse(Middleware):
        async def on_iteration(self, ctx: HookContext) -> None:
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        result = await Agent("ada", model=ScriptedModel(["hi"]), middleware=[Broken()], limits=Limits()).execute("x")
    assert (result.status, "on_finish of a middleware failed" in caplog.text) == ("completed", True)
    with pytest.raises(ZeroDivisionError):
        await Agent("ada", model=ScriptedModel(["hi"]), middleware=[Worse()]).execute("x")
