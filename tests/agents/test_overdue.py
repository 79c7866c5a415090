"""Since when something is due in a conversation: all that a log tells of whether anybody leads it."""

import time
from collections.abc import Mapping

import pytest

from convive.agents import Plan, overdue_s
from convive.agents.journal._journal import Resumed, Suspended
from convive.bus import Chair, Conversation, Draft, Floor, RunContext, SeatName, memory_bus

pytestmark = pytest.mark.anyio

ADA = SeatName("ada")
RUN = RunContext.root()
PLAN = Plan(turns=1, turn_s=100.0, grace_s=5.0, answer_s=1_000.0, opens=False, toasts=False)


async def _late(conversation: Conversation, ahead: Mapping[float, float], plan: Plan = PLAN) -> None:
    """Fails unless so many seconds `ahead` of now something is due since so long."""
    floor, now_s = await conversation.floor(), time.time()
    for seconds, late_s in ahead.items():
        found = await overdue_s(conversation, floor, plan, now_s + seconds)
        assert found == pytest.approx(late_s, abs=2.0)  # pyright: ignore[reportUnknownMemberType]


async def test_a_turn_to_give_is_due_at_once_and_one_that_is_given_when_its_time_is_over() -> None:
    async with memory_bus() as bus:
        there = await bus.conversation("soup")
        assert await overdue_s(there, Floor(), PLAN, time.time()) == 0.0
        await there.open(RUN, "salt", [Chair(seat=ADA)])
        await _late(there, {0.0: 0.0, 60.0: 60.0})
        turn = RUN.child()
        await there.grant(await there.floor(), ADA, turn, time.time() + 100.0)
        await _late(there, {0.0: 0.0, 104.0: 0.0, 165.0: 60.0})
        floor = await there.floor()
        assert floor.open_grant is not None
        await there.say(floor, floor.open_grant, "Salt.", turn)
        await _late(there, {60.0: 60.0})
        await there.close(await there.floor(), RUN)
        await _late(there, {60.0: 0.0})


async def test_nothing_is_due_while_a_policy_waits_for_somebody_to_sit_down() -> None:
    async with memory_bus() as bus:
        there = await bus.conversation("soup")
        await there.open(RUN, "salt", [])
        await _late(there, {1e6: 0.0})


async def test_a_turn_whose_run_waits_for_answers_has_the_time_for_them() -> None:
    async with memory_bus() as bus:
        there = await bus.conversation("soup")
        await there.open(RUN, "salt", [Chair(seat=ADA)])
        turn = RUN.child()
        await there.grant(await there.floor(), ADA, turn, time.time() + 100.0)
        waits = Suspended(token="t")  # noqa: S106 - of nothing
        await there.log.append(Draft(there.journal(turn), waits.body(), turn.headers()))
        await _late(there, {900.0: 0.0, 1_065.0: 60.0})
        await there.log.append(Draft(there.journal(turn), Resumed(answers={}).body(), turn.headers()))
        await _late(there, {900.0: 795.0})
