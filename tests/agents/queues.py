"""Workers and followers of queued runs, for tests."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from convive.agents import Agent, RunUpdate, work
from convive.agents.testing import ScriptedModel
from convive.bus import Bus


@asynccontextmanager
async def worker(bus: Bus, *agents: Agent, **options: Any) -> AsyncGenerator[Callable[[], None]]:
    """A worker beside the block; gives a function that stops it."""
    async with anyio.create_task_group() as tasks:

        async def working() -> None:
            given: dict[str, Any] = {"retry_s": 0.05, "lease_s": 1.0, **options}
            await work(bus, {agent.name: agent for agent in agents}, **given)

        tasks.start_soon(working)
        yield tasks.cancel_scope.cancel
        tasks.cancel_scope.cancel()


async def updates_of(run: Any, **options: Any) -> list[RunUpdate]:
    with anyio.fail_after(20):
        async with run.events(**options) as events:
            return [event async for event in events]


def echo(**options: Any) -> Agent:
    return Agent("echo", model=ScriptedModel(lambda request: f"heard: {request.messages[-1].text}"), **options)
