"""An agent uses the tools of MCP servers: the official package's own."""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from textwrap import dedent
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, types
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError as ServerToolError
from pydantic import BaseModel, JsonValue
from pydantic_core import from_json

from convive.agents.mcp import McpLimits, McpUnavailable, mcp_tools
from convive.agents.models._messages import ToolResult
from convive.agents.models._schema import BadTool
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs import _events as shown
from convive.agents.runs._agent import Agent
from convive.agents.tools._schema_tool import provider_names, schema_tool
from convive.agents.tools._tools import ToolContext
from tests.agents.mcp_ends import Mode, both_eras, calls, error_of, use

pytestmark = pytest.mark.anyio


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
