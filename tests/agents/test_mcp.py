"""MCP both ways, against the official package's own servers and clients."""

import math
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError as ServerToolError
from pydantic import BaseModel, JsonValue
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from convive.agents import _events as shown
from convive.agents._agent import Agent
from convive.agents._calls import Outcome, Ready, carry_out, prepare
from convive.agents._errors import BadModelRequest
from convive.agents._fold import Call
from convive.agents._frame import current_run
from convive.agents._journal import JournalEvent, Place, RunCancelled, RunFinished, RunStarted, journal_event_of
from convive.agents._mcp_bounds import Reports
from convive.agents._messages import ToolResult, ToolUse
from convive.agents._model import Answer
from convive.agents._schema import BadTool
from convive.agents._schema_tool import provider_names, schema_tool
from convive.agents._scripted import ScriptedModel
from convive.agents._settings import AskContext
from convive.agents._tools import Tool, ToolContext, ToolError, by_name, tool
from convive.agents.mcp import McpLimits, McpUnavailable, mcp_server, mcp_tools
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

Mode = Literal["legacy", "auto"]
both_eras = pytest.mark.parametrize("mode", ["legacy", "auto"])
"""The wire of the handshake, in frames of JSON-RPC, and the one of 2026, whose calls are direct in one process."""


class Disk(BaseModel):
    free: int
    used: int


def file_server() -> MCPServer:
    server = MCPServer("files")

    @server.tool()
    async def read(path: str) -> str:
        """Read a file."""
        return f"contents of {path}"

    @server.tool(name="disk.usage")
    async def disk_usage() -> Disk:
        """How full the disk is."""
        return Disk(free=1, used=2)

    @server.tool()
    async def index(context: Context) -> str:
        """Index all files."""
        for done in (1, 2, 3):
            await context.report_progress(done, 3, f"file {done}")
        return "indexed"

    @server.tool()
    async def fail() -> str:
        """Fail."""
        raise ServerToolError("the disk is on fire")

    return server


def odd_server(
    tools: Sequence[types.Tool] = (types.Tool(name="odd", input_schema={"type": "object"}),),
    result: types.CallToolResult | Exception | None = None,
    pages: int = 1,
) -> Server[Any]:
    """A server that answers every call the same."""

    async def on_list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        page = int(params.cursor) if params and params.cursor else 1
        following = str(page + 1) if page < pages else None
        return types.ListToolsResult(tools=list(tools) if page == pages else [], next_cursor=following)

    async def on_call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if isinstance(result, Exception):
            raise result
        return result or types.CallToolResult(content=[])

    return Server("odd", on_list_tools=on_list_tools, on_call_tool=on_call_tool)


async def use(
    subject: Tool, arguments: JsonValue, updates: list[JsonValue] | None = None, slowly: bool = False
) -> Outcome:
    """Call a tool as a run does."""

    async def on_update(value: JsonValue) -> None:
        if slowly:
            await anyio.lowlevel.checkpoint()
        if updates is not None:
            updates.append(value)

    context = ToolContext(
        RunContext.root(), "1", subject.name, trip=0, attempt=1, idempotency_key="key", on_update=on_update
    )
    prepared = prepare(Call(0, "1", subject.name, arguments), by_name([subject]))
    return await carry_out(prepared, context) if isinstance(prepared, Ready) else prepared


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.is_error
    assert "Traceback" not in outcome.content
    error: dict[str, Any] = from_json(outcome.content)
    return error


def calls(name: str, arguments: JsonValue = None) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments=arguments or {}),), stop_reason="tool_use")


async def journal(place: Place) -> list[JournalEvent]:
    async with place.log.read("base.run.>") as records:
        return [journal_event_of(record) async for record in records]


# --- an agent uses a server's tools ---


