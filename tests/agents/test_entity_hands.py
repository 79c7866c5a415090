"""Whose job a letter is: nobody gives way to one that may end without having seen it."""

import anyio
import pytest

from convive.agents.entities import Context, Entities, Wake, send, spawn
from tests.agents.entity_kit import Process, Store, hosting, until

pytestmark = pytest.mark.anyio


class Late(Process):
    """Once `holds`, what it reads of an entity is on its way until another job was taken and had time to end."""

    holds = False

    async def looks_for(self, subject: str) -> None:
        if self.holds and subject.endswith(".snapshot"):
            self.holds = False
            known = len(self.taken)
            while len(self.taken) == known:
                await anyio.lowlevel.checkpoint()
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
        await super().looks_for(subject)


async def test_a_letter_that_comes_while_its_entity_is_read_again_is_not_left_to_that_reading() -> None:
    store, entities, reads = Store(), Entities(), anyio.Event()
    process = Late(store, None)

    @entities.define("a")
    async def handle(context: Context, wake: Wake) -> None:
        if wake.kind == "created":
            process.holds = True
            reads.set()

    await spawn(store.process().bus, "a/1")
    with anyio.fail_after(10):
        async with hosting(process.bus, entities, concurrency=2):
            await reads.wait()
            while process.holds:
                await anyio.lowlevel.checkpoint()
            await send(store.process().bus, "a/1", "while it is read")
            await until(store.process().bus, "a/1", lambda state: state.wakes == 2)
