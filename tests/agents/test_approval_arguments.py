"""What a predicate that decides about approvals gets to see."""

from typing import Any

import pytest
from pydantic import JsonValue

from convive.agents import Agent, Answer, ToolContext, ToolUse, scoped_tool, tool
from convive.agents._scripted import ScriptedModel

pytestmark = pytest.mark.anyio


def much(context: ToolContext, given: Any) -> bool:
    return bool(given.amount > 100)


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"order": "1"}, "completed"),
        ({"order": "1", "amount": 500}, "suspended"),
    ],
)
async def test_a_predicate_sees_the_defaults_of_what_the_model_left_out(
    arguments: dict[str, JsonValue], status: str, scoped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """G82"""

    @tool(needs_approval=much)
    async def refund(order: str, amount: int = 5) -> str:
        return f"{order}: {amount}"

    used, name = refund, "refund"
    if scoped:
        used, name = scoped_tool("shop", "What a shop does.", {"refund": refund}), "shop"
        arguments = {"action": "refund", **arguments}
    call = Answer(parts=(ToolUse(id="1", name=name, arguments=arguments),), stop_reason="tool_use")
    result = await Agent("ada", model=ScriptedModel([call, "Done."]), tools=[used]).execute("x")
    assert (result.status, "failed" in caplog.text) == (status, False)
