"""Redrive: a recorded conversation led and spoken once more, with the answers that its models gave.

A regression test for prompts and code: supervisor, seats and agents are those of now, what came from outside (answers,
tools' results, people, the clock) is what was recorded, and the first thing that comes out differently ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from convive.agents.journal._journal import RunStarted, journal_event_of
from convive.agents.journal._recorded import Differs, Recorded
from convive.agents.models._errors import ModelError
from convive.agents.seats._supervisor import Close, Decision, Grant, Plan, Revoke, Wait, decide
from convive.agents.seats._turn import Known, Participant, Pass, Say, Turn
from convive.bus import (
    BadRecord,
    Conversation,
    Draft,
    Ended,
    Floor,
    Granted,
    MemoryLog,
    OpenGrant,
    Passed,
    Record,
    Remembered,
    RunContext,
    RunId,
    Said,
    SeatName,
    UnknownConversation,
    World,
    address_of,
    event_of,
    run_of,
)


@dataclass(frozen=True, slots=True)
class Deviation:
    """The first record that comes out differently: its place, and what was recorded and what happens now."""

    seq: int
    turn: int
    what: str
    was: str = ""
    now: str = ""


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive came to. `deviation` is None when everything came out the same."""

    turns: int
    """How many turns were taken again, and came out the same."""
    copied: int
    """How many turns were taken over as they were: of seats that nobody here sits in, or revoked."""
    answers: int
    """How many answers of models were told again."""
    unchecked: int
    """How many of these were recorded without the digest of their request, so that their prompts were not compared."""
    deviation: Deviation | None


async def redrive(
    conversation: Conversation,
    participants: Mapping[SeatName, Participant],
    plan: Plan | None = None,
    until: int | None = None,
) -> Redriven:
    """Lead a recorded conversation again, in memory, up to a sequence number; nothing is appended to it.

    `participants` take their recorded turns again; turns of other seats are taken over. With a `plan` the supervisor's
    decisions are compared as well. Tools are not called, but for agents behind `as_tool` and `handoff`: their models'
    answers are recorded too. Approvals count as given. Raises UnknownConversation, errors of the bus, and whatever a
    participant raises.
    """
    driver = _Driver(conversation, participants, plan)
    async with conversation.log.read(f"{conversation.subjects.base}.>", until=until) as records:
        async for record in records:
            deviation = await driver.take(record)
            if deviation is not None:
                break
    if driver.world.floor.opened is None:
        raise UnknownConversation(conversation.id)
    return driver.redriven


async def first_model(conversation: Conversation) -> str | None:
    """The name of the model that the first run beside a conversation had; None when there is no run."""
    async with conversation.log.read(f"{conversation.subjects.base}.run.>") as records:
        async for record in records:
            event = journal_event_of(record)
            if isinstance(event, RunStarted):
                return event.model
    return None


