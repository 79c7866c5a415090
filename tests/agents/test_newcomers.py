"""What somebody who has read docs/agents.md tries next."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from convive.agents import (
    Agent,
    Answer,
    BadTool,
    HookContext,
    HookedCall,
    Limits,
    Message,
    Middleware,
    Place,
    Request,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolContext,
    ToolResult,
    ToolUse,
    run_events,
    schema_tool,
    tool,
    user,
)
from convive.agents.testing import ScriptedModel
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

LONE = "half a \ud83d pair"
CLEAN = "half a ? pair"


def use(name: str, **arguments: Any) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments=arguments),), stop_reason="tool_use")


@pytest.mark.parametrize("live", [True, False])
async def test_text_that_utf8_cannot_carry_is_cleaned_wherever_it_comes_from(live: bool) -> None:
    """A model that splits a pair, or a caller who cut a text in one, ends no run."""
    place, run = Place(MemoryLog(), "cv.00.test", live=live), RunContext.root()

    @tool
    async def echo(word: str) -> str:
        """Echo."""
        return word

    model = ScriptedModel([use("echo", word=LONE), LONE])
    agent = Agent("ada", model=model, tools=[echo], instructions=LONE)
    history = [user(LONE), Message(role="assistant", parts=(Text(text=LONE),))]
    result = await agent.prompt(LONE, history=history, place=place, run=run)
    assert result.text == CLEAN
    assert model.requests[0].system == CLEAN
    assert [message.text for message in model.requests[0].messages] == [CLEAN] * 3
    heard = model.requests[1].messages[-1].parts[0]
    assert isinstance(heard, ToolResult)
    assert heard.content == CLEAN
    assert (await agent.prompt(LONE, place=place, run=run)).text == CLEAN  # the same run, which is over
    async with run_events(place, result.run_id) as events:
        shown = [each.event async for each in events]
    assert [event.text for event in shown if event.type == "text_delta"] == ([CLEAN] if live else [])


@pytest.mark.parametrize("by_hand", [True, False])
async def test_an_agent_that_calls_itself_without_end_is_told_so(by_hand: bool) -> None:
    """Its bounds are those of each run; what is above a run is bounded, too."""

    def answer(request: Request) -> Answer | str:
        last = request.messages[-1].parts[-1]
        return last.content if isinstance(last, ToolResult) else use("again", prompt="deeper")

    async def again(prompt: str) -> str:
        """Ask again."""
        return (await agents[0].prompt(prompt)).text

    class Recursive(Agent):
        name = "me"
        model = ScriptedModel(answer)

    agents: list[Agent] = []
    inner = Recursive(tools=[again])
    agents.append(inner)
    top = inner if by_hand else Recursive(tools=[inner.as_tool("again", "Ask again.")])
    result = await top.prompt("x", limits=Limits(trips=2))
    assert "agent 'me' was not asked: 10 runs stand above it" in result.text
    assert "tool_failed" in result.text


async def test_a_model_of_ones_own_that_is_a_plain_generator_is_told_how_to_be_one() -> None:
    class Mine:
        name = "mine/echo"

        async def stream(self, request: Request) -> AsyncGenerator[TextDelta | Answer]:
            yield TextDelta("hello")
            yield Answer(parts=(Text(text="hello"),), stop_reason="end")

    class Right:
        name = "mine/echo"

        @asynccontextmanager
        async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[TextDelta | ThinkingDelta | Answer]]:
            async def items() -> AsyncGenerator[TextDelta | ThinkingDelta | Answer]:
                yield TextDelta("hello")
                yield Answer(parts=(Text(text="hello"),), stop_reason="end")

            yield items()

    wrong: Any = Mine()
    with pytest.raises(TypeError, match=r"of model mine/echo gives an object of type async_generator.*@async"):
        await Agent("ada", model=wrong).prompt("x")
    assert (await Agent("ada", model=Right()).prompt("x")).text == "hello"


async def test_a_method_that_is_decorated_in_its_class_says_where_to_take_it_from() -> None:
    class Shop:
        async def buy(self, what: str) -> str:
            """Buy."""
            return f"bought {what}"

    with pytest.raises(BadTool, match=r"'buy' is a method, and of no object yet: `tools=\[it\.buy\]`"):
        tool(Shop.buy)
    model = ScriptedModel([use("buy", what="figs"), "done"])
    await Agent("ada", model=model, tools=[Shop().buy]).prompt("x")
    heard = model.requests[1].messages[-1].parts[0]
    assert isinstance(heard, ToolResult)
    assert heard.content == "bought figs"


async def test_arguments_that_are_no_object_are_told_of_without_a_place() -> None:
    @tool
    async def look() -> None: ...

    call = Answer(parts=(ToolUse(id="1", name="look", arguments="x"),), stop_reason="tool_use")
    model = ScriptedModel([call, "done"])
    await Agent("ada", model=model, tools=[look]).prompt("x")
    heard = model.requests[1].messages[-1].parts[0]
    assert isinstance(heard, ToolResult)
    assert '"message":"the arguments must be a JSON object, not str"' in heard.content


@pytest.mark.parametrize("by", ["hook", "tool", "schema tool"])
async def test_what_a_hook_or_a_tool_changes_in_its_arguments_is_not_what_the_model_sent(by: str) -> None:
    """The history in memory stays that of the journal: a run that is continued elsewhere asks the same."""
    seen: list[Any] = []

    class Changes(Middleware):
        async def before_tool(self, ctx: HookContext, call: HookedCall) -> None:
            arguments: Any = call.arguments
            arguments["where"]["city"] = "elsewhere"

    async def look(where: dict[str, Any]) -> str:
        """Look."""
        seen.append(dict(where))
        where["more"].append("changed")
        return "seen"

    async def look_here(context: ToolContext, arguments: dict[str, Any]) -> str:
        return await look(**arguments)

    sent = {"where": {"city": "Ghent", "more": ["a"]}}
    schema = schema_tool("look", "Look.", {"type": "object"}, look_here)
    model = ScriptedModel([use("look", **sent), "done"])
    middleware = [Changes()] if by == "hook" else []
    agent = Agent("ada", model=model, tools=[schema if by == "schema tool" else look], middleware=middleware)
    result = await agent.prompt("x")
    asked = model.requests[1].messages[1].parts[0]
    assert isinstance(asked, ToolUse)
    assert asked.arguments == result.report.trips[0].calls[0].arguments == {"where": {"city": "Ghent", "more": ["a"]}}
    assert seen[0]["city"] == "Ghent"
