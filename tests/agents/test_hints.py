"""What single providers are told of a tool; and what a run of Claude sends from trip to trip."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Hints, Text, Thinking, ToolUse, client_tool, tool
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._schema import BadTool
from convive.agents.testing import MessagesServer, ScriptedModel, Streamed

pytestmark = pytest.mark.anyio

BASH: Hints = {"anthropic": {"type": "bash_20250124", "name": "bash"}, "acme": {"strict": True}}
ran: list[str] = []


@tool(hints=BASH)
async def bash(command: str) -> str:
    """Run a command."""
    ran.append(command)
    return "/home/ada"


@asynccontextmanager
async def served(name: str, *replies: Any) -> AsyncGenerator[tuple[AnthropicModel, MessagesServer]]:
    async with MessagesServer(replies) as server:
        model = AnthropicModel(name, base_url=server.url, api_key="test", max_retries=0)
        try:
            with anyio.fail_after(20):
                yield model, server
        finally:
            await model.aclose()


def call(name: str, *before: Thinking | Text, **arguments: Any) -> Streamed:
    parts: Sequence[Thinking | Text | ToolUse] = (*before, ToolUse(id="c1", name=name, arguments=arguments))
    return Streamed(parts)


async def test_a_native_tool_goes_to_its_provider_and_its_calls_come_here() -> None:
    """G71"""
    async with served("anthropic/claude-test", call("bash", command="pwd"), "You are at home.") as (model, server):
        result = await Agent("ada", model=model, tools=[bash], instructions="Be brief.").prompt("Where am I?")
    assert server.requests[0].body["tools"] == [{"name": "bash", "type": "bash_20250124"}]
    assert (result.text, ran.pop()) == ("You are at home.", "pwd")


@pytest.mark.parametrize(("name", "hinted"), [("local/claude-test", False), ("acme/claude-test", True)])
async def test_other_providers_are_told_what_the_tool_is_and_what_was_hinted_to_them(name: str, hinted: bool) -> None:
    """G71: by the provider in the model's name, also where it speaks the same protocol"""
    async with served(name, "Hi.") as (model, server):
        await Agent("ada", model=model, tools=[bash], instructions="Be brief.").prompt("Where am I?")
    (sent,) = server.requests[0].body["tools"]
    assert (sent["name"], sent["description"]) == ("bash", "Run a command.")
    assert sent["input_schema"]["required"] == ["command"]
    assert ("strict" in sent) is hinted
    assert "type" not in sent


class Place(BaseModel):
    x: int
    y: int


async def test_a_client_tool_has_hints_too_and_scripts_pass_them_over() -> None:
    """G71, G67"""
    screen = client_tool("computer", "Use the screen.", Place, hints={"anthropic": {"type": "computer_20250124"}})
    model = ScriptedModel(["Hi."])
    await Agent("ada", model=model, tools=[screen]).prompt("x")
    assert model.requests[0].tools[0].hints == {"anthropic": {"type": "computer_20250124"}}
    async with served("anthropic/claude-test", "Hi.") as (claude, server):
        await Agent("ada", model=claude, tools=[screen], instructions="i").prompt("x")
    assert server.requests[0].body["tools"] == [{"name": "computer", "type": "computer_20250124"}]


@pytest.mark.parametrize(
    ("hint", "why"), [({"name": "shell"}, "calls by that name would find"), ({"type": object()}, "is no JSON")]
)
def test_a_hint_that_cannot_be_is_refused_when_the_tool_is_made(hint: Any, why: str) -> None:
    """G71"""
    with pytest.raises(BadTool, match=why):
        tool(name="bash", hints={"anthropic": hint})(bash.function)
    with pytest.raises(BadTool, match=why):
        client_tool("bash", "Run.", hints={"anthropic": hint})


def unmarked(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The blocks of a request in the order in which a cache sees them, without breakpoints."""
    blocks = [("tools", block) for block in body["tools"]] + [("system", block) for block in body["system"]]
    blocks += [(message["role"], block) for message in body["messages"] for block in message["content"]]
    return [(where, {key: value for key, value in block.items() if key != "cache_control"}) for where, block in blocks]


def last_marked(body: dict[str, Any]) -> int:
    """How many blocks stand before the end of what the last breakpoint puts into the cache."""
    blocks = [*body["tools"], *body["system"], *(block for each in body["messages"] for block in each["content"])]
    return max(place for place, block in enumerate(blocks, 1) if "cache_control" in block)


async def test_each_trip_of_a_run_continues_what_the_one_before_put_into_the_cache() -> None:
    """G92, rule 14 of the design, deliverable 11: the prefix is stable, thinking included, and its end is marked"""
    thinking = Thinking(thinking="I should look.", signature="c2lnbmVk")
    replies = [call("bash", thinking, Text(text="Let me see."), command="pwd")] * 3
    async with served("anthropic/claude-test", *replies, "Done.", "Again.") as (model, server):
        ada = Agent("ada", model=model, tools=[bash], instructions="Be brief.")
        first = await ada.prompt("Where am I?")
        await ada.prompt("Sure?", history=first.messages)
    bodies = [request.body for request in server.requests]
    for before, after in pairwise(bodies):
        cached = unmarked(before)[: last_marked(before)]
        assert unmarked(after)[: len(cached)] == cached
        assert last_marked(after) > last_marked(before) == len(unmarked(before))
    kept = [block for where, block in unmarked(bodies[-1]) if where == "assistant" and block["type"] == "thinking"]
    assert kept == [{"type": "thinking", "thinking": "I should look.", "signature": "c2lnbmVk"}] * 3
    assert all(str(body).count("cache_control") <= 4 for body in bodies)  # the API takes no more
