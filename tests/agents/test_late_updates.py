"""Progress that comes when nobody waits for it any more."""

import threading
from collections.abc import Generator

import anyio
import anyio.to_thread
import pytest

from convive.agents import Agent, Answer, AnyRunEvent, ToolContext, ToolUse, tool
from convive.agents.models._scripted import ScriptedModel

pytestmark = pytest.mark.anyio


def use(*names: str) -> Answer:
    return Answer(parts=tuple(ToolUse(id=name, name=name, arguments={}) for name in names), stop_reason="tool_use")


async def test_a_thread_that_was_given_up_shows_nothing_more() -> None:
    """D6, checklist 8.5: a thread cannot be cancelled; its call is over all the same."""
    go_on, over = threading.Event(), threading.Event()

    @tool(timeout_s=0.05)
    def slow() -> Generator[str, None, None]:
        go_on.wait(10)
        try:
            yield "late"
        finally:
            over.set()

    seen: list[str] = []

    def see(event: AnyRunEvent) -> None:
        seen.append(event.type)

    ada = Agent("ada", model=ScriptedModel([use("slow"), "end"]), tools=[slow], on={"*": see})
    await ada.execute("x")
    go_on.set()
    await anyio.to_thread.run_sync(over.wait, 10)
    assert "tool_updated" not in seen
    assert seen[-1] == "run_finished"


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_generator_without_an_end_is_closed_when_its_call_is_given_up(how: str) -> None:
    """Checklist 8.5: the thread is ours between two items; driven on, it would never be free again."""
    begun, closed = threading.Event(), threading.Event()

    @tool(timeout_s=0.1 if how == "timeout" else None)
    def count() -> Generator[int, None, None]:
        begun.set()
        try:
            while not closed.wait(0.001):
                yield 1
        finally:
            closed.set()

    ada = Agent("ada", model=ScriptedModel([use("count"), "end"]), tools=[count])
    async with ada.stream("x") as run:
        await anyio.to_thread.run_sync(begun.wait, 10)
        if how == "cancel":
            run.cancel("enough")
    over = await anyio.to_thread.run_sync(closed.wait, 5)
    closed.set()
    assert over


async def test_a_task_that_a_tool_left_behind_shows_nothing_more() -> None:
    """Rule 10 of the design: nothing comes after the terminal event, and no update after its call's result."""
    contexts: list[ToolContext] = []
    seen: list[str] = []
    finished = anyio.Event()

    @tool
    async def quick(ctx: ToolContext) -> None:
        contexts.append(ctx)
        await ctx.update("in time")

    @tool
    async def slow() -> None:
        await finished.wait()
        await contexts[0].update("late")

    def see(event: AnyRunEvent) -> None:
        seen.append(event.type)
        if event.type == "tool_finished":
            finished.set()

    ada = Agent("ada", model=ScriptedModel([use("quick", "slow"), "end"]), tools=[quick, slow], on={"*": see})
    await ada.execute("x")
    await contexts[0].update("later still")
    assert (seen.count("tool_updated"), seen[-1]) == (1, "run_finished")