@both_eras
async def test_an_agent_uses_the_tools_of_an_mcp_server(mode: Mode) -> None:
    """G49, G98"""
    model = ScriptedModel([calls("files_read", {"path": "a.txt"}), "I read it."])
    async with Client(file_server(), mode=mode) as client, mcp_tools(session=client, prefix="files_") as tools:
        assert (await Agent("ada", model=model, tools=tools).prompt("Read it.")).text == "I read it."
    read = model.requests[0].tools[0]
    assert (read.name, read.description) == ("files_read", "Read a file.")
    assert read.input_schema["required"] == ["path"]
    (answer,) = model.requests[1].messages[-1].parts
    assert isinstance(answer, ToolResult)
    assert (answer.content, answer.is_error) == ("contents of a.txt", False)


@both_eras
async def test_progress_is_shown_live_in_order_and_all_of_it_before_the_result(mode: Mode) -> None:
    """G73, G98"""
    expected = [{"progress": done, "total": 3.0, "message": f"file {done}"} for done in (1, 2, 3)]
    async with Client(file_server(), mode=mode) as client, mcp_tools(session=client, filter=["index"]) as tools:
        updates: list[JsonValue] = []
        assert (await use(tools[0], {}, updates, slowly=True)).content == "indexed"
        assert updates == expected
        agent = Agent("ada", model=ScriptedModel([calls("index"), "done"]), tools=tools)
        async with agent.stream("go") as run:
            events = [event async for event in run]
    told = [event for event in events if isinstance(event, shown.ToolUpdated | shown.ToolFinished)]
    assert [event.value for event in told[:-1] if isinstance(event, shown.ToolUpdated)] == expected
    assert isinstance(told[-1], shown.ToolFinished)


async def test_names_are_made_fit_for_providers_and_stay_different() -> None:
    """G98"""
    async with Client(file_server()) as client, mcp_tools(session=client, prefix="my files/") as tools:
        assert [each.name for each in tools] == [
            "my_files_read",
            "my_files_disk_usage",
            "my_files_index",
            "my_files_fail",
        ]
        assert (await use(tools[1], {})).content == '{\n  "free": 1,\n  "used": 2\n}'
    names = provider_names(["a.b", "a_b", "a b", "x" * 70, "ü", "fine"])
    assert (names["a_b"], names["fine"]) == ("a_b", "fine")
    assert len(set(names.values())) == 6
    assert all(len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum() for name in names.values())
    assert all(name.isascii() for name in names.values())
    assert names == provider_names(reversed(names))


async def test_a_filter_takes_tools_by_name_and_refuses_one_that_is_not_there() -> None:
    """G98"""
    async with Client(file_server()) as client:
        async with mcp_tools(session=client, filter=["read", "fail"]) as tools:
            assert [each.name for each in tools] == ["read", "fail"]
        async with mcp_tools(session=client, filter=lambda name: "." in name) as tools:
            assert [each.name for each in tools] == ["disk_usage"]
        with pytest.raises(BadTool, match=r"no tool 'raed'\. It has: read, disk.usage, index, fail"):
            async with mcp_tools(session=client, filter=["raed"]):
                pass
        with pytest.raises(BadTool, match="has 4 tools"):
            async with mcp_tools(session=client, limits=McpLimits(tools=3)):
                pass


@both_eras
async def test_errors_go_to_the_model_with_their_kind(mode: Mode) -> None:
    """G75, G98"""
    async with Client(file_server(), mode=mode) as client, mcp_tools(session=client) as tools:
        read, _, _, fail = tools
        failed = error_of(await use(fail, {}))
        assert failed["error"] == "tool_failed"
        assert "the disk is on fire" in failed["message"]
        missing = error_of(await use(read, {}))
        assert missing["error"] == "invalid_arguments"
        assert missing["issues"] == [{"path": "path", "message": "Field required"}]
    odd = odd_server(result=MCPError(-32042, "not today", {"until": "monday"}))
    async with Client(odd, mode=mode) as client, mcp_tools(session=client) as (tool,):
        expected = {"error": "mcp_error", "message": "not today", "code": -32042, "data": {"until": "monday"}}
        assert error_of(await use(tool, {})) == expected


