"""MCP, both ways: an agent uses the tools of an MCP server, and an agent is served as one.

    async with mcp_tools(command=["some-server"], prefix="files_") as tools:
        await Agent("reader", tools=tools).prompt("What is in the folder?")

    await mcp_server(agent).serve_stdio()

Needs the package `mcp`, which is not part of a plain installation: `pip install "convive[mcp]"`.
"""

import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from pydantic import JsonValue

from convive.agents._agent import Agent
from convive.agents._journal import Place
from convive.agents._schema import BadTool, clean, json_of, jsonable
from convive.agents._schema_tool import provider_names, schema_tool
from convive.agents._served import Expose, call_served, served_tools
from convive.agents._tools import Tool, ToolContext, ToolError
from convive.bus import ConviveError

try:
    from mcp import Client, ClientSession, MCPError, StdioServerParameters, stdio_server, types
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server import Server, ServerRequestContext
except ModuleNotFoundError as missing:
    raise ImportError(
        f"convive.agents.mcp needs the package mcp ({missing}). Install it: pip install 'convive[mcp]'"
    ) from missing

__all__ = ["McpLimits", "McpServer", "McpUnavailable", "mcp_server", "mcp_tools"]

_MOST_PAGES = 100
_DESCRIPTION_CHARS = 8_000
_MESSAGE_CHARS = 2_000
_CLOSED = (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT)
_log = logging.getLogger("convive.agents")


class McpUnavailable(ConviveError):
    """An MCP server could not be reached, does not answer as one, or its connection broke. No tool is left to call."""


@dataclass(frozen=True, slots=True)
class McpLimits:
    """What an MCP server may cost: seconds to connect and for one call, tools, and the size of one result.

    Longer text is cut, and says so; artifacts that are larger together are described but not kept.
    """

    connect_s: float = 30
    call_s: float | None = 300
    tools: int = 500
    text_chars: int = 50_000
    artifact_bytes: int = 400_000


@asynccontextmanager
async def mcp_tools(
    *,
    command: Sequence[str] | None = None,
    url: str | None = None,
    session: Client | ClientSession | None = None,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    filter: Collection[str] | Callable[[str], bool] | None = None,
    prefix: str = "",
    limits: McpLimits = McpLimits(),
) -> AsyncGenerator[list[Tool]]:
    """The tools of an MCP server, for an agent's `tools=`, as long as the block lasts.

    Give one of: `command`, which is started with `env` beside a few safe variables and stopped with the block;
    `url` of a streamable HTTP endpoint, asked with `headers`; `session`, a connection of yours, which stays open.
    `filter`: the server's names of the tools to take, or a function of the name. `prefix` goes before each name.

    The server's progress becomes live updates, all of them before the result. Its errors go to the model. Text is
    the result; images, sound, files and structured content become artifacts. Tools are listed once. A connection
    that breaks is not made again: calls then fail, and the model is told.

    Raises McpUnavailable, and BadTool when `filter` names a tool that is not there.
    """
    if sum(each is not None for each in (command, url, session)) != 1 or command is not None and not command:
        raise TypeError("mcp_tools takes exactly one of command=[...], url=... and session=...")
    where = "the MCP session" if session else f"MCP server {_public(url) if url else command[0] if command else ''}"
    failure: Exception | None = None
    # The deadline is for connecting: once that is done it is lifted, and the scope only frames the block.
    scope = anyio.CancelScope(deadline=anyio.current_time() + limits.connect_s)
    try:
        with scope:
            async with AsyncExitStack() as stack:
                connection = session or await stack.enter_async_context(_client(stack, command, url, env, headers))
                link = _Link(connection, where, limits)
                tools = await _listed(link, filter, prefix)
                scope.deadline = math.inf
                await anyio.lowlevel.checkpoint_if_cancelled()
                try:
                    yield tools
                except Exception as error:  # noqa: BLE001 - raised again below, outside of the groups that would wrap it
                    failure = error
                finally:
                    link.closed = session is None
    except Exception as error:
        reason = _root(error)
        if isinstance(reason, ConviveError):
            raise reason from None
        if failure is None:
            raise McpUnavailable(f"{where}: {_line(reason)}") from error
        _log.warning("%s could not be closed well", where, exc_info=error)
    if failure is not None:
        raise failure
    if scope.cancelled_caught:
        raise McpUnavailable(f"{where} gave no list of its tools within {limits.connect_s:g} s.")


@dataclass(slots=True)
class _Link:
    session: Client | ClientSession
    where: str
    limits: McpLimits
    closed: bool = False


def _client(
    stack: AsyncExitStack,
    command: Sequence[str] | None,
    url: str | None,
    env: Mapping[str, str] | None,
    headers: Mapping[str, str] | None,
) -> Client:
    raise NotImplementedError
