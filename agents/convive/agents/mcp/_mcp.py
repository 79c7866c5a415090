"""Using the tools of an MCP server."""

import logging
import math
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

import anyio
import anyio.lowlevel
from pydantic import JsonValue

from convive.agents.journal._journal import Place
from convive.agents.mcp._mcp_bounds import (
    MESSAGE_CHARS,
    Keeper,
    McpLimits,
    Reports,
    Updates,
    check_sizes,
    cut,
    failed,
    first_line,
    public_url,
    root_of,
)
from convive.agents.mcp._served import Expose, call_served, served_tools
from convive.agents.models._schema import BadTool, clean, json_of
from convive.agents.runs._agent import Agent
from convive.agents.tools._schema_tool import provider_names, schema_tool
from convive.agents.tools._tools import Tool, ToolContext
from convive.bus import ConviveError

try:
    import httpx2
    from mcp import Client, ClientSession, MCPError, StdioServerParameters, stdio_server, types
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server import Server, ServerRequestContext
except ModuleNotFoundError as missing:
    raise ImportError(
        f"convive.agents.mcp needs the package mcp ({missing}). Install it: pip install 'convive[mcp]'"
    ) from missing

_MOST_PAGES = 100
_HTTP_S = 30
_log = logging.getLogger("convive.agents")

Filter = Collection[str] | Callable[[str], bool]
"""Which tools of a server to take: its own names for them, or a function of the name."""


class McpUnavailable(ConviveError):
    """An MCP server could not be reached, does not answer as one, or its connection broke. No tool is left to call."""


@asynccontextmanager
async def mcp_tools(
    *,
    command: Sequence[str] | None = None,
    url: str | None = None,
    session: Client | ClientSession | None = None,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    filter: Filter | None = None,
    prefix: str = "",
    limits: McpLimits | None = None,
) -> AsyncGenerator[list[Tool]]:
    """The tools of an MCP server, for an agent's `tools=`, as long as the block lasts.

    Give one of: `command`, which is started with `env` beside a few safe variables and stopped with the block;
    `url` of a streamable HTTP endpoint, asked with `headers`; `session`, a connection of yours, which stays open.
    `filter`: which tools to take, by the server's names. `prefix` goes before each name.

    The server's progress becomes live updates, all of them before the result. Its errors go to the model. Text is
    the result; images, sound, files and structured content become artifacts. Tools are listed once. A connection
    that breaks is not made again: calls then fail, and the model is told.

    Raises McpUnavailable, and BadTool when `filter` names a tool that is not there, or the tools are too many or too
    large.
    """
    limits = limits or McpLimits()
    if sum(each is not None for each in (command, url, session)) != 1 or (command is not None and not command):
        raise TypeError("mcp_tools takes exactly one of command=[...], url=... and session=...")
    where = "the MCP session" if command is None else f"MCP server {command[0]}"
    if url is not None:
        try:
            where = f"MCP server {public_url(url)}"
        except ValueError:  # whose text may quote a password
            raise McpUnavailable(
                "the URL of the MCP server cannot be read as one, and is not shown: it may hold a password. "
                "Nothing was tried; correct it, as in http://127.0.0.1:8000/mcp."
            ) from None
    failure: Exception | None = None
    # The deadline is for connecting: once that is done it is lifted, and the scope only frames the block.
    scope = anyio.CancelScope(deadline=anyio.current_time() + limits.connect_s)
    try:
        with scope:
            async with AsyncExitStack() as stack:
                link = _Link(session or await _connected(stack, command, url, env, headers), where, limits)
                found = await _listed(link)
                scope.deadline = math.inf
                await anyio.lowlevel.checkpoint_if_cancelled()
                try:
                    yield _tools(link, _wanted(link, found, filter), prefix)
                except Exception as error:  # noqa: BLE001 - raised again below, outside of the groups that would wrap it
                    failure = error
                finally:
                    link.closed = session is None
    except Exception as error:
        if failure is None:
            raise McpUnavailable(f"{where}: {first_line(root_of(error))}") from error
        _log.warning("%s could not be closed well", where, exc_info=error)
    if failure is not None:
        raise failure
    if scope.cancelled_caught:
        raise McpUnavailable(f"{where} gave no list of its tools within {limits.connect_s:g} s.")


