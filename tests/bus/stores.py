"""A store of one's own: a server to be killed at will, and a conversation's log on it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from convive.bus import Log, open_bus
from convive.bus.testing import Server, server


class Store(NamedTuple):
    server: Server
    log: Log
    base: str


@asynccontextmanager
async def store(*, patience_s: float = 20, fast: bool = True) -> AsyncGenerator[Store]:
    async with server(fast=fast) as own, open_bus(own.url, patience_s=patience_s) as bus:
        conversation = await bus.conversation("table")
        yield Store(own, conversation.log, conversation.subjects.base)
