"""Exactly one terminal event, whenever a run is called off."""

import anyio
import pytest

from convive.agents import Agent, HookContext, Middleware, Place
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._result import AgentResult
from convive.bus import Draft, MemoryLog

pytestmark = pytest.mark.anyio

TERMINAL = ("run_finished", "run_failed", "run_cancelled", "run_suspended")


class Slow(MemoryLog):
    """Has stored a record of this type long before it says so."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stored = anyio.Event()
        self.go_on = anyio.Event()
        self._kind = f'"type":"{kind}"'.encode()

    async def append(self, draft: Draft) -> int:
        seq = await super().append(draft)
        if self._kind in draft.body:
            self.stored.set()
            await self.go_on.wait()
        return seq


async def test_a_run_that_is_called_off_while_it_tells_of_its_end_tells_it_all_the_same() -> None:
    """W33, rule 10 of the design"""
    reached, go_on = anyio.Event(), anyio.Event()

    class Late(Middleware):
        async def on_finish(self, ctx: HookContext, result: AgentResult) -> None:
            reached.set()
            await go_on.wait()

    async with Agent("ada", model=ScriptedModel(["hi"]), middleware=[Late()]).stream("x") as run:
        await reached.wait()
        run.cancel("too late")
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        seen = [event.type async for event in run]
    assert [kind for kind in seen if kind in TERMINAL] == ["run_finished"]
    assert (await run.result()).status == "completed"


async def test_a_run_that_is_called_off_while_its_end_is_on_its_way_tells_of_that_end() -> None:
    """W33, rule 10 of the design"""
    log = Slow("run_finished")
    async with Agent("ada", model=ScriptedModel(["hi"])).stream("x", place=Place(log, "cv.00.t", live=False)) as run:
        await log.stored.wait()
        run.cancel("too late")
        log.go_on.set()
        seen = [event.type async for event in run]
    assert [kind for kind in seen if kind in TERMINAL] == ["run_finished"]
    assert (await run.result()).status == "completed"


async def test_a_run_that_is_called_off_before_its_first_record_says_so() -> None:
    """W33, rule 10 of the design"""
    model, told = ScriptedModel(["hi"]), list[str]()

    class Diary(Middleware):
        async def on_abort(self, ctx: HookContext, reason: str) -> None:
            told.append(reason)

    async with Agent("ada", model=model, middleware=[Diary()]).stream("x") as run:
        run.cancel("never mind")
        seen = [event.type async for event in run]
    assert (seen, told, model.requests) == (["run_cancelled"], ["never mind"], [])
