"""Rows that end at a provider's wire: broken arguments, histories that any provider accepts, aborted requests."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from convive.agents import (
    Abort,
    Agent,
    AgentResult,
    Answer,
    HookContext,
    HookedCall,
    Limits,
    Middleware,
    Retry,
    Text,
    ToolUse,
    handoff,
    has_tool_call,
    tool,
)
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._anthropic_wire import AnswerFold, request_body
from convive.agents.models._messages_server import Reply
from convive.agents.testing import Interrupted, MessagesServer, ScriptedModel, Streamed
from tests.agents.runs import use

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(*replies: Reply) -> AsyncGenerator[tuple[AnthropicModel, MessagesServer]]:
    async with MessagesServer(replies) as server:
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key="test", max_retries=0)
        try:
            with anyio.fail_after(20):
                yield model, server
        finally:
            await model.aclose()


BROKEN = [
    '{"order": "A7", "amo',
    "order=A7",
    "[1, 2]",
    '"A7"',
    "null",
    '{"amount": NaN}',
    '{"order": "A7", "order": "B8"}',
]


@pytest.mark.parametrize("streamed", BROKEN)
async def test_arguments_that_were_streamed_broken_are_reported_and_never_taken_for_none(streamed: str) -> None:
    """C18, W17: a tool whose arguments are all optional must not run with its defaults"""
    ran: list[str] = []

    @tool
    async def refund(order: str = "every order there is", amount: float = 1e6) -> None:
        ran.append(order)

    broken = Streamed((ToolUse(id="toolu_1", name="refund", arguments=streamed),))
    async with served(broken, "I was told.") as (model, server):
        result = await Agent("ada", model=model, tools=[refund]).prompt("x")
        again = server.requests[1].body["messages"]
    assert (result.text, ran) == ("I was told.", [])
    assert list(again[1]["content"][0]["input"]) == ["unreadable_arguments"]
    (answer,) = again[2]["content"]
    assert (answer["tool_use_id"], answer["is_error"]) == ("toolu_1", True)
    assert "invalid_arguments" in answer["content"]
    assert "must be a JSON object" in answer["content"]


def test_arguments_of_calls_side_by_side_are_put_together_by_their_index() -> None:
    """3.2: not by what was seen last; a count that comes again replaces the one before"""
    fold, pieces = AnswerFold(), {0: ['{"a": ', "1}"], 1: ['{"b": ', "2}"]}
    fold.push('{"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}}')
    for index in pieces:
        block = f'{{"type": "tool_use", "id": "t{index}", "name": "f", "input": {{}}}}'
        fold.push(f'{{"type": "content_block_start", "index": {index}, "content_block": {block}}}')
    for turn in (0, 1):
        for index in (1, 0):
            delta = Text(text=pieces[index][turn]).model_dump_json(include={"text"}).replace('"text"', '"partial_json"')
            delta = f'{{"type": "input_json_delta", {delta[1:]}'
            fold.push(f'{{"type": "content_block_delta", "index": {index}, "delta": {delta}}}')
    fold.push('{"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}}')
    answer = fold.push('{"type": "message_stop"}')
    assert isinstance(answer, Answer)
    assert [part.arguments for part in answer.parts if isinstance(part, ToolUse)] == [{"a": 1}, {"b": 2}]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 5)


async def test_calling_a_run_off_aborts_the_request_that_it_waits_for() -> None:
    """C23, W33: in the middle of the answer"""
    async with served(Interrupted(Streamed("I carry a lamp by day."), 6, "hang")) as (model, server):
        async with Agent("ada", model=model).stream("x") as run:
            async for event in run:
                if event.type == "text_delta":
                    run.cancel("heard enough")
        result = await run.result()
        await server.requests[0].hung_up.wait()
    assert (result.status, result.error and result.error.message) == ("cancelled", "heard enough")


@tool
async def look() -> str:
    """Look."""
    return "nothing"


@tool(silent=True)
async def note() -> None:
    """Note."""


@tool(needs_approval=True)
async def pay() -> None:
    """Pay."""


class AbortIt(Middleware):
    async def before_tool(self, ctx: HookContext, call: HookedCall) -> Abort | None:
        return Abort("no") if call.name == "note" else None


TWO = use(("look", {}), ("note", {}))
CUT = use(("look", {})).model_copy(update={"stop_reason": "length"})


def _never(text: str) -> Retry:
    return Retry("no", feedback="again", fallback="instead")


async def _ended(case: str) -> AgentResult:
    """A run that ended in one of the ways in which runs end."""
    other = Agent("other", model=ScriptedModel(["I am the other."]))
    options: dict[str, tuple[Sequence[Any], dict[str, Any]]] = {
        "answered": ([TWO, "Done."], {}),
        "limit": ([TWO], {"limits": Limits(trips=1)}),
        "limit raised": ([TWO], {"limits": Limits(trips=1, on_limit="raise")}),
        "stopped": ([TWO], {"stop_when": has_tool_call("look")}),
        "silent": ([use(("note", {}))], {}),
        "cut with calls": ([CUT], {}),
        "suspended": ([use(("look", {}), ("pay", {}))], {}),
        "aborted": ([TWO], {"middleware": [AbortIt()]}),
        "handed over": ([use(("handoff_to_other", {}), ("look", {}))], {}),
        "unusable": (["x", "x", "x"], {"refine": _never}),
        "failed": ([TWO, OSError("gone")], {}),
        "no words at all": ([Answer(parts=(), stop_reason="end")], {}),
    }
    script, given = options[case]
    agent = Agent("ada", model=ScriptedModel(script), tools=[look, note, pay, handoff(other)], **given)
    if case == "failed":
        results: list[AgentResult] = []
        with pytest.raises(OSError, match="gone"):
            await agent.execute("x", on={"run_failed": lambda event: results.append(event.result)})
        return results[0]
    return await agent.execute("x")


CASES = (
    "answered",
    "limit",
    "limit raised",
    "stopped",
    "silent",
    "cut with calls",
    "suspended",
    "aborted",
    "handed over",
    "unusable",
    "failed",
    "no words at all",
)


@pytest.mark.parametrize("case", CASES)
async def test_the_messages_of_any_result_are_a_history_that_a_provider_accepts(case: str) -> None:
    """C24, W8: no call without its result, no result without its call, the roles in turn"""
    result = await _ended(case)
    model = ScriptedModel(["I go on."])
    await Agent("ada", model=model).prompt("Go on.", history=result.messages)
    sent: Any = request_body(model.requests[0], "claude-test")["messages"]
    assert [message["role"] for message in sent] == [("user", "assistant")[n % 2] for n in range(len(sent))]
    assert all(message["content"] for message in sent)
    open_calls: list[str] = []
    for message in sent:
        kinds = [block["type"] for block in message["content"]]
        answered = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        assert answered == open_calls
        assert kinds[: len(answered)] == ["tool_result"] * len(answered)
        open_calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    assert not open_calls
    if case in ("suspended", "aborted"):
        contents = [block["content"] for message in sent for block in message["content"] if "tool_use_id" in block]
        assert "not carried out: the run ended first" in contents
        assert ("nothing" in contents) == (case == "suspended")
