"""Servers and agents for tests of MCP, and what both ends see of each other."""

from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.journal._fold import Call
from convive.agents.models._messages import ToolUse
from convive.agents.models._model import Answer
from convive.agents.tools._calls import Outcome, Ready, carry_out, prepare
from convive.agents.tools._tools import Tool, ToolContext, ToolError, by_name, tool
from convive.bus import RunContext

Mode = Literal["legacy", "auto"]

both_eras = pytest.mark.parametrize("mode", ["legacy", "auto"])
"""The wire of the handshake, in frames of JSON-RPC, and the one of 2026, whose calls are direct in one process."""


async def use(
    subject: Tool, arguments: JsonValue, updates: list[JsonValue] | None = None, slowly: bool = False
) -> Outcome:
    """Call a tool as a run does."""

    async def on_update(value: JsonValue) -> None:
        if slowly:
            await anyio.lowlevel.checkpoint()
        if updates is not None:
            updates.append(value)

    context = ToolContext(
        RunContext.root(), "1", subject.name, trip=0, attempt=1, idempotency_key="key", on_update=on_update
    )
    prepared = prepare(Call(0, "1", subject.name, arguments), by_name([subject]))
    return await carry_out(prepared, context) if isinstance(prepared, Ready) else prepared


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.is_error
    assert "Traceback" not in outcome.content
    error: dict[str, Any] = from_json(outcome.content)
    return error


def calls(name: str, arguments: JsonValue = None) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments=arguments or {}),), stop_reason="tool_use")


@tool
async def refund(context: ToolContext, order: str) -> str:
    """Refund an order."""
    if order == "0":
        raise ToolError("There is no order 0.")
    await context.update("charging")
    return f"refunded {order}"
