"""What runs below used counts above, whatever comes of them."""

import pytest

from convive.agents import Agent, Answer, Text, ToolUse, Usage
from convive.agents._scripted import ScriptedModel

pytestmark = pytest.mark.anyio


def ask() -> Answer:
    return Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")


async def test_a_run_below_whose_answer_is_too_large_to_be_kept_above_counts() -> None:
    """D15, rule 12 of the design"""
    long = Answer(parts=(Text(text="x" * 700_000),), stop_reason="end", usage=Usage(output_tokens=99))
    clerk = Agent("clerk", model=ScriptedModel([long]))
    chief = Agent("chief", model=ScriptedModel([ask(), "Well."]), tools=[clerk.as_tool("ask", "Ask.")])
    result = await chief.execute("x")
    (call,) = result.report.trips[0].calls
    assert call.returned is not None
    assert "result_too_large" in call.returned.content
    assert (result.usage.output_tokens, [child.agent for child in result.report.children]) == (99, ["clerk"])
