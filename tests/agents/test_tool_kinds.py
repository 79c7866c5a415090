"""Generator tools, scoped tools, tools that are found by searching."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from convive.agents import (
    Agent,
    Answer,
    Approve,
    Final,
    Place,
    Request,
    ToolReturn,
    ToolUse,
    client_tool,
    resume,
    scoped_tool,
    tool,
)
from convive.agents.models._messages import ToolResult
from convive.agents.models._schema import BadTool
from convive.agents.models._scripted import Scripted, ScriptedModel
from convive.agents.runs._events import ToolUpdated
from convive.agents.tools._tools import Tool
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio


def use(name: str, **arguments: Any) -> Answer:
    return Answer(parts=(ToolUse(id="c", name=name, arguments=arguments),), stop_reason="tool_use")


def told(request: Request) -> list[str]:
    return [part.content for part in request.messages[-1].parts if isinstance(part, ToolResult)]


async def called(made: Tool, **arguments: Any) -> tuple[list[Any], str]:
    """The updates of one call, and what the model read."""
    model = ScriptedModel([use(made.name, **arguments), "done"])
    async with Agent("ada", model=model, tools=[made]).stream("x") as run:
        updates = [event.value async for event in run if isinstance(event, ToolUpdated)]
    return updates, told(model.requests[1])[0]


async def test_an_async_generator_shows_what_it_yields_and_ends_with_its_result() -> None:
    """G73"""

    @tool
    async def count(upto: int) -> AsyncGenerator[int | Final]:
        for number in range(upto):
            yield number
        yield Final(f"counted to {upto}")

    assert await called(count, upto=3) == ([0, 1, 2], "counted to 3")


async def test_a_generator_shows_what_it_yields_and_returns_its_result() -> None:
    """G73"""

    @tool
    def count(upto: int) -> Generator[int, None, str]:
        yield from range(upto)
        return f"counted to {upto}"

    assert await called(count, upto=2) == ([0, 1], "counted to 2")


async def test_an_async_generator_without_a_result_or_with_more_behind_it_is_at_fault() -> None:
    """G73"""

    @tool
    async def never() -> AsyncGenerator[int | Final]:
        yield 1

    @tool
    async def more() -> AsyncGenerator[int | Final]:
        yield Final("done")
        yield 1

    assert "ended without a Final" in (await called(never))[1]
    assert "something after its Final" in (await called(more))[1]


async def test_a_tool_can_show_the_model_less_than_it_keeps() -> None:
    """G20, G76"""

    @tool
    async def fetch() -> ToolReturn:
        return ToolReturn(value={"rows": list(range(99))}, model_output="99 rows")

    assert (await called(fetch))[1] == "99 rows"


@tool
async def web(query: str, pages: int = 1) -> str:
    """Search the web."""
    return f"web {query} {pages}"


@tool(needs_approval=True)
async def images(query: str, size: str) -> str:
    """Search images."""
    return f"images {query} {size}"


async def test_a_scoped_tool_is_one_flat_schema_for_several_tools() -> None:
    """G86"""
    search = scoped_tool("search", "Search.", {"web": web, "images": images})
    schema: Any = search.spec.input_schema
    assert set(schema["properties"]) == {"action", "query", "pages", "size"}
    assert (schema["required"], schema["properties"]["action"]["enum"]) == (["action", "query"], ["web", "images"])
    assert "- web: Search the web." in search.spec.description
    assert (await called(search, action="web", query="soup", size=None))[1] == "web soup 1"


async def test_what_a_branch_needs_is_checked_and_the_model_can_mend_it() -> None:
    """G86"""
    search = scoped_tool("search", "Search.", {"web": web, "images": images}, allow=["web"])
    assert "must be one of: web" in (await called(search, action="images", query="x"))[1]
    assert "must be one of: web" in (await called(search, query="x"))[1]
    assert "argument" not in (await called(search, action="web", query="x"))[1]
    assert "invalid_arguments" in (await called(search, action="web", query="x", size="big"))[1]


async def test_a_scoped_call_waits_for_an_approval_if_the_tool_that_it_picks_does() -> None:
    """G86"""
    search = scoped_tool("search", "Search.", {"web": web, "images": images})
    where = Place(MemoryLog(), "base", live=False)
    script: list[Scripted] = [
        use("search", action="web", query="x"),
        use("search", action="images", query="x", size="big"),
        "done",
    ]
    ada = Agent("ada", model=ScriptedModel(script), tools=[search])
    result = await ada.prompt("x", place=where)
    assert (result.status, len(result.report.trips)) == ("suspended", 2)
    after = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=ada)
    assert after.text == "done"


def test_a_scoped_tool_that_cannot_be_is_refused() -> None:
    """G86"""
    with pytest.raises(BadTool, match="does not name what there is: web"):
        scoped_tool("search", "Search.", {"web": web}, allow=["images"])
    with pytest.raises(BadTool, match="has an argument 'query' itself"):
        scoped_tool("search", "Search.", {"web": web}, which="query")
    with pytest.raises(BadTool, match="client tool"):
        scoped_tool("search", "Search.", {"pick": client_tool("pick", "Pick.")})


async def test_deferred_tools_are_found_by_searching_and_can_be_called_then() -> None:
    """G70"""

    @tool(defer=True)
    async def send_invoice(amount: int) -> str:
        """Send a bill to a customer."""
        return f"sent {amount}"

    @tool(defer=True)
    async def book_flight() -> str:
        """Reserve a seat on a plane."""
        return "booked"

    script: list[Scripted] = [use("search_tools", query="invoice a customer"), use("send_invoice", amount=5), "done"]
    model = ScriptedModel(script)
    result = await Agent("ada", model=model, tools=[web, send_invoice, book_flight]).prompt("x")
    assert [[spec.name for spec in request.tools] for request in model.requests] == [
        ["web", "search_tools"],
        ["web", "search_tools", "send_invoice"],
        ["web", "search_tools", "send_invoice"],
    ]
    assert told(model.requests[1])[0] == '[{"name":"send_invoice","description":"Send a bill to a customer."}]'
    assert (told(model.requests[2]), result.text) == (["sent 5"], "done")


async def test_a_deferred_tool_can_be_called_by_name_all_the_same() -> None:
    """G70"""

    @tool(defer=True)
    async def hidden() -> str:
        return "found"

    assert (await called(hidden))[1] == "found"
