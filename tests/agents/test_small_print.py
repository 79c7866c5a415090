"""What people read of limits, and of generators that confuse two ways to end."""

from collections.abc import Generator

import anyio
import pytest

from convive.agents import Agent, Answer, Final, Limits, ToolUse, tool
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._events import RunFinished

pytestmark = pytest.mark.anyio


async def test_a_run_below_that_ran_out_of_time_says_how_much_it_had() -> None:
    """Rule 12 of the design"""
    warnings: list[str] = []

    def note(event: RunFinished) -> None:
        warnings.extend(event.result.report.warnings)

    leaf = Agent("leaf", model=ScriptedModel(["hm"], pause=anyio.sleep_forever), on={"run_finished": note})
    ask = Answer(parts=(ToolUse(id="1", name="ask", arguments={"prompt": "x"}),), stop_reason="tool_use")
    tools = [leaf.as_tool("ask", "Ask.")]
    await Agent("chief", model=ScriptedModel([ask]), tools=tools, limits=Limits(seconds=0.1)).execute("x")
    (warning,) = warnings
    assert "inf" not in warning
    assert "seconds was reached" in warning


async def test_a_generator_that_is_not_async_and_yields_a_final_is_told_what_to_do() -> None:
    """Checklist 8.1: as progress it would be shown, and the model read null."""

    @tool
    def count() -> Generator[object, None, None]:
        yield "one"
        yield Final("two")

    call = Answer(parts=(ToolUse(id="1", name="count", arguments={}),), stop_reason="tool_use")
    model = ScriptedModel([call, "I see."])
    await Agent("ada", model=model, tools=[count]).execute("x")
    (heard,) = [part for part in model.requests[1].messages[-1].parts if isinstance(part, ToolResult)]
    assert heard.is_error
    assert "a generator that is not async returns its result" in heard.content
