"""The arguments of calls that wait: as a predicate sees them, and as somebody edits them."""

import math
from typing import Any

import pytest
from pydantic import JsonValue

from convive.agents import (
    Agent,
    Answer,
    BadAnswers,
    Edit,
    Place,
    Resolution,
    Result,
    ToolContext,
    ToolUse,
    client_tool,
    peek,
    resume,
    scoped_tool,
    tool,
)
from convive.agents.models._scripted import ScriptedModel
from convive.bus import MemoryLog

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


@pytest.mark.parametrize("answer", [Edit({"amount": math.nan}), Result([math.inf])])
async def test_an_answer_with_a_number_that_json_does_not_know_is_refused(answer: Resolution) -> None:
    """Checklist 8.8: the journal would give it back as null, which is not what was answered."""

    @tool(needs_approval=True)
    async def refund(amount: float) -> str:
        return f"{amount}"

    weigh = client_tool("weigh", "Weigh it.")
    where, name = Place(MemoryLog(), "cv.00.test", live=False), "refund" if isinstance(answer, Edit) else "weigh"
    arguments: dict[str, JsonValue] = {"amount": 1} if isinstance(answer, Edit) else {}
    call = Answer(parts=(ToolUse(id="1", name=name, arguments=arguments),), stop_reason="tool_use")
    ada = Agent("ada", model=ScriptedModel([call]), tools=[refund, weigh])
    result = await ada.execute("x", place=where)
    with pytest.raises(BadAnswers, match="the answer does not fit"):
        await resume(where, result.run_id, {result.interrupts[0].id: answer}, agent=ada)
    assert (await peek(where, result.run_id)).token == result.resume_token
