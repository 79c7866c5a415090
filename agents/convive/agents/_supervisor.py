"""The supervisor: decides who has the floor, appends that decision, and never calls an agent.

`decide` is pure. Any number of processes may supervise one conversation: the server lets one of them write each
link, the others are refused, fold on and decide again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from convive.agents._journal import Resumed, Suspended, journal_event_of
from convive.agents._policies import Policy, round_robin
from convive.bus import HOST, BadRecord, Conflict, Conversation, Floor, RunContext, SeatName, Tail, fold_floor

SETTLE_S = 1.0
"""How long after an append its record may take to come round before the supervisor decides again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a conversation is to be led.

    `turns` counts the guests' turns; the host's opening (`opens`) and toast (`toasts`) come on top. `turn_s` is how
    long a seat may hold the floor, `grace_s` what is added before it is revoked. A seat whose run waits for answers may
    hold it for `answer_s` from then on (0: no longer than any other), and has a whole turn's time again when there are
    some. `standby_s` makes this supervisor a
    standby: it acts only when whatever is due has been due for that long.
    """

    turns: int
    policy: Policy = round_robin
    turn_s: float = 120.0
    grace_s: float = 2.0
    answer_s: float = 3_600.0
    opens: bool = True
    toasts: bool = True
    standby_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the floor to a seat."""

    seat: SeatName
    cue: str | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take the floor back from whoever holds it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """End the conversation."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_s` (seconds since 1970; None: before something happens on the bus)."""

    until_s: float | None = None


Decision = Grant | Revoke | Close | Wait

OPENING, TOAST = "open", "toast"
"""The cues of the host's own turns."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The run that has the floor waits for answers, or did: since when, until when, and since when not any more."""

    since_s: float
    expires_at: float | None = None
    answered_s: float | None = None


def decide(floor: Floor, plan: Plan, now_s: float, since_s: float = 0.0, pause: Pause | None = None) -> Decision:
    """What to do about a conversation at a moment.

    `since_s` is when this supervisor began: an open grant that is older gets a whole turn's time from then,
    because the seat that holds it may be starting again as well. `pause` is that of the run that has the floor; it
    changes nothing before its time is over.
    """
    if not floor.is_open:
        return Wait()
    if floor.open_grant is not None:
        grant, late_s = floor.open_grant.grant, plan.grace_s + plan.standby_s
        due_s = _due_s(max(grant.deadline_s, since_s + plan.turn_s), plan, now_s, since_s, pause) + late_s
        if now_s < due_s:
            return Wait(due_s)
        waits = pause is not None and pause.answered_s is None
        return Revoke(f"nobody answered {grant.seat} in time" if waits else f"no word from {grant.seat} in time")
    # `at_s` is the server's clock: an active supervisor must not wait for ours to get there.
    if plan.standby_s and now_s < floor.at_s + plan.standby_s:
        return Wait(floor.at_s + plan.standby_s)
    return _next_grant(floor, plan)


def _due_s(deadline_s: float, plan: Plan, now_s: float, since_s: float, pause: Pause | None) -> float:
    """When the turn is over, or is to be looked at again."""
    if pause is None or not plan.answer_s:
        return deadline_s
    if pause.answered_s is not None:
        return max(deadline_s, pause.answered_s + plan.turn_s)
    until_s = max(pause.since_s, since_s) + plan.answer_s
    if pause.expires_at is not None:
        until_s = min(until_s, pause.expires_at)
    # Looking once a turn's time is enough: from an answer on, the seat has that long.
    return max(deadline_s, min(until_s, now_s + plan.turn_s))


def _next_grant(floor: Floor, plan: Plan) -> Decision:
    if plan.opens and floor.turn == 0:
        return Grant(HOST, OPENING)
    guest_turns = floor.turn - (1 if plan.opens else 0)
    if guest_turns < plan.turns:
        seat = plan.policy(floor)
        return Wait() if seat is None else Grant(seat)
    if plan.toasts and guest_turns == plan.turns:
        return Grant(HOST, TOAST)
    return Close("the last turn is over")


async def supervise(
    conversation: Conversation, plan: Plan, run: RunContext, clock: Callable[[], float] = time.time
) -> Floor:
    """Lead a conversation until it is closed, by this supervisor or by another, and return its floor.

    `run` is the run of the conversation, the parent of every turn's. Raises MaybeAppended or BusUnavailable when the
    server stays away; whoever supervises next goes on from the log.
    """
    floor = Floor()
    since_s = clock()
    async with conversation.follow() as tail:
        while floor.closed is None:
            if (record := await tail.catch_up()) is not None:
                floor = fold_floor(floor, record)
                continue
            decision = decide(floor, plan, clock(), since_s)
            if isinstance(decision, Revoke):  # unless its run waits for somebody
                decision = decide(floor, plan, clock(), since_s, await _pause(conversation, floor))
            if isinstance(decision, Wait):
                timeout_s = None if decision.until_s is None else max(0.0, decision.until_s - clock())
                if (record := await tail.next(timeout_s)) is not None:
                    floor = fold_floor(floor, record)
            else:
                floor = await _perform(conversation, floor, decision, plan, run, tail, clock)
    return floor


async def _pause(conversation: Conversation, floor: Floor) -> Pause | None:
    """Whether the run that has the floor waits for answers, or did, as its journal says. One request."""
    above = conversation.run_of(floor)
    if floor.open_grant is None or above is None:
        return None
    pause: Pause | None = None
    async with conversation.log.read(conversation.journal(above.child(floor.open_grant.grant.run_id))) as records:
        async for record in records:
            try:
                event = journal_event_of(record)
            except BadRecord:
                continue  # whoever executes the run will say so
            if isinstance(event, Suspended):
                pause = Pause(record.time_s, event.expires_at)
            elif isinstance(event, Resumed) and pause is not None:
                pause = replace(pause, answered_s=record.time_s)
    return pause


async def _perform(
    conversation: Conversation,
    floor: Floor,
    decision: Grant | Revoke | Close,
    plan: Plan,
    run: RunContext,
    tail: Tail,
    clock: Callable[[], float],
) -> Floor:
    seq = floor.seq + 1  # after a conflict: whatever came first
    try:
        match decision:
            case Grant():
                deadline_s = round(clock() + plan.turn_s, 3)
                seq = await conversation.grant(floor, decision.seat, run.child(), deadline_s, decision.cue)
            case Revoke():
                assert floor.open_grant is not None  # noqa: S101 - `decide` revokes open grants only
                seq = await conversation.revoke(floor, floor.open_grant, run, decision.reason)
            case Close():
                seq = await conversation.close(floor, run, decision.reason)
            case _:
                assert_never(decision)
    except Conflict:
        pass
    return await _fold_until(floor, tail, seq)


async def _fold_until(floor: Floor, tail: Tail, seq: int) -> Floor:
    """Fold on until the record at `seq`, or a later one of the floor, came round."""
    while floor.seq < seq:
        record = await tail.next(SETTLE_S)
        if record is None:
            break
        floor = fold_floor(floor, record)
    return floor


def standby(plan: Plan, standby_s: float) -> Plan:
    """The same plan for a supervisor that acts only when the active one is that late."""
    return replace(plan, standby_s=standby_s)