async def test_a_result_that_breaks_the_tools_own_schema_is_an_error() -> None:
    strict = types.Tool(name="odd", input_schema={"type": "object"}, output_schema=Disk.model_json_schema())
    wrong = types.CallToolResult(content=[], structured_content={"free": "lots"})
    async with Client(odd_server([strict], wrong)) as client, mcp_tools(session=client) as (tool,):
        error = error_of(await use(tool, {}))
    assert error["error"] == "mcp_failed"
    assert "Invalid structured content" in error["message"]
    assert len(error["message"]) < 300


async def test_what_is_no_text_becomes_artifacts_and_is_described() -> None:
    result = types.CallToolResult(
        content=[
            types.TextContent(type="text", text="Here:"),
            types.ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
            types.AudioContent(type="audio", data="aGVsbG8=", mime_type="audio/wav"),
            types.ResourceLink(type="resource_link", name="log", uri="file:///log", mime_type="text/plain"),
            types.EmbeddedResource(
                type="resource", resource=types.TextResourceContents(uri="file:///note", text="remember")
            ),
            types.EmbeddedResource(
                type="resource", resource=types.BlobResourceContents(uri="file:///x.bin", blob="aGVsbG8=")
            ),
        ],
        structured_content={"files": 4},
    )
    async with Client(odd_server(result=result)) as client, mcp_tools(session=client) as (tool,):
        outcome = await use(tool, {})
    assert outcome.content.splitlines() == [
        "Here:",
        "[image, image/png, 6 bytes: kept for the application as 'image-1', not shown here]",
        "[audio, audio/wav, 6 bytes: kept for the application as 'audio-2', not shown here]",
        "[resource log: file:///log, text/plain]",
        "[resource file:///note]",
        "remember",
        "[file, unknown type, file:///x.bin, 6 bytes: kept for the application as 'file-3', not shown here]",
    ]
    kept = {artifact.key: artifact.value for artifact in outcome.artifacts}
    assert list(kept) == ["image-1", "audio-2", "file-3", "structured"]
    assert kept["image-1"] == {"mime_type": "image/png", "base64": "aGVsbG8="}
    assert kept["structured"] == {"files": 4}


async def test_structured_content_without_text_is_what_the_model_reads() -> None:
    result = types.CallToolResult(content=[], structured_content={"files": 4})
    async with Client(odd_server(result=result)) as client, mcp_tools(session=client) as (tool,):
        assert (await use(tool, {})).content == '{"files":4}'
    async with Client(odd_server()) as client, mcp_tools(session=client) as (tool,):
        assert (await use(tool, {})).content == "(nothing was returned)"


async def test_results_are_bounded() -> None:
    picture = types.ImageContent(type="image", data="a" * 400, mime_type="image/png")
    wide = types.CallToolResult(content=[picture, types.TextContent(type="text", text="x" * 1_000)])
    limits = McpLimits(text_chars=100, artifact_bytes=300)
    async with Client(odd_server(result=wide)) as client, mcp_tools(session=client, limits=limits) as (tool,):
        outcome = await use(tool, {})
    assert outcome.content.startswith("[image, image/png, 300 bytes: too large to be kept]\nxxx")
    assert outcome.content.endswith("[cut: 100 of 1052 characters are shown]")
    assert outcome.artifacts == ()


async def test_a_list_of_tools_is_read_to_its_end_unless_it_has_none() -> None:
    async with Client(odd_server(pages=3)) as client, mcp_tools(session=client) as tools:
        assert [each.name for each in tools] == ["odd"]
    async with Client(odd_server(pages=1_000)) as client:
        with pytest.raises(McpUnavailable, match="more than 100 pages"):
            async with mcp_tools(session=client):
                pass


