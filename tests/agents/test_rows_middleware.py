"""Rows on middleware: the order of hooks among several, and what they see of a run."""

from typing import Any

import pytest

from convive.agents import (
    Agent,
    AgentResult,
    HookContext,
    HookedCall,
    Middleware,
    ReplaceArgs,
    Request,
    Usage,
    tool,
)
from convive.agents.testing import ScriptedModel
from tests.agents.runs import use

pytestmark = pytest.mark.anyio


@tool
async def look(where: str) -> str:
    """Look."""
    return f"nothing in {where}"


class Tracing(Middleware):
    """Writes down each hook."""

    def __init__(self, name: str, trace: list[str]) -> None:
        self._name = name
        self._trace = trace

    def _note(self, hook: str) -> None:
        self._trace.append(f"{hook} {self._name}")

    async def on_config(self, ctx: HookContext, request: Request) -> Request | None:
        self._note("config")
        return None

    async def on_start(self, ctx: HookContext) -> None:
        self._note("start")

    async def on_iteration(self, ctx: HookContext) -> None:
        self._note(f"iteration {ctx.trip}")

    async def on_chunk(self, ctx: HookContext, chunk: Any) -> Any:
        self._note(f"chunk {chunk.text}")
        return chunk

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> ReplaceArgs | None:
        self._note(f"before {call.arguments}")
        return ReplaceArgs({"where": "Ghent"}) if self._name == "b" else None

    async def after_tool(self, ctx: HookContext, call: HookedCall, content: str, is_error: bool) -> None:
        self._note(f"after {call.arguments} {content}")

    async def on_tool_phase_complete(self, ctx: HookContext) -> None:
        self._note("phase")

    async def on_usage(self, ctx: HookContext, usage: Usage) -> None:
        self._note("usage")

    async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
        self._note(f"finish {result.text}")


async def test_each_hook_is_asked_in_the_order_of_the_middleware_and_a_first_answer_ends_the_asking() -> None:
    """C14, G59, G61, G62"""
    trace: list[str] = []
    model = ScriptedModel([use(("look", {"where": "Bruges"})), "Done."])
    middleware = [Tracing(name, trace) for name in "abc"]
    await Agent("ada", model=model, tools=[look], middleware=middleware).prompt("x")
    both = [
        *("start", "iteration 0", "config", "chunk ", 'chunk {"where":"Bruges"}', "usage"),
        *("before {'where': 'Bruges'}", "after {'where': 'Ghent'} nothing in Ghent", "phase"),
        *("iteration 1", "config", "chunk Done.", "usage", "finish Done."),
    ]
    expected = [f"{hook} {name}" for hook in both for name in ("ab" if hook.startswith("before") else "abc")]
    assert trace == expected


class Ending(Middleware):
    """Looks at the run, and ends it in one of its hooks."""

    def __init__(self, hook: str, seen: list[HookContext]) -> None:
        self._hook = hook
        self._seen = seen

    def _at(self, hook: str, ctx: HookContext) -> None:
        self._seen.append(ctx)
        if hook == self._hook and ctx.trip == (hook != "start"):
            ctx.abort("seen enough")

    async def on_start(self, ctx: HookContext) -> None:
        self._at("start", ctx)

    async def on_iteration(self, ctx: HookContext) -> None:
        self._at("iteration", ctx)

    async def on_config(self, ctx: HookContext, request: Request) -> Request | None:
        self._at("config", ctx)
        return None


@pytest.mark.parametrize(("hook", "asked", "trips"), [("start", 0, 0), ("iteration", 1, 1), ("config", 1, 2)])
async def test_a_hook_sees_a_run_and_can_end_it_before_the_model_is_asked_again(
    hook: str, asked: int, trips: int
) -> None:
    """G66, C13"""
    seen: list[HookContext] = []
    model = ScriptedModel([use(("look", {"where": "Ghent"})), "never asked for"], name="scripted/eyes")
    agent = Agent("ada", model=model, tools=[look], middleware=[Ending(hook, seen)])
    result = await agent.execute("x", session_id="u42", deps={"db": 1})
    context = seen[0]
    assert (context.run_id, context.root_run_id) == (result.run_id, result.run_id)
    assert (context.agent, context.model, context.tools) == ("ada", "scripted/eyes", ("look",))
    assert (context.session_id, context.deps) == ("u42", {"db": 1})
    assert (result.status, result.error and result.error.message) == ("cancelled", "seen enough")
    assert (len(model.requests), len(result.report.trips)) == (asked, trips)
