"""Middleware: an application's own code at the joints of a run."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from convive.agents.models._model import Request, Usage
from convive.agents.runs._events import ArgumentsDelta, TextDelta, ThinkingDelta
from convive.agents.runs._result import AgentResult, Failure
from convive.bus import RunContext, RunId

_log = logging.getLogger("convive.agents")

Chunk = TextDelta | ThinkingDelta | ArgumentsDelta


@dataclass(frozen=True, slots=True)
class Skip:
    """From `before_tool`: do not run the tool; `result` is what it came to."""

    result: object = None


@dataclass(frozen=True, slots=True)
class ReplaceArgs:
    """From `before_tool`: call the tool with these arguments. They are validated, and approved, after this."""

    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Abort:
    """From `before_tool`: end the run here. No call that has not begun is carried out, and the model is not asked."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class HookedCall:
    """A tool call as hooks see it. `arguments` are a copy: `ReplaceArgs` changes what the tool is called with."""

    id: str
    name: str
    arguments: JsonValue
    trip: int


@dataclass(slots=True)
class HookContext:
    """One execution of a run. `state` is fresh in each and shared by all middleware of it."""

    run: RunContext
    agent: str
    model: str
    tools: tuple[str, ...]
    session_id: str | None
    deps: Any
    abort: Callable[[str], None]
    """Ends the run: the model is not asked again, tools that began come to their end."""
    trip: int = 0
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self.run.run_id

    @property
    def root_run_id(self) -> RunId:
        """The outermost run above it."""
        return self.run.root_run_id


class Middleware:
    """Override what you need. The middleware of an agent is asked in order; a hook that raises fails the run, except
    for the three that are told of its end, whose errors are logged."""

    async def on_config(self, ctx: HookContext, request: Request) -> Request | None:
        """Before each request to the model; returns another request, or None for this one."""

    async def on_start(self, ctx: HookContext) -> None:
        """Once, before the first step of an execution."""

    async def on_iteration(self, ctx: HookContext) -> None:
        """Before each trip; `ctx.trip` is its number."""

    async def on_chunk(self, ctx: HookContext, chunk: Chunk) -> Chunk | None:
        """For each delta: what watchers see instead, or None for nothing. The run itself keeps the model's words."""
        return chunk

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> Skip | ReplaceArgs | Abort | None:
        """Before a call is validated. The first answer that is not None counts. Not asked again after an
        approval, nor for a call that it rewrote and that is made again after a crash; but asked again for a call that
        was held back because one before it waits."""

    async def after_tool(self, ctx: HookContext, call: HookedCall, content: str, is_error: bool) -> None:
        """After each call, whatever it came to: what the model reads."""

    async def on_tool_phase_complete(self, ctx: HookContext) -> None:
        """After the last call of a trip."""

    async def on_usage(self, ctx: HookContext, usage: Usage) -> None:
        """After each answer: what it used."""

    async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
        """The run is completed."""

    async def on_abort(self, ctx: HookContext, reason: str) -> None:
        """The run was cancelled or aborted."""

    async def on_error(self, ctx: HookContext, error: Failure) -> None:
        """The run failed."""


class Hooks:
    """The middleware of one execution. Hooks that nobody overrides cost nothing."""

    def __init__(self, middleware: Sequence[Middleware], context: HookContext) -> None:
        self.context = context
        self._middleware = tuple(middleware)

    def _with(self, hook: str) -> list[Any]:
        given = (each for each in self._middleware if getattr(type(each), hook) is not getattr(Middleware, hook))
        return [getattr(each, hook) for each in given]

    async def tell(self, hook: str, *arguments: object) -> None:
        """Call a hook that returns nothing. Raises what it raises."""
        for each in self._with(hook) if self._middleware else ():
            await _awaited(each(self.context, *arguments))

    async def tell_of_end(self, hook: str, *arguments: object) -> None:
        """Call a hook of the end: the run is over, and what fails here is logged."""
        try:
            await self.tell(hook, *arguments)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("%s of a middleware failed in run %s", hook, self.context.run_id)

    async def request(self, request: Request) -> Request:
        """The request, as middleware has it."""
        for each in self._with("on_config") if self._middleware else ():
            request = await _awaited(each(self.context, request)) or request
        return request

    async def chunk(self, chunk: Chunk) -> Chunk | None:
        """The delta as watchers see it, if they do."""
        shown: Chunk | None = chunk
        for each in self._with("on_chunk") if self._middleware else ():
            if shown is not None:
                shown = await _awaited(each(self.context, shown))
        return shown

    async def before_tool(self, call: HookedCall) -> Skip | ReplaceArgs | Abort | None:
        """The first answer of any."""
        for each in self._with("before_tool") if self._middleware else ():
            answer: Skip | ReplaceArgs | Abort | None = await _awaited(each(self.context, call))
            if answer is not None:
                return answer
        return None


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
