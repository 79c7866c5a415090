"""Random schedules: three hosts that are cancelled or end anywhere, pauses, approvals, times, letters to and fro, and
somebody who trims and somebody who verifies all the while.

What must come of it is simple: each effect once, those of one sender in order, and no more.
"""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import Agent, Answer, Approve, Request, ToolUse, answer, pending, tool
from convive.agents.entities import (
    Collection,
    Context,
    Entities,
    EntityState,
    Wake,
    host,
    look,
    send,
    signal,
    spawn,
    trim,
    verify_entity,
)
from convive.agents.journal._faults import only_crashed
from convive.agents.journal._refusals import ResumeRefused
from convive.agents.testing import ScriptedModel
from tests.agents.entity_kit import LEASE_S, Process, Store, until

pytestmark = pytest.mark.anyio


class Effect(BaseModel):
    sender: str
    number: int


EFFECTS = Collection("effects", Effect)
NAMES, SENDERS, LETTERS = ("acc/0", "acc/1"), "xyz", 5


class Slow(Process):
    """Writes after others had their turn, or before."""

    def __init__(self, store: Store, lives: int | None, dice: random.Random) -> None:
        super().__init__(store, lives, before=dice.random() < 0.5)
        self._dice = dice

    async def write(self, act: Callable[[], Any]) -> Any:
        for _ in range(self._dice.choice([0, 0, 1, 3, 10])):
            await anyio.lowlevel.checkpoint()
        done = await super().write(act)
        for _ in range(self._dice.choice([0, 0, 1, 3])):
            await anyio.lowlevel.checkpoint()
        return done


def types(asked: Counter[str]) -> Entities:
    """Accounts that do with a letter what it says, and note it."""
    entities = Entities()

    @tool(needs_approval=True)
    async def mail() -> str:
        """Send a mail."""
        return "sent"

    def say(request: Request) -> Answer | str:
        text = request.messages[-1].text
        if text:
            asked[text] += 1
        calls = (ToolUse(id="c", name="mail", arguments={}),)
        return Answer(parts=calls, stop_reason="tool_use") if "mail" in text else "heard"

    ada = Agent("ada", model=ScriptedModel(say), tools=[mail])

    @entities.define("acc", collections=[EFFECTS], max_attempts=50)
    async def account(context: Context, wake: Wake) -> None:
        body: Any = wake.body
        if wake.kind == "created":
            return
        sender, number, does = body["sender"], body["number"], body.get("does", "")
        if "ask" in does or "mail" in does:
            await ada.prompt(f"{context.name} {sender} {number} {does}")
        if "fail" in does and wake.attempt == 1:
            raise RuntimeError("once more")
        context.rows(EFFECTS).insert(f"{sender}-{number}", Effect(sender=sender, number=number))
        if "time" in does:
            context.wake_after(0.005, {"sender": f"time {sender}", "number": number})
        if "self" in does:
            context.send(context.name, {"sender": f"self {sender}", "number": number})
        if "other" in does:
            to = NAMES[1 - NAMES.index(context.name)]
            context.send(to, {"sender": context.name, "number": wake.number})

    return entities


async def hosts(store: Store, dice: random.Random, asked: Counter[str], *, ends: bool) -> None:
    """One host after the other, when they end: by being cancelled, or with something that they write."""
    while True:
        process = Slow(store, dice.randrange(10, 80) if ends else None, dice)
        try:
            with anyio.move_on_after(dice.choice([0.02, 0.1, 5]) if ends else None):
                await host(
                    process.bus, types(asked), concurrency=dice.choice([1, 2, 3]), lease_s=LEASE_S, retry_s=0.005
                )
        except BaseException as error:
            if not only_crashed(error):
                raise
            process.is_dead = True


def has_had(wakes: int, state: EntityState) -> bool:
    return state.wakes >= wakes


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_each_effect_comes_once_and_those_of_a_sender_in_order(seed: int, ends: bool, trims: bool) -> None:
    dice = random.Random(seed)  # noqa: S311 - for schedules that can be had again
    store, asked = Store(), Counter[str]()
    outside = store.process().bus
    expected: dict[str, set[str]] = {name: set() for name in NAMES}
    crossing: Counter[str] = Counter()

    async def sender(own: str) -> None:
        for number in range(LETTERS):
            for name in NAMES:
                does = [each for each in ("ask", "fail", "time", "self", "other") if dice.random() < 0.3]
                does += ["mail"] if dice.random() < 0.1 else []
                expected[name] |= {f"{own}-{number}"}
                expected[name] |= {f"{each} {own}-{number}" for each in ("time", "self") if each in does}
                crossing[NAMES[1 - NAMES.index(name)]] += "other" in does
                await send(outside, name, {"sender": own, "number": number, "does": " ".join(does)})
                for _ in range(dice.choice([0, 1, 5, 50])):
                    await anyio.lowlevel.checkpoint()

    async def pauses() -> None:
        for _ in range(8):
            name = dice.choice(NAMES)
            await signal(outside, name, "pause")
            for _ in range(dice.choice([1, 20, 200])):
                await anyio.lowlevel.checkpoint()
            await signal(outside, name, "resume")

    async def approvals() -> None:
        while True:
            for each in await pending(outside):
                try:
                    await answer(outside, each.run_id, {one.id: Approve() for one in each.interrupts})
                except ResumeRefused:
                    continue  # it went on meanwhile
            await anyio.sleep(0.01)

    async def forgetting() -> None:
        for _ in range(20 if trims else 0):
            await trim(outside, dice.choice(NAMES), keep=dice.choice([1, 2, 5]), runs=dice.random() < 0.5)
            for _ in range(dice.choice([1, 20, 200])):
                await anyio.lowlevel.checkpoint()

    async def verifying() -> None:
        for _ in range(10):
            verdict = await verify_entity(outside, dice.choice(NAMES))
            assert verdict.whole, verdict.findings
            for _ in range(dice.choice([1, 20, 200])):
                await anyio.lowlevel.checkpoint()

    for name in NAMES:
        await spawn(outside, name)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: hosts(store, dice, asked, ends=ends))
        tasks.start_soon(approvals)
        tasks.start_soon(forgetting)
        tasks.start_soon(verifying)
        async with anyio.create_task_group() as sending:
            sending.start_soon(pauses)
            for each in SENDERS:
                sending.start_soon(sender, each)
        for name in NAMES:
            wakes = 1 + len(expected[name]) + crossing[name]
            await until(outside, name, partial(has_had, wakes))
        tasks.cancel_scope.cancel()
    for name in NAMES:
        state = await look(outside, name)
        effects = state.rows["effects"]
        assert {key for key in effects if not key.startswith("acc/")} == expected[name]
        assert (len(effects), state.errors, state.damage) == (len(expected[name]) + crossing[name], [], 0)
        for own in (*SENDERS, *(f"self {each}" for each in SENDERS)):
            numbers = [row["number"] for row in effects.values() if row["sender"] == own]
            assert numbers == sorted(numbers), own  # type: ignore[type-var]
    assert ends or set(asked.values()) <= {1}
