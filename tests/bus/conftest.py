"""A bus of each kind, and buses on three nodes."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.bus import Bus, BusUnavailable, Stream, memory_bus, mint_run_id, open_bus
from convive.bus.testing import server

if TYPE_CHECKING:
    from tests.conftest import Cluster

Ready = Callable[[AsyncExitStack, str], Awaitable[Bus]]


@pytest.fixture(scope="module")
async def url() -> AsyncGenerator[str]:
    """A server that the tests of a module share."""
    async with server() as own:
        yield own.url


@pytest.fixture(params=["memory", "jetstream"])
async def bus(request: pytest.FixtureRequest, url: str) -> AsyncGenerator[Bus]:
    """Once in memory, once on that server."""
    async with memory_bus() if request.param == "memory" else open_bus(url) as found:
        yield found


@pytest.fixture
async def stream(bus: Bus) -> Stream:
    """A stream of a test's own."""
    return await bus.stream(f"s-{mint_run_id()}")


@pytest.fixture(scope="session")
def ready() -> Ready:
    """Opens a bus on a cluster that may still be electing its leader: until then it answers nobody."""

    async def open_when_it_answers(stack: AsyncExitStack, url: str) -> Bus:
        with anyio.fail_after(60):
            while not await _answers(url):
                await anyio.lowlevel.checkpoint()
        return await stack.enter_async_context(open_bus(url, replicas=3))

    return open_when_it_answers


@pytest.fixture(scope="module")
async def buses(cluster: "Cluster", ready: Ready) -> AsyncGenerator[list[Bus]]:
    """A connection to each node."""
    async with AsyncExitStack() as stack:
        yield [await ready(stack, url) for url in cluster.urls.values()]


async def _answers(url: str) -> bool:
    try:
        async with open_bus(url, replicas=3):
            return True
    except BusUnavailable:
        return False