def mcp_server(
    agent: Agent,
    expose: Expose = "agent",
    *,
    name: str | None = None,
    version: str = "",
    instructions: str | None = None,
    tool_name: str | None = None,
    description: str | None = None,
    place: Place | None = None,
    deps: object = None,
) -> "McpServer":
    """Serve an agent: as one tool that takes `{prompt}` and gives text, or its tools, or both.

    `name`, `version` and `instructions` are the server's; `tool_name` and `description` the agent's as a tool.
    Each call is a run of its own, whose journal goes to `place` (by default nowhere that lasts); `deps` are handed
    to the agent's tools. Tools that may have to wait for a person are left out. Raises BadTool when nothing is left
    to serve or two tools share a name, and UnknownModel.
    """
    tools = served_tools(agent, expose, tool_name, description)
    agent.settings()  # a model that is not there is better missed now than by a caller
    listing = types.ListToolsResult(
        tools=[
            types.Tool(name=each.name, description=each.spec.description, input_schema=each.spec.input_schema)
            for each in tools.values()
        ]
    )

    async def on_list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return listing

    async def on_call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name not in tools:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}. Tools: {', '.join(tools)}.")
        outcome = await call_served(
            tools,
            params.name,
            params.arguments or {},
            place=place,
            deps=deps,
            on_update=Reports(context.session.report_progress),
        )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=outcome.content)], is_error=outcome.is_error
        )

    return McpServer(
        Server(
            name or agent.name,
            version=version,
            instructions=instructions,
            on_list_tools=on_list_tools,
            on_call_tool=on_call_tool,
        )
    )


@dataclass(frozen=True, slots=True)
class McpServer:
    """An agent as an MCP server. `server` is the package's own object, for other transports: it makes an ASGI
    application for HTTP (`server.streamable_http_app()`).

    A call that its client cancels, or that is under way when the connection ends, cancels the run.
    """

    server: Server[Any]

    async def serve_stdio(self) -> None:
        """Serve one client over stdin and stdout until it closes stdin. What is printed meanwhile goes to stderr.

        The package reads stdin in a thread that nothing interrupts: Ctrl-C, or cancelling the task, takes effect
        when stdin is closed. SIGTERM ends the process at once.
        """
        async with stdio_server() as (incoming, outgoing):
            await self.server.run(incoming, outgoing, self.server.create_initialization_options())

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """A client of the official package, connected inside this process."""
        return Client(self.server)


@dataclass(slots=True)
class _Link:
    """A connection, owned or not, and whether the block that it lasts for is over."""

    session: Client | ClientSession
    where: str
    limits: McpLimits
    closed: bool = False


async def _connected(
    stack: AsyncExitStack,
    command: Sequence[str] | None,
    url: str | None,
    env: Mapping[str, str] | None,
    headers: Mapping[str, str] | None,
) -> Client:
    me = types.Implementation(name="convive", version=installed_version("convive"))
    if command is not None:
        started = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(env or {}))
        client = Client(started, client_info=me)
    else:
        # The package takes headers only in a client of the HTTP library that it is built on.
        timeout = httpx2.Timeout(_HTTP_S, read=None)  # a call has a deadline of its own
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=dict(headers or {}), timeout=timeout))
        client = Client(streamable_http_client(url or "", http_client=http), client_info=me)
    return await stack.enter_async_context(client)


async def _listed(link: _Link) -> Mapping[str, types.Tool]:
    """All tools of the server by its own names."""
    session = link.session.session if isinstance(link.session, Client) else link.session
    found: dict[str, types.Tool] = {}
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        for each in page.tools:
            found.setdefault(each.name, each)
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ValueError(f"its list of tools has more than {_MOST_PAGES} pages")


