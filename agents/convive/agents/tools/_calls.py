"""One tool call, carried out: parse, validate, execute. What goes wrong becomes a result that the model reads."""

import inspect
import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import anyio
from pydantic import JsonValue

from convive.agents.journal._chain import LEAVE_RUN
from convive.agents.journal._fold import Call
from convive.agents.journal._journal import Artifact, ChildRun, ToolReturned
from convive.agents.models._schema import BadArguments, NoJsonForm, clean, json_of, jsonable, telling
from convive.agents.tools._stopping import being_cancelled
from convive.agents.tools._tools import ModelRetry, NeedsAnswer, Tool, ToolContext, ToolError, ToolReturn, execute

_log = logging.getLogger("convive.agents")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to. `value` is set where `content` shows the model less than the whole, `needs` where it came to
    nothing yet; the content is then for a caller who cannot wait."""

    content: str
    is_error: bool = False
    value: JsonValue = None
    artifacts: tuple[Artifact, ...] = ()
    took_s: float = 0.0
    children: tuple[ChildRun, ...] = ()
    handed_to: tuple[str, ...] = ()
    needs: NeedsAnswer | None = None

    def event(self, trip: int, call: Call) -> ToolReturned:
        """The journal event of this outcome."""
        return ToolReturned(
            trip=trip,
            index=call.index,
            call_id=call.id,
            name=call.name,
            content=self.content,
            is_error=self.is_error,
            value=self.value,
            artifacts=self.artifacts,
            took_s=self.took_s,
            children=self.children,
            handed_to=self.handed_to,
        )


def outcome_of(event: ToolReturned) -> Outcome:
    """The outcome that an event tells of."""
    return Outcome(
        event.content, event.is_error, event.value, event.artifacts, event.took_s, event.children, event.handed_to
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A call whose arguments were found good."""

    tool: Tool
    arguments: dict[str, object]


def prepare(call: Call, tools: Mapping[str, Tool]) -> Ready | Outcome:
    """Find the tool and validate the arguments; or say to the model what is wrong with them."""
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(tools) or "none"
        return _error("unknown_tool", f"There is no tool {call.name!r}. Tools: {known}.")
    try:
        # A copy: what the tool changes in it is not what the model sent.
        return Ready(tool, tool.parameters.validate(deepcopy(call.arguments)))
    except BadArguments as error:
        return _error("invalid_arguments", str(error), issues=error.issues)
    except Exception as error:  # noqa: BLE001 - a validator of the tool's own is as foreign as the tool
        _log.warning("a validator of tool %s failed", tool.name, exc_info=True)
        return _error("invalid_arguments", f"they cannot be checked: {type(error).__name__}")


async def carry_out(ready: Ready, context: ToolContext) -> Outcome:
    """Run the handler. Never raises for what the tool does wrong; cancellation goes through."""
    started = time.perf_counter()
    outcome = await _outcome(ready, context)
    return replace(outcome, artifacts=context.artifacts.all(), took_s=round(time.perf_counter() - started, 6))


async def _outcome(ready: Ready, context: ToolContext) -> Outcome:
    try:
        return await within(ready, context)
    except anyio.get_cancelled_exc_class():
        if being_cancelled():
            raise
        return _error("tool_failed", "something that it waited for was cancelled", type="CancelledError")
    except Exception as error:  # a tool is foreign code: its failure is the model's to handle, without a traceback
        failures = _failures(error)
        for failure in failures:
            if isinstance(failure, LEAVE_RUN):
                raise failure from error  # of an agent that the tool called: no model can help with it
        return _failure(ready.tool, failures[0] if len(failures) == 1 else error)


def _failures(error: Exception) -> list[Exception]:
    """What went wrong: the error, or what a task group of the tool's put into it."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    inner = cast("ExceptionGroup[Exception]", error).exceptions
    return [failure for each in inner for failure in _failures(each)]


def _failure(tool: Tool, error: Exception) -> Outcome:
    kind = type(error).__name__
    try:
        text = clean(str(error))
    except Exception:  # noqa: BLE001 - a foreign class, which may fail at this too
        text = ""
    match error:
        case ToolError():
            return Outcome(text or "the tool failed", is_error=True)  # providers refuse an error without a text
        case ModelRetry():
            return _error("retry", text)
        case NoJsonForm():
            _log.warning(
                "tool %s gave back a value of type %s: return JSON data, or say with model_output= what of it",
                tool.name,
                error,
            )
            message = f"{tool.name} was carried out. It gave back something of type {error}, which has no JSON form."
            return _error("result_not_json", message)
        case _:
            return _error("tool_failed", text, type=kind)


async def within(ready: Ready, context: ToolContext) -> Outcome:
    """Run the handler within its time, and narrow what it gives. Raises what it raises."""
    tool = ready.tool
    with anyio.move_on_after(tool.timeout_s):
        return await _result(tool, await execute(tool, ready.arguments, context))
    return _error("timeout", f"{tool.name} was given up after {tool.timeout_s:g} s.")


async def _result(tool: Tool, value: object) -> Outcome:
    if isinstance(value, Outcome):
        return value  # of one of several tools behind this name
    if isinstance(value, NeedsAnswer):
        message = f"{tool.name} waits for somebody's answer, and here nobody can be asked."
        return replace(_error("unavailable", message), needs=value)
    if isinstance(value, ToolReturn):
        return Outcome(_told(value.model_output), value=jsonable(value.value), handed_to=value.handed_to)
    if tool.model_output is None:
        return Outcome(_told(value))
    try:
        shown = tool.model_output(value)
        shown = await shown if inspect.isawaitable(shown) else shown
    except Exception:  # noqa: BLE001 - the tool did its work; what only narrows it must not make it look failed
        _log.warning("model_output of tool %s failed; the model reads the whole result", tool.name, exc_info=True)
        return Outcome(_told(value))
    return Outcome(_told(shown), value=jsonable(value))


def _told(value: object) -> str:
    return clean(value) if isinstance(value, str) else telling(value)


def content_of(value: object) -> str:
    """A result as the model reads it."""
    return clean(value) if isinstance(value, str) else json_of(value)


def _error(kind: str, message: str, **more: object) -> Outcome:
    return Outcome(json_of({"error": kind, "message": message, **more}), is_error=True)


def too_large(name: str) -> Outcome:
    """The outcome in place of one that the log refused for its size."""
    return _error("result_too_large", f"{name} gave back more than can be kept. Ask for less.")
