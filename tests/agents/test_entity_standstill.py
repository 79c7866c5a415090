"""Random schedules of hosts that stand still for longer than a lease and go on then, as a laptop that is closed does,
and that end anywhere, while entities are paused and asked. In virtual time."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from convive.agents import Approve, answer, pending
from convive.agents.entities import host, look, send, signal, spawn, verify_entity
from convive.agents.journal._faults import only_crashed
from convive.agents.journal._refusals import ResumeRefused
from tests.agents.entity_kit import LEASE_S, Process, Store
from tests.agents.test_entity_schedules import NAMES, SENDERS, types
from tests.agents.virtual_time import VirtualTime

pytestmark = pytest.mark.anyio

LETTERS = 4


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTime}


class Still(Process):
    """All that it does takes a while, and at times it stands still: then its leases run out."""

    def __init__(self, store: Store, lives: int | None, dice: random.Random) -> None:
        super().__init__(store, lives, before=dice.random() < 0.5)
        self._dice = dice
        self._may = anyio.Event()
        self._may.set()

    async def stand(self) -> None:
        while True:
            await anyio.sleep(self._dice.expovariate(1.0))
            self._may, self.is_cut_off = anyio.Event(), True
            try:
                await anyio.sleep(LEASE_S * self._dice.choice([0.3, 1.2, 2, 4]))
            finally:
                self.is_cut_off = False
                self._may.set()

    async def _take_time(self) -> None:
        await anyio.sleep(self._dice.choice([0, 0, 0.002, 0.005, 0.05]) * self._dice.random())
        await self._may.wait()
        self.look()

    async def write(self, act: Callable[[], Any]) -> Any:
        await self._take_time()
        done = await super().write(act)
        await self._take_time()
        return done

    async def asks(self, job: str) -> None:
        await self._take_time()

    async def looks_for(self, subject: str) -> None:
        await self._take_time()


async def hosts(store: Store, dice: random.Random, *, ends: bool) -> None:
    """One host after the other, when they end."""
    while True:
        process = Still(store, dice.randrange(10, 120) if ends else None, dice)
        try:
            with anyio.move_on_after(dice.choice([0.02, 0.3, 5, 20]) if ends else None):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(process.stand)
                    kinds, at_once = types(Counter()), dice.choice([1, 2, 3])
                    await host(
                        process.bus, kinds, concurrency=at_once, lease_s=LEASE_S, retry_s=dice.choice([0.005, 0.5])
                    )
        except BaseException as error:
            if not only_crashed(error):
                raise
            process.is_dead = True


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(4, 9))
async def test_each_letter_is_handled_once_and_no_job_is_left(seed: int, ends: bool) -> None:
    dice = random.Random(seed)  # noqa: S311 - for schedules that can be had again
    store = Store(clock=asyncio.get_running_loop().time)
    outside = store.process().bus
    expected: dict[str, set[str]] = {name: set() for name in NAMES}

    async def sender(own: str) -> None:
        for number in range(LETTERS):
            for name in NAMES:
                chances = {"ask": 0.3, "fail": 0.4, "time": 0.3, "self": 0.3, "mail": 0.2}
                does = [each for each, chance in chances.items() if dice.random() < chance]
                expected[name] |= {f"{own}-{number}"}
                expected[name] |= {f"{each} {own}-{number}" for each in ("time", "self") if each in does}
                await send(outside, name, {"sender": own, "number": number, "does": " ".join(does)})
                await anyio.sleep(dice.choice([0, 0.01, 0.1, 1]))

    async def pauses() -> None:
        for _ in range(6):
            name = dice.choice(NAMES)
            await signal(outside, name, "pause")
            await anyio.sleep(dice.choice([0, 0.01, 0.1, 1]))
            await signal(outside, name, "resume")
            await anyio.sleep(dice.choice([0, 0.01, 0.5]))

    async def approvals() -> None:
        while True:
            for each in await pending(outside):
                try:
                    await answer(outside, each.run_id, {one.id: Approve() for one in each.interrupts})
                except ResumeRefused:
                    continue  # it went on meanwhile
            await anyio.sleep(0.05)

    async def is_done() -> bool:
        states = [await look(outside, name) for name in NAMES]
        jobs = [queue._entries for queue in store.queues.values()]  # pyright: ignore[reportPrivateUsage]
        return not any(state.waiting or state.timers for state in states) and not any(jobs)

    for name in NAMES:
        await spawn(outside, name)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(partial(hosts, store, dice, ends=ends))
        tasks.start_soon(approvals)
        async with anyio.create_task_group() as sending:
            sending.start_soon(pauses)
            for each in SENDERS:
                sending.start_soon(sender, each)
        with anyio.fail_after(300):
            while not await is_done():  # noqa: ASYNC110 - no event says that nothing is left, and virtual time costs none
                await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()
    for name in NAMES:
        state = await look(outside, name)
        assert set(state.rows["effects"]) == expected[name]
        assert (state.errors, state.damage, (await verify_entity(outside, name)).findings) == ([], 0, ())
        for own in (*SENDERS, *(f"self {each}" for each in SENDERS)):
            numbers = [row["number"] for row in state.rows["effects"].values() if row["sender"] == own]
            assert numbers == sorted(numbers), own  # type: ignore[type-var]
    assert [queue._parked for queue in store.queues.values()] == [{}]  # pyright: ignore[reportPrivateUsage]