async def test_a_call_that_takes_too_long_is_given_up_and_the_server_told() -> None:
    stopped = anyio.Event()
    server = MCPServer("slow")

    @server.tool()
    async def wait() -> str:
        """Wait."""
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        return ""

    async with Client(server, mode="legacy") as client:
        async with mcp_tools(session=client, limits=McpLimits(call_s=0.2)) as (tool,):
            assert error_of(await use(tool, {}))["error"] == "timeout"
        with anyio.fail_after(10):
            await stopped.wait()


async def test_a_call_that_is_cancelled_is_cancelled_on_the_server() -> None:
    started, stopped = anyio.Event(), anyio.Event()
    server = MCPServer("slow")

    @server.tool()
    async def wait() -> str:
        """Wait."""
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        return ""

    async with Client(server, mode="legacy") as client, mcp_tools(session=client) as (tool,):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(use, tool, {}))
            await started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await stopped.wait()


async def test_a_session_of_yours_stays_open_and_no_two_sources_are_taken() -> None:
    """G98"""
    async with Client(file_server()) as client:
        with pytest.raises(RuntimeError, match="mine"):
            async with mcp_tools(session=client):
                raise RuntimeError("mine")
        async with mcp_tools(session=client.session, filter=["read"]) as (read,):
            assert (await use(read, {"path": "b"})).content == "contents of b"
        for sources in (mcp_tools(), mcp_tools(session=client, url="http://x"), mcp_tools(command=[])):
            with pytest.raises(TypeError, match="exactly one"):
                async with sources:
                    pass
    with pytest.raises(McpUnavailable, match="the MCP session"):
        async with mcp_tools(session=client):
            pass


# --- servers of its own: a process, a URL ---

SERVER = """
import os, sys
from pathlib import Path
import anyio
from mcp import MCPError, stdio_server
from mcp.server import MCPServer, Server

server = MCPServer("files")
record = Path(sys.argv[1])

def note(word):
    with record.open("a") as file:
        file.write(word + "\\n")

@server.tool()
async def read(path: str) -> str:
    "Read a file."
    return os.environ.get("GREETING", "") + path

@server.tool()
async def vanish() -> str:
    "Be gone."
    os._exit(3)

async def refuse(context, params):
    raise MCPError(-32603, "no list today")

async def without_tools():
    async with stdio_server() as streams:
        bare = Server("bare", on_list_tools=refuse)
        await bare.run(*streams, bare.create_initialization_options())

note("started")
anyio.run(without_tools) if "no-list" in sys.argv else server.run("stdio")
note("ended")
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """The command of a server on the official package, which records when it starts and ends."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "record").touch()
    return [sys.executable, str(tmp_path / "server.py"), str(tmp_path / "record")]


def recorded(program: Sequence[str]) -> list[str]:
    return Path(program[2]).read_text().splitlines()


async def test_a_command_is_started_and_stopped_once(program: list[str]) -> None:
    """G98"""
    async with mcp_tools(command=program, env={"GREETING": "hello "}, filter=["read"]) as (read,):
        assert anyio.current_effective_deadline() == math.inf, "the deadline is for connecting"
        assert (await use(read, {"path": "you"})).content == "hello you"
    assert recorded(program) == ["started", "ended"]
    assert error_of(await use(read, {"path": "you"}))["error"] == "mcp_closed"


async def test_a_command_is_stopped_when_the_block_fails_and_the_failure_comes_out_as_it_is(
    program: list[str],
) -> None:
    """G98"""
    with pytest.raises(RuntimeError, match="mine") as raised:
        async with mcp_tools(command=program):
            raise RuntimeError("mine")
    assert type(raised.value) is RuntimeError
    assert recorded(program) == ["started", "ended"]


async def test_a_command_is_stopped_when_its_tools_cannot_be_listed(program: list[str]) -> None:
    """G98"""
    with pytest.raises(McpUnavailable, match="no list today"):
        async with mcp_tools(command=[*program, "no-list"]):
            pass
    assert recorded(program) == ["started", "ended"]


