"""An MCP server that sends more than anybody wants."""

from typing import Any

import pytest
from mcp import Client, MCPError, types
from mcp.server import Server, ServerRequestContext

from convive.agents import Agent, Answer, BadTool, ToolUse
from convive.agents.mcp import McpLimits, mcp_tools
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._result import AgentResult

pytestmark = pytest.mark.anyio

HUGE = 900_000


ODD = types.Tool(name="odd", input_schema={"type": "object"})


def server(result: types.CallToolResult | MCPError, *tools: types.Tool) -> Server[Any]:
    """A server with these tools, or one, that answers every call with this."""

    async def on_list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(tools or (ODD,)))

    async def on_call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if isinstance(result, MCPError):
            raise result
        return result

    return Server("odd", on_list_tools=on_list_tools, on_call_tool=on_call_tool)


async def asked(result: types.CallToolResult | MCPError) -> tuple[str, AgentResult]:
    """What a model reads of it, and the result of the run."""
    call = Answer(parts=(ToolUse(id="1", name="odd", arguments={}),), stop_reason="tool_use")
    model = ScriptedModel([call, "I see."])
    async with Client(server(result)) as client, mcp_tools(session=client, limits=McpLimits()) as tools:
        told = await Agent("ada", model=model, tools=tools).execute("x")
    (heard,) = [part.content for part in model.requests[1].messages[-1].parts if isinstance(part, ToolResult)]
    return heard, told


async def test_an_error_message_is_cut_like_everything_else() -> None:
    """G98"""
    heard, _ = await asked(MCPError(-32000, "x" * HUGE))
    assert len(heard) < 3_000
    assert f"[cut: 2000 of {HUGE} characters are shown]" in heard


@pytest.mark.parametrize("field", ["mime_type", "uri"])
async def test_what_describes_an_artifact_counts_as_a_part_of_it(field: str) -> None:
    """G98"""
    about = {"mime_type": "image/png", "uri": "file:///x", field: "file:///" + "x" * HUGE}
    inside = types.BlobResourceContents(uri=about["uri"], mime_type=about["mime_type"], blob="aaaa")
    heard, result = await asked(
        types.CallToolResult(content=[types.EmbeddedResource(type="resource", resource=inside)])
    )
    assert result.artifacts == ()
    assert "result_too_large" not in heard
    assert "characters are shown]" in heard


NOTHING = types.CallToolResult(content=[])


def described(name: str, chars: int) -> types.Tool:
    """A tool with a schema of about that size."""
    properties = {"where": {"type": "string", "description": "x" * chars}}
    return types.Tool(name=name, input_schema={"type": "object", "properties": properties})


async def refused(*tools: types.Tool, limits: McpLimits | None = None, filter: list[str] | None = None) -> str:
    async with Client(server(NOTHING, *tools)) as client:
        with pytest.raises(BadTool) as caught:
            async with mcp_tools(session=client, limits=limits or McpLimits(), filter=filter):
                pass
    return str(caught.value)


async def test_a_schema_that_would_fill_every_request_is_refused_by_name() -> None:
    """G98"""
    message = await refused(ODD, described("search", HUGE))
    assert "the schema of tool 'search' has 9000" in message
    assert "and 50000 are allowed" in message
    assert "McpLimits(schema_chars=...)" in message
    assert "x" * 100 not in message


async def test_what_is_refused_can_be_left_out_or_allowed() -> None:
    """G98"""
    async with Client(server(NOTHING, ODD, described("search", HUGE))) as client:
        async with mcp_tools(session=client, filter=["odd"]) as tools:
            assert [each.name for each in tools] == ["odd"]
        async with mcp_tools(session=client, limits=McpLimits(schema_chars=HUGE * 2, listing_chars=HUGE * 2)) as tools:
            assert [each.name for each in tools] == ["odd", "search"]


async def test_many_tools_that_are_large_only_together_are_refused() -> None:
    """G98"""
    message = await refused(*(described(f"tool-{number}", 30_000) for number in range(20)))
    assert "of its 20 tools have 60" in message
    assert "McpLimits(listing_chars=...)" in message


async def test_a_description_is_cut_and_says_so() -> None:
    """G98"""
    tool = types.Tool(name="odd", description="d" * HUGE, input_schema={"type": "object"})
    async with Client(server(NOTHING, tool)) as client, mcp_tools(session=client) as (made,):
        assert made.spec.description.endswith(f"\n[cut: 8000 of {HUGE} characters are shown]")
        assert len(made.spec.description) < 8_100


async def test_errors_that_list_tools_stay_short() -> None:
    """G98"""
    tools = [types.Tool(name=f"{number}-{'n' * 1_000}", input_schema={"type": "object"}) for number in range(50)]
    assert len(await refused(*tools, filter=["other"])) < 3_000
    assert "the MCP session has 50 tools, and 40 are allowed" in await refused(*tools, limits=McpLimits(tools=40))
