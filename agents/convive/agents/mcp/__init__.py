"""MCP, both ways: an agent uses the tools of an MCP server, and an agent is served as one.

    async with mcp_tools(command=["some-server"], prefix="files_") as tools:
        await Agent("reader", tools=tools).prompt("What is in the folder?")

    await mcp_server(agent).serve_stdio()

Needs the package `mcp`, which is not part of a plain installation: `pip install "convive[mcp]"`.
"""

from convive.agents.mcp._mcp import McpServer, McpUnavailable, mcp_server, mcp_tools
from convive.agents.mcp._mcp_bounds import McpLimits

__all__ = ["McpLimits", "McpServer", "McpUnavailable", "mcp_server", "mcp_tools"]