async def test_a_command_is_stopped_when_the_block_is_cancelled(program: list[str]) -> None:
    with anyio.CancelScope() as scope:
        async with mcp_tools(command=program):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert recorded(program) == ["started", "ended"]


async def test_a_server_that_dies_during_a_call_is_an_error_for_the_model(program: list[str]) -> None:
    async with mcp_tools(command=program) as (read, vanish):
        assert "Connection closed" in error_of(await use(vanish, {}))["message"]
        assert error_of(await use(read, {"path": "you"}))["error"] == "mcp_error"


async def test_what_is_no_mcp_server_is_told_in_one_line() -> None:
    with pytest.raises(McpUnavailable, match="no-such-program"):
        async with mcp_tools(command=["no-such-program", "--token=secret"]):
            pass
    with pytest.raises(McpUnavailable, match="Connection closed"):
        async with mcp_tools(command=[sys.executable, "-c", "pass"]):
            pass
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with pytest.raises(McpUnavailable, match=r"within 0\.2 s"):
        async with mcp_tools(command=silent, limits=McpLimits(connect_s=0.2)):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(McpUnavailable) as raised:
            async with mcp_tools(url=f"http://user:secret@127.0.0.1:{port}/mcp?key=secret"):
                pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/mcp",
        "http://me:secret@[::1/mcp",
        "http://me:secret@host]/mcp",
        "http://me:secret/s@127.0.0.1/mcp",
        "http://me:secret℀@host/mcp",
        "http://127.0.0.1:port/mcp?key=secret",
        "http://127.0.0.1:99999/mcp?key=secret",
    ],
)
async def test_a_url_that_is_none_is_an_unavailable_server_and_not_shown(url: str) -> None:
    with pytest.raises(McpUnavailable, match="Nothing was tried") as raised:
        async with mcp_tools(url=url):
            pass
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["", "secret", "ftp://secret@host/mcp", "http:///mcp"])
async def test_a_url_that_leads_nowhere_is_an_unavailable_server(url: str) -> None:
    with pytest.raises(McpUnavailable):
        async with mcp_tools(url=url):
            pass


@asynccontextmanager
async def over_http(server: Server[Any], seen: list[bytes]) -> AsyncGenerator[str]:
    """The URL of a server on streamable HTTP; `seen` gets the authorization of each request."""
    inner = server.streamable_http_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b""))
        await inner(scope, receive, send)

    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(running.serve, sockets=[listening]))
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
            running.should_exit = True


async def test_a_server_is_reached_by_its_url_with_headers_and_an_agent_is_served_there() -> None:
    """G98, G99"""
    agent = Agent("ada", model=ScriptedModel(["Yes."]), tools=[refund])
    seen: list[bytes] = []
    updates: list[JsonValue] = []
    async with (
        over_http(mcp_server(agent, "both").server, seen) as url,
        mcp_tools(url=url, headers={"Authorization": "Bearer key"}) as (ada, give),
    ):
        assert (await use(ada, {"prompt": "Is it there?"})).content == "Yes."
        assert (await use(give, {"order": "7"}, updates)).content == "refunded 7"
    assert updates == [{"progress": 1.0, "message": "charging"}]
    assert set(seen) == {b"Bearer key"}


# --- an agent is served ---


@tool
async def refund(context: ToolContext, order: str) -> str:
    """Refund an order."""
    if order == "0":
        raise ToolError("There is no order 0.")
    await context.update("charging")
    return f"refunded {order}"


