"""Who is present, as other processes see it: killed, stopped, without a server, on another node."""

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import nats
import pytest
from anyio.abc import Process

from convive.bus import Bus, BusUnavailable, Draft, Log, SeatName, open_bus
from convive.bus.testing import server

pytestmark = pytest.mark.anyio

PATIENCE_S = 20.0
"""How long an answer may take that must come."""

SHORT_S = 0.2
"""How long one is waited for that must not."""

PRESENT = """
import sys

import anyio

from convive.bus import open_bus


async def main():
    async with open_bus(sys.argv[1]) as bus, (await bus.conversation("table")).log.present("cv.00.table.run"):
        await anyio.sleep_forever()


anyio.run(main)
"""
SUBJECT = "cv.00.table.run"


@asynccontextmanager
async def somebody(url: str) -> AsyncGenerator[Process]:
    """Another process that is present, or soon will be."""
    async with await anyio.open_process([sys.executable, "-c", PRESENT, url], stdin=None) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def log_of(bus: Bus) -> Log:
    return (await bus.conversation("table")).log


async def until_present(log: Log, *, present: bool | None) -> None:
    """Ask until it is so: a server hears of a process that comes or goes a moment later, and requests get lost."""
    with anyio.fail_after(PATIENCE_S):
        while await log.is_present(SUBJECT, SHORT_S) is not present:
            await anyio.lowlevel.checkpoint()


async def test_a_process_that_is_stopped_does_not_answer_and_one_that_is_killed_is_gone() -> None:
    async with server() as own, open_bus(own.url) as bus, somebody(own.url) as process:
        log = await log_of(bus)
        await until_present(log, present=True)
        process.send_signal(signal.SIGSTOP)
        await until_present(log, present=None)
        process.send_signal(signal.SIGCONT)
        await until_present(log, present=True)
        process.kill()
        await until_present(log, present=False)


async def test_who_is_present_is_so_again_when_the_server_comes_back() -> None:
    async with server() as own, open_bus(own.url) as here, open_bus(own.url) as there:
        mine, other = await log_of(here), await log_of(there)
        async with other.present(SUBJECT):
            own.kill()
            assert await mine.is_present(SUBJECT, SHORT_S) is None
            await own.start()
            await until_present(mine, present=True)
        await until_present(mine, present=False)


async def test_who_asks_cannot_have_the_answer_written_into_a_log(url: str) -> None:
    async with open_bus(url) as bus:
        conversation = await bus.conversation("attacked")
        log, subjects = conversation.log, conversation.subjects
        asking = await nats.connect(url)
        async with log.present(SUBJECT):
            await until_present(log, present=True)
            await asking.publish(f"present.{SUBJECT}", reply=subjects.link(SeatName("ada")))
            await asking.request(f"present.{SUBJECT}", timeout=PATIENCE_S)  # both were heard, in this order
            await asking.close()
            await log.append(Draft(subjects.aside(SeatName("ada")), b"behind it"))
        assert await log.subjects(f"{subjects.base}.>") == {subjects.aside(SeatName("ada")): 1}


async def test_nobody_can_be_present_on_a_bus_that_is_closed(url: str) -> None:
    async with open_bus(url) as bus:
        log = await log_of(bus)
    with pytest.raises(BusUnavailable):
        await log.is_present(SUBJECT, PATIENCE_S)
    with pytest.raises(BusUnavailable):
        async with log.present(SUBJECT):
            pass


async def test_who_leaves_a_bus_that_is_closed_meanwhile_leaves_in_peace(url: str) -> None:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(url))
        async with (await log_of(bus)).present(SUBJECT):
            await stack.aclose()


async def test_who_is_present_on_one_node_is_so_on_the_others(buses: list[Bus]) -> None:
    logs = [await log_of(bus) for bus in buses]
    async with logs[0].present(SUBJECT):
        for log in logs:
            await until_present(log, present=True)
    for log in logs:
        await until_present(log, present=False)