def _wanted(link: _Link, found: Mapping[str, types.Tool], filter: Filter | None) -> list[types.Tool]:
    if filter is not None and not callable(filter):
        unknown = sorted(set(filter) - found.keys())
        if unknown:
            raise BadTool(f"{link.where} has no tool {unknown[0]!r}. It has: {cut(clean(', '.join(found))) or 'none'}.")
        wanted = [each for name, each in found.items() if name in filter]
    else:
        wanted = [each for name, each in found.items() if filter is None or filter(name)]
    if len(wanted) > link.limits.tools:
        raise BadTool(
            f"{link.where} has {len(wanted)} tools, and {link.limits.tools} are allowed. "
            "Take fewer (`filter=`) or allow more (`limits=McpLimits(tools=...)`)."
        )
    return wanted


def _tools(link: _Link, wanted: Sequence[types.Tool], prefix: str) -> list[Tool]:
    names = provider_names(f"{prefix}{each.name}" for each in wanted)
    tools = [_tool(link, each, names[f"{prefix}{each.name}"]) for each in wanted]
    made = [each for each in tools if each is not None]
    check_sizes(link.where, made, link.limits)
    return made


def _tool(link: _Link, listed: types.Tool, name: str) -> Tool | None:
    async def call(context: ToolContext, arguments: dict[str, JsonValue]) -> str:
        return await _called(link, listed.name, arguments, context)

    description = cut(clean(listed.description or listed.title or ""), link.limits.description_chars)
    try:
        return schema_tool(name, description, listed.input_schema, call, timeout_s=link.limits.call_s)
    except BadTool as error:
        _log.warning("%s: a tool is left out: %s", link.where, error)
        return None


async def _called(link: _Link, name: str, arguments: dict[str, JsonValue], context: ToolContext) -> str:
    """The text of a result; the rest of it becomes artifacts. Raises ToolError."""
    if link.closed:
        raise failed("mcp_closed", f"The connection to {link.where} was closed.")
    updates = Updates(context)
    try:
        result = await link.session.call_tool(name, arguments, progress_callback=updates)
        await updates.settle()
    except MCPError as error:
        detail = json_of(error.data)
        known = {} if error.data is None or len(detail) > MESSAGE_CHARS else {"data": error.data}
        raise failed("mcp_error", cut(clean(error.message)), code=error.code, **known) from None
    except (RuntimeError, ValueError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
        # A result that breaks the protocol or the tool's own output schema, or a connection half gone.
        raise failed("mcp_failed", f"{link.where} gave no usable result: {first_line(error)}") from None
    finally:
        updates.over = True
    text = cut(_text_of(result, Keeper(context, link.limits.artifact_bytes)), link.limits.text_chars)
    if result.is_error:
        raise failed("tool_failed", text)
    return text


def _text_of(result: types.CallToolResult, keep: Keeper) -> str:
    """What the model reads of a result."""
    read = [_block(block, keep) for block in result.content]
    if result.structured_content is not None:
        written = keep.structured(result.structured_content)
        # A server that also says it in text has said it all there.
        if not any(isinstance(block, types.TextContent) for block in result.content):
            read.append(written)
    return "\n".join(read) or "(nothing was returned)"


def _block(block: types.ContentBlock, keep: Keeper) -> str:
    match block:
        case types.TextContent():
            return clean(block.text)
        case types.ImageContent():
            return keep.file("image", block.mime_type, block.data)
        case types.AudioContent():
            return keep.file("audio", block.mime_type, block.data)
        case types.ResourceLink():
            about = "".join(f", {part}" for part in (block.mime_type, block.description) if part)
            return clean(f"[resource {block.name}: {block.uri}{about}]")
        case types.EmbeddedResource():
            inside = block.resource
            if isinstance(inside, types.TextResourceContents):
                return clean(f"[resource {inside.uri}]\n{inside.text}")
            return keep.file("file", inside.mime_type or "unknown type", inside.blob, uri=str(inside.uri))
