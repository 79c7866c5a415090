"""The supervisor: decides who has the floor, appends that decision, and never calls an agent.

`decide` is pure. Any number of processes may supervise one conversation: the server lets one of them write each
link. Whoever wrote the last one leads; the others stand by, and act only when it is late.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

from convive.agents.journal._journal import Resumed, Suspended, journal_event_of
from convive.agents.models._schema import check_number
from convive.agents.seats._doubles import STANDBY_S
from convive.agents.seats._leading import Watch, presence
from convive.agents.seats._policies import Policy, round_robin
from convive.bus import (
    HOST,
    BadRecord,
    Conflict,
    Conversation,
    Ended,
    Floor,
    Granted,
    Record,
    Revoked,
    RunContext,
    SeatName,
    Tail,
    event_of,
    fold_floor,
)

SETTLE_S = 1.0
"""How long after an append its record may take to come round before the supervisor decides again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a conversation is to be led.

    `turns` counts the guests' turns; the host's opening (`opens`) and toast (`toasts`) come on top. `turn_s` is how
    long a seat may hold the floor, `grace_s` what is added before it is revoked. A seat whose run waits for answers may
    hold it for `answer_s` from then on (0: no longer than any other), and has a whole turn's time again when there are
    some. With `standby_s` (0: not) this supervisor begins as a standby: it acts only when whatever is due has been due
    for that long, and leads from then on.
    """

    turns: int
    policy: Policy = round_robin
    turn_s: float = 120.0
    grace_s: float = 2.0
    answer_s: float = 3_600.0
    opens: bool = True
    toasts: bool = True
    standby_s: float = 0.0

    def __post_init__(self) -> None:
        check_number("turns", self.turns, whole=True)
        for name in ("turn_s", "grace_s", "answer_s", "standby_s"):
            check_number(name, getattr(self, name))
        if not callable(self.policy):
            raise TypeError(f"policy= takes a function such as round_robin, not {type(self.policy).__name__}.")


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


def decide(floor: Floor, plan: Plan, now_s: float, seen_s: float = 0.0, pause: Pause | None = None) -> Decision:
    """What whoever leads a conversation is to do about it at a moment.

    `seen_s` is when this supervisor learned of the last link, by its own clock: an open grant gets a whole turn's time
    from then, because the clock that set its deadline may be another one, and the seat that holds it may be starting
    again as well. `pause` is that of the run that has the floor; it changes nothing before its time is over.
    """
    if not floor.is_open:
        return Wait()
    if floor.open_grant is not None:
        grant = floor.open_grant.grant
        due_s = _due_s(grant, plan, now_s, seen_s, pause)
        if now_s < due_s:
            return Wait(due_s)
        waits = pause is not None and pause.answered_s is None
        return Revoke(f"nobody answered {grant.seat} in time" if waits else f"no word from {grant.seat} in time")
    return _next_grant(floor, plan)


def _due_s(grant: Granted, plan: Plan, now_s: float, seen_s: float, pause: Pause | None) -> float:
    """When an open grant is to be revoked, or to be looked at again."""
    return _over_s(max(grant.deadline_s, seen_s + plan.turn_s), plan, now_s, seen_s, pause) + plan.grace_s


def _over_s(deadline_s: float, plan: Plan, now_s: float, seen_s: float, pause: Pause | None) -> float:
    """When the turn is over, or is to be looked at again."""
    if pause is None or not plan.answer_s:
        return deadline_s
    if pause.answered_s is not None:
        return max(deadline_s, pause.answered_s + plan.turn_s)
    until_s = max(pause.since_s, seen_s) + plan.answer_s
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


@dataclass(slots=True)
class _Lead:
    """What a supervisor has read, and whether it leads: whether the last link of a supervisor was its own."""

    leads: bool
    standby_s: float
    watch: Watch
    floor: Floor = field(default_factory=Floor)
    own: int = 0
    """The place of the last link that it wrote."""
    seen_s: float = 0.0
    """When it learned of the last link."""
    due_s: float | None = None
    """Since when something has been due that whoever leads has not done."""
    due_looks: int = 0
    """How many looks in a row had found nobody then."""

    def apply(self, record: Record, now_s: float, *, past: bool) -> bool:
        """Fold one record. True when it shows that another supervisor leads on; what was there before never does."""
        before, self.floor = self.floor, fold_floor(self.floor, record)
        if self.floor.seq == before.seq:
            return False
        self.seen_s, self.due_s = now_s, None
        if past or record.seq == self.own or self.floor.links == before.links:
            return False
        if not isinstance(event_of(record), Granted | Revoked | Ended):
            return False
        self.watch.wrote()
        led, self.leads = self.leads, False
        return led and self.floor.closed is None

    def patiently(self, decision: Decision, now_s: float) -> Decision:
        """The same for whoever leads; a standby gives the leader its time, from when it noticed that this is due.

        It is not counted from when it became due, since this process itself may have been stopped meanwhile. Nobody is
        given time who was silent for as long before, and is still when it is looked for once more.
        """
        if isinstance(decision, Wait):
            self.due_s = None
            return decision
        if self.leads:
            return decision
        if self.due_s is None:
            self.due_s, self.due_looks = now_s, self.watch.looks
        if self.watch.is_alone and self.watch.looks > self.due_looks:
            return decision
        return decision if now_s >= self.due_s + self.standby_s else Wait(self.due_s + self.standby_s)


async def supervise(
    conversation: Conversation,
    plan: Plan,
    run: RunContext,
    clock: Callable[[], float] = time.time,
    on_change: Callable[[bool, int], object] | None = None,
) -> Floor:
    """Lead a conversation until it is closed, by this supervisor or by another, and return its floor.

    `run` is the run of the conversation, the parent of every turn's. Who finds that another supervisor has written a
    link becomes a standby, by `plan.standby_s` or STANDBY_S; a standby that acted leads. `on_change` is told of both:
    whether this one leads now, and since which turn.

    Raises MaybeAppended or BusUnavailable when the server stays away; whoever supervises next goes on from the log.
    """
    standby_s = plan.standby_s or STANDBY_S
    lead = _Lead(not plan.standby_s, standby_s, Watch(conversation, standby_s))
    past = True

    def apply(record: Record) -> None:
        if lead.apply(record, clock(), past=past) and on_change is not None:
            on_change(False, lead.floor.turn)

    async with conversation.follow() as tail, presence(conversation) as there:
        while lead.floor.closed is None:
            await there(lead.leads)
            if (record := await tail.catch_up()) is not None:
                apply(record)
                continue
            past = False
            decision = decide(lead.floor, plan, clock(), lead.seen_s)
            if isinstance(decision, Revoke):  # unless its run waits for somebody
                decision = decide(lead.floor, plan, clock(), lead.seen_s, await _pause(conversation, lead.floor))
            decision = lead.patiently(decision, clock())
            if isinstance(decision, Wait):
                timeout_s = None if decision.until_s is None else max(0.0, decision.until_s - clock())
                if (record := await tail.next(_sooner(timeout_s, lead))) is not None:
                    apply(record)
                elif not lead.leads and not lead.watch.rest_s:
                    await lead.watch.look()
                continue
            seq = await _append(conversation, lead.floor, decision, plan, run, clock)
            took_over = seq is not None and not lead.leads
            if seq is not None:
                lead.leads, lead.own = True, seq
            await _fold_until(lead, lead.floor.seq + 1 if seq is None else seq, tail, apply)
            if took_over and on_change is not None:
                on_change(True, lead.floor.turn)
    return lead.floor


def _sooner(timeout_s: float | None, lead: _Lead) -> float | None:
    """A standby looks in between whether somebody leads."""
    if lead.leads:
        return timeout_s
    return lead.watch.rest_s if timeout_s is None else min(timeout_s, lead.watch.rest_s)


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


async def overdue_s(conversation: Conversation, floor: Floor, plan: Plan, now_s: float) -> float:
    """For how long it has been due to do something about a conversation, which whoever leads it has not done; 0.0:
    nothing is due.

    Who leads writes nothing but what is due, so this is all that a log tells of whether anybody does. Not promised: one
    that has just begun gives an open grant a whole turn's time anew. At most one request.
    """
    decision, pause = decide(floor, plan, now_s), None
    if isinstance(decision, Revoke):
        pause = await _pause(conversation, floor)
        decision = decide(floor, plan, now_s, pause=pause)
    if isinstance(decision, Wait):
        return 0.0
    since_s = _due_s(floor.open_grant.grant, plan, now_s, 0.0, pause) if floor.open_grant else floor.at_s
    return max(0.0, now_s - since_s)


async def _append(
    conversation: Conversation,
    floor: Floor,
    decision: Grant | Revoke | Close,
    plan: Plan,
    run: RunContext,
    clock: Callable[[], float],
) -> int | None:
    """Append what was decided and return its place; None when another link came first."""
    try:
        match decision:
            case Grant():
                deadline_s = round(clock() + plan.turn_s, 3)
                return await conversation.grant(floor, decision.seat, run.child(), deadline_s, decision.cue)
            case Revoke():
                assert floor.open_grant is not None  # noqa: S101 - `decide` revokes open grants only
                return await conversation.revoke(floor, floor.open_grant, run, decision.reason)
            case Close():
                return await conversation.close(floor, run, decision.reason)
            case _:
                assert_never(decision)
    except Conflict:
        return None


async def _fold_until(lead: _Lead, seq: int, tail: Tail, apply: Callable[[Record], None]) -> None:
    """Fold on until the record at `seq`, or a later one of the floor, came round."""
    while lead.floor.seq < seq:
        record = await tail.next(SETTLE_S)
        if record is None:
            break
        apply(record)


def standby(plan: Plan, standby_s: float = STANDBY_S) -> Plan:
    """The same plan for a supervisor that begins as a standby: it acts only when whoever leads is that late."""
    return replace(plan, standby_s=standby_s)