@both_eras
async def test_an_agent_is_a_tool_that_takes_a_prompt_and_gives_text(mode: Mode) -> None:
    """G49, G99"""
    model = ScriptedModel(["Berlin."])
    served = mcp_server(
        Agent("travel guide", model=model), name="guide", version="2", instructions="Ask away.", description="Knows."
    )
    async with Client(served.server, mode=mode) as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("guide", "2")
        assert client.instructions == "Ask away."
        (listed,) = (await client.list_tools()).tools
        assert (listed.name, listed.description) == ("travel_guide", "Knows.")
        assert listed.input_schema["required"] == ["prompt"]
        result = await client.call_tool("travel_guide", {"prompt": "Where to?"})
    assert result.content == [types.TextContent(type="text", text="Berlin.")]
    assert not result.is_error
    assert model.requests[0].messages[-1].text == "Where to?"


@both_eras
async def test_what_a_run_does_is_told_as_progress_that_counts_upwards(mode: Mode) -> None:
    """G99"""
    told: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    agent = Agent("ada", model=ScriptedModel([calls("refund", {"order": "7"}), "Done."]), tools=[refund])
    async with Client(mcp_server(agent).server, mode=mode) as client:
        await client.call_tool("ada", {"prompt": "Refund 7."}, progress_callback=on_progress)
    assert told == [
        (1, "trip 1"),
        (2, "calls refund"),
        (3, "refund: charging"),
        (4, "refund is done"),
        (5, "trip 2"),
    ]


async def test_progress_of_another_server_keeps_its_numbers_as_far_as_they_grow() -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    reports = Reports(report)
    await reports({"progress": 5, "total": 9, "message": "a"})
    await reports({"progress": 4, "total": 9})
    await reports("b")
    await reports({"message": "c"})
    await reports({"x": 1})
    await reports(None)
    await reports("\ud800" + "x" * 3_000)
    long = told.pop()[2] or ""
    assert long.startswith("?xxx")
    assert long.endswith("[cut: 2000 of 3001 characters are shown]")
    assert told == [
        (5, 9, "a"),
        (6, None, None),
        (7, None, "b"),
        (8, None, "c"),
        (9, None, '{"x":1}'),
        (10, None, None),
    ]


@both_eras
async def test_a_run_that_fails_is_an_error_without_a_traceback(mode: Mode) -> None:
    """G99"""

    def broken(context: AskContext) -> str:
        raise LookupError("no instructions")

    failing = Agent("ada", model=ScriptedModel([BadModelRequest("too long")]))
    for agent, expected in (
        (failing, {"error": "run_failed", "type": "BadModelRequest", "message": "too long"}),
        (
            Agent("ada", model=ScriptedModel([]), instructions=broken),
            {"error": "tool_failed", "type": "LookupError", "message": "no instructions"},
        ),
    ):
        async with Client(mcp_server(agent).server, mode=mode) as client:
            result = await client.call_tool("ada", {"prompt": "x"})
            (text,) = result.content
            assert isinstance(text, types.TextContent)
            assert result.is_error
            assert "Traceback" not in text.text
            said: dict[str, JsonValue] = from_json(text.text)
            assert expected.items() <= said.items()
            empty = await client.call_tool("ada", {"prompt": ""})
            assert empty.is_error
            assert "invalid_arguments" in str(empty.content)
            with pytest.raises(MCPError, match=r"Unknown tool: bob\. Tools: ada") as raised:
                await client.call_tool("bob", {})
            assert raised.value.code == types.INVALID_PARAMS


@both_eras
async def test_a_client_that_cancels_its_call_cancels_the_run(mode: Mode) -> None:
    """G99"""
    asked = anyio.Event()

    async def hang() -> None:
        asked.set()
        await anyio.sleep_forever()

    place = Place(MemoryLog(), "base", live=False)
    agent = Agent("ada", model=ScriptedModel(["never"], pause=hang))
    async with Client(mcp_server(agent, place=place).server, mode=mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "ada", {"prompt": "x"})
            await asked.wait()
            group.cancel_scope.cancel()
        async with place.log.follow("base.run.>") as records:
            with anyio.fail_after(10):
                async for record in records:
                    if isinstance(journal_event_of(record), RunCancelled):
                        break


