"""Tools that call agents which wait, in the ways that Python offers."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.from_thread
import pytest

from convive.agents import Agent, AgentResult, Answer, Approve, Place, Tool, ToolUse, resume, tool
from convive.agents.models._scripted import ScriptedModel
from convive.bus import MemoryLog

pytestmark = pytest.mark.anyio

Ask = Callable[[], Awaitable[AgentResult]]


def use(name: str) -> Answer:
    return Answer(parts=(ToolUse(id="1", name=name, arguments={}),), stop_reason="tool_use")


async def approved(make: Callable[[Ask], Tool]) -> tuple[str, list[str]]:
    """Run an agent with a tool that asks another one, which waits for an approval; the status at first, and what was
    paid when the approval had come."""
    paid: list[str] = []
    where = Place(MemoryLog(), "cv.00.test", live=False)

    @tool(needs_approval=True)
    async def pay() -> str:
        paid.append("paid")
        return "paid"

    clerk = Agent("clerk", model=ScriptedModel([use("pay"), "It is paid."]), tools=[pay])
    chief = Agent("chief", model=ScriptedModel([use("ask"), "Well."]), tools=[make(lambda: clerk.prompt("Pay."))])
    first = await chief.execute("x", place=where)
    if first.status == "suspended":
        after = await resume(where, first.run_id, {each.id: Approve() for each in first.interrupts}, agent=chief)
        assert (after.status, after.text) == ("completed", "Well.")
    return first.status, paid


def gathering(ask: Ask) -> Tool:
    @tool(name="ask")
    async def all_of_them() -> str:
        (answer,) = await asyncio.gather(ask(), return_exceptions=True)
        return answer.text if isinstance(answer, AgentResult) else repr(answer)

    return all_of_them


def failing_beside(ask: Ask) -> Tool:
    @tool(name="ask")
    async def both() -> None:
        async def fail_when_cancelled() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("the cleaning up failed")

        async def answer() -> None:
            await ask()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(answer)

    return both


def in_a_thread(ask: Ask) -> Tool:
    @tool(name="ask")
    def blocking() -> str:
        async def answer() -> str:
            return (await ask()).text

        return anyio.from_thread.run(answer)

    return blocking


@pytest.mark.parametrize("make", [gathering, failing_beside, in_a_thread])
async def test_a_tool_waits_with_the_agent_inside_however_it_asks(make: Callable[[Ask], Tool]) -> None:
    """G28: an approval that a tool swallows would never be asked for."""
    assert await approved(make) == ("suspended", ["paid"])
