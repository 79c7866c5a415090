"""MCP servers of an agent's own: a process that it starts, or a URL."""

import math
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.server import Server
from pydantic import JsonValue
from starlette.types import Receive, Scope, Send

from convive.agents.mcp import McpLimits, McpUnavailable, mcp_server, mcp_tools
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from tests.agents.mcp_ends import error_of, refund, use
from tests.agents.serving import serving

pytestmark = pytest.mark.anyio

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

    async with serving(app) as url:
        yield f"{url}/mcp"


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
