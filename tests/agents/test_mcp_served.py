"""An agent as an MCP server, for the official package's own client."""

import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters, types
from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.journal._journal import JournalEvent, Place, RunCancelled, RunFinished, RunStarted, journal_event_of
from convive.agents.mcp import mcp_server, mcp_tools
from convive.agents.mcp._mcp_bounds import Reports
from convive.agents.models._errors import BadModelRequest
from convive.agents.models._schema import BadTool
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.runs._frame import current_run
from convive.agents.runs._settings import AskContext
from convive.agents.tools._tools import ToolContext, tool
from convive.bus import MemoryLog, RunContext
from tests.agents.mcp_ends import Mode, both_eras, calls, refund

pytestmark = pytest.mark.anyio


async def journal(place: Place) -> list[JournalEvent]:
    async with place.log.read("base.run.>") as records:
        return [journal_event_of(record) async for record in records]


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
