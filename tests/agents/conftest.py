"""Buses that the tests of several modules use: in memory, and of each kind."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

import pytest

from convive.bus import Bus, Conversation, memory_bus, open_bus
from tests.agents.seats import opened


@pytest.fixture
async def memory() -> AsyncGenerator[Bus]:
    """A bus in memory."""
    async with memory_bus() as made:
        yield made


@pytest.fixture
async def table(memory: Bus) -> Conversation:
    """A conversation that was opened, with seats for ada and bob."""
    return await opened(memory)


@pytest.fixture(params=["memory", "server"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    """Once in memory, once on the server that all tests share."""
    found: AbstractAsyncContextManager[Bus] = memory_bus() if request.param == "memory" else open_bus(nats_url)
    async with found as made:
        yield made


@pytest.fixture
def name() -> str:
    """A queue of the test's own: the server is shared."""
    return f"q-{secrets.token_hex(6)}"
