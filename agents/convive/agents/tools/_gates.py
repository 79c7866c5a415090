"""Whether a tool call may be carried out now, or waits for somebody."""

import inspect
import logging
from collections.abc import Sequence
from types import SimpleNamespace

from pydantic import JsonValue
from pydantic_core import to_json

from convive.agents.journal._fold import Call
from convive.agents.journal._interrupts import Approve, Deny, Edit, Interrupt, Result, args_hash
from convive.agents.models._schema import (
    BadArguments,
    ModelParameters,
    Parameters,
    check_data,
    clean,
    json_of,
    jsonable,
    schema_of,
)
from convive.agents.tools._calls import Outcome, Ready
from convive.agents.tools._tools import NeedsAnswer, Tool, ToolContext

_MOST_SCHEMA, _MOST_SCHEMAS = 10_000, 100_000
_log = logging.getLogger("convive.agents")


async def gate(call: Call, ready: Ready, context: ToolContext, agent: str) -> Ready | Outcome | Interrupt:
    """The call if it may run, its outcome if an answer settled it, or what it waits for."""
    match call.resolution:
        case Deny(message=message):
            return Outcome(json_of({"rejected": True, "reason": message or "the call was not allowed"}), is_error=True)
        case Result(value=value):
            return _given(ready.tool, value)
        case Approve() | Edit():
            return _interrupt(call, ready.tool, context, agent, "client_tool") if ready.tool.client else ready
        case None:
            pass
    if call.interrupt is not None:
        return call.interrupt
    if await needs_approval(ready.tool, ready.arguments, context):
        return _interrupt(call, ready.tool, context, agent, "approval")
    return _interrupt(call, ready.tool, context, agent, "client_tool") if ready.tool.client else ready


def _given(tool: Tool, value: object) -> Outcome:
    """The result that a client tool was given. Whoever answered may not have had the agent to check it with."""
    shown = jsonable(value)
    try:
        if tool.result is not None:
            check_data(tool.result, shown)
    except BadArguments as error:
        message = f"What {tool.name} gave back does not fit: {error}."
        return Outcome(json_of({"error": "invalid_result", "message": message}), is_error=True)
    return Outcome(clean(shown) if isinstance(shown, str) else json_of(shown))


def _interrupt(call: Call, tool: Tool, context: ToolContext, agent: str, kind: str) -> Interrupt:
    return Interrupt.model_validate(
        {
            "id": f"{context.idempotency_key}-{kind}",
            "kind": kind,
            "run_id": context.run_id,
            "agent": agent,
            "tool": call.name,
            "call_id": call.id,
            "trip": context.trip,
            "index": call.index,
            "arguments": call.arguments,
            "args_hash": args_hash(call.arguments),
            "takes": _taken(tool, kind),
        }
    )


def _taken(tool: Tool, kind: str) -> dict[str, JsonValue] | None:
    """The schema of an answer: so that it can be checked where the agent's code is not, and shown to who gives it."""
    schema: dict[str, JsonValue] | None = tool.spec.input_schema
    if kind == "client_tool":
        schema = None if tool.result is None else schema_of(tool.result)
    return schema if schema is not None and len(to_json(schema)) <= _MOST_SCHEMA else None


async def needs_approval(tool: Tool, arguments: dict[str, object], context: ToolContext) -> bool:
    """Whether somebody has to approve a call with these arguments."""
    needs = tool.needs_approval
    if isinstance(needs, bool):
        return needs
    try:
        whole = isinstance(tool.parameters, ModelParameters)
        given = next(iter(arguments.values())) if whole else SimpleNamespace(**_defaults(tool.parameters) | arguments)
        asked = needs(context, given)
        return bool(await asked if inspect.isawaitable(asked) else asked)
    except Exception:  # noqa: BLE001 - the application's own; what cannot be decided is asked about
        _log.warning("needs_approval of tool %s failed; the call waits for an approval", tool.name, exc_info=True)
        return True


def _defaults(parameters: Parameters) -> dict[str, object]:
    """What the function takes for arguments that a model left out."""
    fields = parameters.model.model_fields
    optional = {name: fields[field] for field, name in parameters.names.items() if not fields[field].is_required()}
    return {name: field.get_default(call_default_factory=True, validated_data={}) for name, field in optional.items()}


def in_bounds(waiting: Sequence[Interrupt]) -> Sequence[Interrupt]:
    """What is waited for; without the schemas of answers where there are too many for one record."""
    if sum(len(to_json(each.takes)) for each in waiting) <= _MOST_SCHEMAS:
        return waiting
    return [each.model_copy(update={"takes": None}) for each in waiting]


def waits_for(call: Call, tool: Tool, needs: NeedsAnswer, context: ToolContext, agent: str) -> Interrupt:
    """What a call waits for whose tool says so. Each attempt may, and none takes an answer to an earlier one."""
    interrupt = _interrupt(call, tool, context, agent, needs.kind)
    return interrupt.model_copy(update={"id": f"{interrupt.id}-{call.attempt}", "about": jsonable(needs.about)})
