"""An MCP server that sends more than anybody wants."""

from typing import Any

import pytest
from mcp import Client, MCPError, types
from mcp.server import Server, ServerRequestContext

from convive.agents import Agent, Answer, ToolUse
from convive.agents._messages import ToolResult
from convive.agents._result import AgentResult
from convive.agents._scripted import ScriptedModel
from convive.agents.mcp import McpLimits, mcp_tools

pytestmark = pytest.mark.anyio

HUGE = 900_000


def server(result: types.CallToolResult | MCPError) -> Server[Any]:
    """A server with one tool, that answers every call with this."""

    async def on_list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="odd", input_schema={"type": "object"})])

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