async def test_a_client_that_goes_away_cancels_its_runs() -> None:
    asked = anyio.Event()

    async def hang() -> None:
        asked.set()
        await anyio.sleep_forever()

    place = Place(MemoryLog(), "base", live=False)
    agent = Agent("ada", model=ScriptedModel(["never"], pause=hang))
    async with (
        anyio.create_task_group() as group,
        Client(mcp_server(agent, place=place).server, mode="legacy") as client,
    ):

        async def call() -> None:
            with pytest.raises(MCPError):
                await client.call_tool("ada", {"prompt": "x"})

        group.start_soon(call)
        await asked.wait()
    assert isinstance((await journal(place))[-1], RunCancelled)


@both_eras
async def test_an_agents_tools_are_served_without_a_run(mode: Mode) -> None:
    """G99"""
    runs: list[RunContext | None] = []
    child = Agent("child", model=ScriptedModel(["deep"]))

    @tool
    async def dig(context: ToolContext) -> str:
        """Dig."""
        runs.append(current_run())
        return f"{(await child.prompt('dig')).text} {context.deps}"

    place = Place(MemoryLog(), "base", live=False)
    served = mcp_server(Agent("ada", model=ScriptedModel([]), tools=[refund, dig]), "tools", place=place, deps="deps")
    async with Client(served.server, mode=mode) as client:
        assert [each.name for each in (await client.list_tools()).tools] == ["refund", "dig"]
        failed = await client.call_tool("refund", {"order": "0"})
        assert (failed.content, failed.is_error) == (
            [types.TextContent(type="text", text="There is no order 0.")],
            True,
        )
        assert (await client.call_tool("dig")).content == [types.TextContent(type="text", text="deep deps")]
    started, *_, ended = await journal(place)
    assert isinstance(started, RunStarted)
    assert isinstance(ended, RunFinished)
    assert runs[0] is not None
    assert started.parent == started.root == runs[0].run_id


async def test_agent_and_tools_are_served_together_unless_their_names_clash() -> None:
    """G99"""
    model = ScriptedModel([])
    served = mcp_server(Agent("ada", model=model, tools=[refund]), "both", tool_name="ask")
    async with served.connect() as client:
        assert [each.name for each in (await client.list_tools()).tools] == ["ask", "refund"]
    with pytest.raises(BadTool, match="two tools are named 'refund'"):
        mcp_server(Agent("refund", model=model, tools=[refund]), "both")
    with pytest.raises(BadTool, match="no tool that could be served"):
        mcp_server(Agent("ada", model=model), "tools")


async def test_a_tool_that_waits_for_a_person_or_for_the_application_is_not_served() -> None:
    """G82, G99"""
    guarded = replace(refund, needs_approval=True)
    elsewhere = replace(refund, client=True)
    for waiting in (guarded, elsewhere):
        agent = Agent("ada", model=ScriptedModel([]), tools=[waiting])
        async with mcp_server(agent, "both").connect() as client:
            assert [each.name for each in (await client.list_tools()).tools] == ["ada"]
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool("refund", {"order": "7"})


async def test_a_served_tool_whose_agent_inside_waits_for_a_person_says_so() -> None:
    """G99"""
    clerk = Agent(
        "clerk", model=ScriptedModel([calls("refund", {"order": "7"})]), tools=[replace(refund, needs_approval=True)]
    )

    @tool
    async def desk(order: str) -> str:
        """Ask the clerk."""
        return (await clerk.prompt(order)).text

    async with mcp_server(Agent("ada", model=ScriptedModel([]), tools=[desk]), "tools").connect() as client:
        answer = await client.call_tool("desk", {"order": "7"})
        assert answer.is_error
        assert "whoever called cannot be asked" in str(answer.content)


