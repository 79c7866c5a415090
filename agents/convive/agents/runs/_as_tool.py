"""An agent as a tool of another one."""

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from string import Formatter
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, Field

from convive.agents.models._model import ToolSpec
from convive.agents.models._schema import BadTool, check_input, jsonable, model_parameters
from convive.agents.runs import _events as shown
from convive.agents.runs._result import AgentResult
from convive.agents.tools._tools import NeedsApproval, Tool, ToolContext, ToolError, ToolReturn

if TYPE_CHECKING:
    from convive.agents.runs._agent import Agent

_log = logging.getLogger("convive.agents")

PromptOf = str | Callable[[Any], str | Awaitable[str]]
"""Turns the input into the agent's prompt: a format string over its fields, or a function of it."""
Projector = Callable[[shown.AnyRunEvent], object]
"""Turns an event of the run below into an update to show, or None to show nothing."""
Streaming = bool | Projector | Callable[[], Projector]


class AgentInput(BaseModel):
    """What an agent is asked as a tool, where nothing else is said."""

    prompt: str = Field(min_length=1, description="What is asked, with all that it takes to answer.")


def agent_tool(
    agent: "Agent[Any]",
    name: str,
    description: str,
    *,
    input: type[BaseModel] = AgentInput,
    prompt: PromptOf | None = None,
    model_output: Callable[[AgentResult], object] | None = None,
    streaming: Streaming = False,
    needs_approval: NeedsApproval = False,
    timeout_s: float | None = None,
    sequential: bool = False,
) -> Tool:
    """The tool behind `Agent.as_tool`, which says what the arguments are."""
    check_prompt(prompt, input, "prompt", name, agent)

    async def call(context: ToolContext, input: BaseModel) -> ToolReturn:
        on: dict[shown.EventName, Any] = {"*": _shower(context, streaming)} if streaming else {}
        result = await agent.execute(await prompt_of(prompt, input, "prompt"), deps=context.deps, on=on)
        if result.error is not None:
            how = "was cancelled" if result.status == "cancelled" else "failed"
            raise ToolError(f"agent {agent.name!r} {how}: {result.error.message}")
        return ToolReturn(value=_summary(result), model_output=await _output(model_output, result))

    parameters = model_parameters(input, name, "input", context="context")
    spec = ToolSpec(name, description, parameters.schema)
    return Tool(spec, call, parameters, timeout_s, sequential, needs_approval=needs_approval, below=agent)


def check_prompt(prompt: PromptOf | None, input: type[BaseModel], field: str, name: str, agent: "Agent[Any]") -> None:
    """Raises BadTool when nothing says what the agent is asked."""
    check_input(input, name)
    if not (prompt is None or isinstance(prompt, str) or callable(prompt)):
        raise BadTool(f"tool {name!r}: prompt= takes a function of the input or a format string.")
    if prompt is None and field not in input.model_fields:
        raise BadTool(
            f"tool {name!r}: its input has no field {field!r}. Say with prompt= what agent {agent.name!r} is asked, "
            "by a function of the input or a format string such as 'Research {topic}'."
        )
    if isinstance(prompt, str):
        _check_format(prompt, name, input)


def _check_format(prompt: str, name: str, input: type[BaseModel]) -> None:
    try:
        unknown = set(_fields(prompt)) - input.model_fields.keys()
    except ValueError as error:
        raise BadTool(f"tool {name!r}: prompt={prompt!r} is no format string: {error}.") from None
    if unknown:
        known = ", ".join(input.model_fields)
        raise BadTool(f"tool {name!r}: prompt={prompt!r} names {sorted(unknown)}, and the input has: {known}.")


def _fields(template: str) -> Iterable[str]:
    for _, field, spec, _ in Formatter().parse(template):
        if field is not None:
            yield re.split(r"[.\[]", field)[0]
            yield from _fields(spec or "")


async def prompt_of(prompt: PromptOf | None, input: BaseModel, field: str) -> str:
    """What the agent is asked: by default, what stands in the field."""
    if prompt is None:
        return str(getattr(input, field))
    if isinstance(prompt, str):
        return prompt.format_map({field: getattr(input, field) for field in type(input).model_fields})
    made = prompt(input)
    return made if isinstance(made, str) else await made


async def _output(model_output: Callable[[AgentResult], object] | None, result: AgentResult) -> object:
    if model_output is None:
        return result.text
    try:
        shown_to_model = model_output(result)
        return await shown_to_model if inspect.isawaitable(shown_to_model) else shown_to_model
    except Exception:  # noqa: BLE001 - the agent did its work; what only narrows it must not make it look failed
        _log.warning("model_output of an agent's tool failed; the model reads the text", exc_info=True)
        return result.text


def _summary(result: AgentResult) -> dict[str, object]:
    """What the journal above keeps: the journal of the run below has the rest."""
    return {
        "run_id": result.run_id,
        "agent": result.report.agent,
        "text": result.text,
        "data": jsonable(result.data),
        "finish_reason": result.finish_reason,
        "trips": len(result.report.trips),
        "usage": result.usage.model_dump(),
        "cost": result.cost,
    }


def _shower(context: ToolContext, streaming: Streaming) -> Callable[[shown.AnyRunEvent], Awaitable[None]]:
    """Shows the run below as updates of the call. Made for each call: a projector may count."""
    project = _projector(streaming)

    async def show(event: shown.AnyRunEvent) -> None:
        run = {"agent": agent_of.get("agent", ""), "run_id": event.run_id}
        match event:
            case shown.RunStarted(agent=agent, resumed=resumed):
                agent_of["agent"] = agent
                if not resumed:
                    await context.update({"kind": "agent_start", **run, "agent": agent})
            case shown.RunFinished(result=result) | shown.RunFailed(result=result):
                await context.update({"kind": "agent_done", **run, **_done(result)})
            case shown.RunCancelled(reason=reason):
                await context.update({"kind": "agent_done", **run, "status": "cancelled", "error": reason})
            case shown.RunSuspended(result=result):
                waiting = [interrupt.id for interrupt in result.interrupts]
                await context.update({"kind": "agent_suspended", **run, "interrupts": waiting})
            case _:
                update = project(event)
                if update is not None:
                    await context.update(update)

    agent_of: dict[str, str] = {}
    return show


def _done(result: AgentResult) -> dict[str, object]:
    done: dict[str, object] = {
        "status": result.status,
        "steps": len(result.report.trips),
        "tokens": result.usage.total_tokens,
    }
    return done if result.error is None else {**done, "error": result.error.message}


def _projector(streaming: Streaming) -> Projector:
    if isinstance(streaming, bool):
        return _calls
    takes = inspect.signature(streaming).parameters
    return cast("Projector", streaming) if takes else cast("Callable[[], Projector]", streaming)()


def _calls(event: shown.AnyRunEvent) -> object:
    if isinstance(event, shown.ToolStarted):
        return {"kind": "tool_call", "tool": event.name, "arguments": event.arguments, "run_id": event.run_id}
    return None