class _Driver:
    """Folds the recording, and takes each turn again where it was closed: all it was told stands before that."""

    def __init__(
        self, conversation: Conversation, participants: Mapping[SeatName, Participant], plan: Plan | None
    ) -> None:
        # What the runs of now write, and what a participant may look up, stands here.
        self._scratch = Conversation(MemoryLog(), conversation.id, conversation.subjects)
        self._participants = participants
        self._plan = plan
        self._recorded = Recorded()
        self._memories: dict[RunId, list[tuple[int, Remembered]]] = {}
        self._floors: list[Floor] = []
        self._held: _Held | None = None
        self._turns = self._copied = 0
        self._deviation: Deviation | None = None
        self.world = World(*participants)

    @property
    def redriven(self) -> Redriven:
        recorded = self._recorded
        return Redriven(self._turns, self._copied, recorded.told, recorded.unchecked, self._deviation)

    async def take(self, record: Record) -> Deviation | None:
        address = address_of(record.subject)
        if address.kind == "run":
            run = run_of(record.headers)
            if run is not None:
                self._recorded.take(run, record.seq, journal_event_of(record))
            return None
        if address.kind in ("live", "other"):
            return None
        before = self.world.floor
        self.world.apply(record)
        after = self.world.floor
        if address.kind == "memory":
            self._remembered(record)
        elif address.kind == "aside":
            self._floors.append(after)
        if after.links > before.links:
            self._deviation = self._decided(before, after, record) or await self._turn(after, record)
        if self._deviation is None:
            await self._scratch.log.append(Draft(record.subject, record.body, _own(record)))
        return self._deviation

    def _remembered(self, record: Record) -> None:
        try:
            event = event_of(record)
        except BadRecord:
            return  # the world has it among the bad ones
        if isinstance(event, Remembered) and event.run_id is not None:
            self._memories.setdefault(event.run_id, []).append((record.seq, event))

    def _decided(self, before: Floor, after: Floor, record: Record) -> Deviation | None:
        """What the supervisor would do now, if that is not what was done. A revocation is up to the clock."""
        floors, self._floors = [*self._floors, before], [after]
        event = event_of(record)
        if self._plan is None or not isinstance(event, Granted | Ended):
            return None
        was = Grant(event.seat, event.cue) if isinstance(event, Granted) else Close(event.reason)
        # An aside may have come between what the supervisor had read and what it wrote.
        decisions = [decide(floor, self._plan, record.time_s) for floor in floors]
        if any(_same(was, now) for now in decisions):
            return None
        return Deviation(
            record.seq, after.turn, "the supervisor decides something else", _told(was), _told(decisions[-1])
        )

    async def _turn(self, after: Floor, record: Record) -> Deviation | None:
        if after.open_grant is not None:
            self._held = _Held(after.open_grant, after, Known.now(self.world, after.open_grant.grant.seat))
            return None
        outcome, held, self._held = after.last_outcome, self._held, None
        if held is None or outcome is None:
            return None  # the opening, or the end
        grant = held.grant
        participant = self._participants.get(grant.grant.seat)
        if participant is None or not isinstance(outcome, Said | Passed):
            self._copied += 1
            return None
        turn = self._made(held)
        now = await _taken(participant, turn)
        deviation = self._compared(turn, now, outcome, record.seq)
        self._turns += deviation is None
        return deviation

    def _made(self, held: "_Held") -> Turn:
        grant, opened = held.grant.grant, held.floor.opened
        assert opened is not None  # noqa: S101 - a floor with a grant was opened
        run = RunContext(grant.run_id, opened.run_id, RunId(opened.run_id))
        return Turn(self._scratch, grant.seat, grant, held.floor, run, held.known, recorded=self._recorded)

    def _compared(self, turn: Turn, now: Say | Pass, was: Said | Passed, seq: int) -> Deviation | None:
        unanswered, self._recorded.unanswered = self._recorded.unanswered, False
        if unanswered and isinstance(was, Passed):
            return None  # for a reason that came from outside
        differs = self._recorded.difference or self._recorded.left(self._recorded.below(turn.run.run_id))
        if differs is not None:
            return Deviation(differs.seq or seq, turn.grant.turn, f"in the turn of {turn.seat}, {differs.what}")
        said, recorded = _words(now), _words(was)
        if said != recorded:
            return Deviation(seq, turn.grant.turn, f"{turn.seat} answers the turn with something else", recorded, said)
        kept = [memory for place, memory in self._memories.pop(turn.run.run_id, []) if _counts(place, was)]
        memories = ["; ".join(f"{each.kind}: {each.text}" for each in all_) for all_ in (kept, turn.to_remember)]
        if memories[0] != memories[1]:
            return Deviation(seq, turn.grant.turn, f"{turn.seat} remembers something else", *memories)
        return None


@dataclass(frozen=True, slots=True)
class _Held:
    """A grant that is open, and what its seat knew when it was given."""

    grant: OpenGrant
    floor: Floor
    known: Known


async def _taken(participant: Participant, turn: Turn) -> Say | Pass:
    try:
        return await participant.take_turn(turn)
    except Differs:
        return Pass()  # it is noted
    except ModelError as error:
        return Pass(str(error))  # as `host_seats` does


def _same(was: Grant | Close, now: Decision) -> bool:
    return now == was if isinstance(was, Grant) else isinstance(now, Close)


def _told(decision: Decision) -> str:
    match decision:
        case Grant(seat=seat, cue=cue):
            return f"the floor to {seat}{f' ({cue})' if cue else ''}"
        case Close():
            return "the end"
        case Revoke():
            return "the floor is taken back"
        case Wait():
            return "nothing yet"


def _words(outcome: Say | Pass | Said | Passed) -> str:
    return f"says: {outcome.text}" if isinstance(outcome, Say | Said) else f"passes: {outcome.reason}"


def _counts(place: int, outcome: Said | Passed) -> bool:
    return outcome.memories is None or place in outcome.memories


def _own(record: Record) -> dict[str, str]:
    return {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}