async def test_an_agent_behind_mcp_is_a_run_of_its_own_even_in_the_same_process() -> None:
    """G49"""
    place, other = Place(MemoryLog(), "base", live=False), Place(MemoryLog(), "base", live=False)
    expert = Agent("expert", model=ScriptedModel(["42"]))
    async with (
        mcp_server(expert, place=other).connect() as client,
        mcp_tools(session=client) as tools,
    ):
        asker = Agent("asker", model=ScriptedModel([calls("expert", {"prompt": "?"}), "It is 42."]), tools=tools)
        assert (await asker.prompt("Find out.", place=place)).text == "It is 42."
    outer, inner = (await journal(place))[0], (await journal(other))[0]
    assert isinstance(outer, RunStarted)
    assert isinstance(inner, RunStarted)
    assert (inner.agent, inner.parent) == ("expert", None)
    assert inner.root != outer.root


async def test_an_agent_is_served_over_real_stdio_and_prints_do_no_harm(tmp_path: Path) -> None:
    """G99"""
    script = """
        import anyio
        from convive.agents import Agent, Answer, ToolContext, ToolUse, tool
        from convive.agents.mcp import mcp_server
        from convive.agents.testing import ScriptedModel

        @tool
        async def look(context: ToolContext) -> str:
            "Look."
            print("this is not JSON-RPC")
            await context.update("looking")
            return "seen"

        use = Answer(parts=(ToolUse(id="1", name="look", arguments={}),), stop_reason="tool_use")
        ada = Agent("ada", model=ScriptedModel([use, "I saw it."]), tools=[look])
        anyio.run(mcp_server(ada, "both").serve_stdio)
        print("served to the end")
    """
    (tmp_path / "served.py").write_text(dedent(script))
    messages: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        messages.append(message)

    async with Client(StdioServerParameters(command=sys.executable, args=[str(tmp_path / "served.py")])) as client:
        assert [each.name for each in (await client.list_tools()).tools] == ["ada", "look"]
        result = await client.call_tool("ada", {"prompt": "Look."}, progress_callback=on_progress)
        assert result.content == [types.TextContent(type="text", text="I saw it.")]
    assert "look: looking" in messages


# --- the pieces ---


async def test_a_tool_of_a_json_schema_passes_it_on_and_checks_its_outermost_level() -> None:
    """G68, G69, G74"""

    def handler(context: ToolContext, arguments: dict[str, JsonValue]) -> JsonValue:
        context.artifacts.add("seen", arguments)
        return arguments

    schema: dict[str, JsonValue] = {
        "properties": {
            "count": {"type": "integer"},
            "size": {"type": ["number", "null"]},
            "deep": {"type": "object", "properties": {"x": {"type": "string"}}},
            "any": {"$ref": "#/$defs/any"},
        },
        "required": ["count"],
        "additionalProperties": False,
        "x-vendor": True,
    }
    subject = schema_tool("make", "Make it.", schema, handler)
    assert subject.spec.input_schema == {"type": "object", **schema}
    good: JsonValue = {"count": 2.0, "size": None, "deep": {"x": 5}, "any": [1]}
    assert from_json((await use(subject, good)).content) == good
    bad = error_of(await use(subject, {"count": True, "size": "big", "deep": [], "more": 1}))
    assert [issue["path"] for issue in bad["issues"]] == ["count", "size", "deep", "more"]
    assert error_of(await use(subject, [1]))["error"] == "invalid_arguments"
    for name, root in (("no spaces", "object"), ("x" * 65, "object"), ("fine", "array")):
        with pytest.raises(BadTool):
            schema_tool(name, "", {"type": root}, handler)


def test_the_package_is_needed_only_here_and_its_absence_says_what_to_install() -> None:
    code = """
        import sys
        import convive.agents, convive.agents.testing
        assert "mcp" not in sys.modules
        sys.modules["mcp"] = None
        try:
            import convive.agents.mcp
        except ImportError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert "pip install 'convive[mcp]'" in ran.stdout
