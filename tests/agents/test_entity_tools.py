"""Tools of agents in a handler: they look at the entity, and the handler does what they found."""

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, Request, ToolContext, ToolUse, tool
from convive.agents.entities import Collection, Context, Entities, Wake, spawn
from convive.agents.testing import ScriptedModel
from convive.bus import memory_bus
from tests.agents.entity_kit import hosting, until

pytestmark = pytest.mark.anyio


class Note(BaseModel):
    text: str = ""


NOTES = Collection("notes", Note)


def say(request: Request) -> Answer | str:
    if any(part.type == "tool_result" for part in request.messages[-1].parts):
        return "done"
    return Answer(parts=(ToolUse(id="1", name="note", arguments={"text": "figs"}),), stop_reason="tool_use")


async def test_a_tool_that_changes_the_entity_is_refused_and_so_is_its_wake() -> None:
    """It would not be called again when the handler runs again, and what it changed would be lost."""
    entities, called = Entities(), list[str]()

    @entities.define("a", collections=[NOTES], max_attempts=2)
    async def handle(context: Context, wake: Wake) -> None:
        acts: dict[str, Callable[[], object]] = {
            "row": lambda: context.rows(NOTES).put("one", Note()),
            "send": lambda: context.send("a/2", "hello"),
            "spawn": lambda: context.spawn("a/2"),
            "time": lambda: context.wake_after(1),
            "cancel": lambda: context.cancel("x"),
            "finish": context.finish,
        }

        @tool
        async def note(text: str) -> str:
            """Take a note."""
            called.append(text)
            acts[str(context.args)]()
            return "noted"

        await Agent("ada", model=ScriptedModel(say), tools=[note]).prompt("go")

    async with memory_bus() as bus, hosting(bus, entities):
        for act in ("row", "send", "spawn", "time", "cancel", "finish"):
            await spawn(bus, f"a/{act}", act)
            state = await until(bus, f"a/{act}", lambda state: state.wakes == 1)
            assert state.last is not None
            assert (state.rows, state.last.letters, state.timers, state.status) == ({}, (), {}, "idle")
            assert [each.error.partition(":")[0] for each in state.errors] == ["NotInATool"]


async def test_what_a_tool_found_is_done_by_the_handler_also_when_it_runs_again() -> None:
    """By artifacts: the journal has them, and the tool is called once."""
    entities, called = Entities(), list[str]()

    @entities.define("a", collections=[NOTES])
    async def handle(context: Context, wake: Wake) -> None:
        @tool
        async def note(ctx: ToolContext, text: str) -> str:
            """Take a note."""
            called.append(f"{text} {len(context.rows(NOTES))}")
            ctx.artifacts.add("note", text)
            return "noted"

        result = await Agent("ada", model=ScriptedModel(say), tools=[note]).prompt("go")
        for artifact in result.artifacts:
            context.rows(NOTES).put(artifact.key, Note(text=str(artifact.value)))
        if wake.attempt == 1:
            raise RuntimeError("once more")

    async with memory_bus() as bus, hosting(bus, entities):
        await spawn(bus, "a/1")
        state = await until(bus, "a/1", lambda state: state.wakes == 1)
    assert (called, state.rows, state.errors) == (["figs 0"], {"notes": {"note": {"text": "figs"}}}, [])
