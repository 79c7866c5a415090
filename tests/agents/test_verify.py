"""Verification of whole conversations: a party is clean whoever was killed in it, and what is damaged is named."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Participant,
    Pass,
    Place,
    Plan,
    Request,
    Say,
    ToolUse,
    Turn,
    client_tool,
    host_seats,
    supervise,
    tool,
    verify,
)
from convive.agents.journal._journal import JournalEvent, ModelAnswered, RunStarted, ToolReturned, TripStarted
from convive.agents.journal._verify_journals import JournalVerification
from convive.agents.testing import ScriptedModel
from convive.bus import (
    Chair,
    Conversation,
    Draft,
    MemoryLog,
    OpenGrant,
    Record,
    RunContext,
    RunId,
    SeatName,
    Verification,
    derive_run_id,
    memory_bus,
    mint_run_id,
)
from convive.bus.testing import read_all

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
RUN = RunContext.root()
PLAN = Plan(turns=4, opens=False, toasts=False)


class Thinker:
    """A seat whose agent asks another agent by a tool in each turn, thinks in a run beside it, and remembers."""

    def __init__(self) -> None:
        helper = Agent("helper", model=ScriptedModel(lambda request: "so they say"))

        @tool
        async def ask() -> str:
            """Ask somebody."""
            return (await helper.prompt("what do they say?")).text

        def answer(request: Request) -> Answer | str:
            asked = any(part.type == "tool_result" for part in request.messages[-1].parts)
            return (
                "I heard."
                if asked
                else Answer(parts=(ToolUse(id="1", name="ask", arguments={}),), stop_reason="tool_use")
            )

        self._seat = AgentSeat(Agent("thinker", model=ScriptedModel(answer), tools=[ask]))
        self._thinking = Agent("thought", model=ScriptedModel(lambda request: "hm"))

    async def take_turn(self, turn: Turn) -> Say | Pass:
        said = await self._seat.take_turn(turn)
        run = turn.run.child(derive_run_id(turn.run.run_id, "thought"))
        place = Place(turn.conversation.log, turn.conversation.subjects.base)
        thought = await self._thinking.execute("think", run=run, place=place, on_cancel="leave")
        turn.remember(thought.text)
        return said


@asynccontextmanager
async def opened() -> AsyncGenerator[Conversation]:
    async with memory_bus() as bus:
        conversation = await bus.conversation("party")
        await conversation.open(RUN, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
        yield conversation


async def hold(conversation: Conversation, seats: dict[SeatName, Participant]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, seats)
        tasks.start_soon(supervise, conversation, PLAN, RUN)


async def found(conversation: Conversation) -> list[tuple[str, str]]:
    verdict = await verify(conversation)
    assert sum(verdict.counts.values()) == len(verdict.findings)
    return [(one.kind, one.why) for one in verdict.findings]


async def test_a_party_with_runs_below_runs_is_whole() -> None:
    async with opened() as conversation:
        await hold(conversation, {ADA: Thinker(), BOB: Thinker()})
        verdict = await verify(conversation)
        assert verdict.whole
        assert verdict.findings == ()
        assert verdict.runs == {"ended": 12}
        assert (verdict.bus.fates, verdict.bus.memories) == ({"said": 4}, 4)
        for until in range(verdict.bus.through):
            assert (await verify(conversation, until)).whole


async def test_what_is_said_at_a_place_has_the_head_that_it_had_then() -> None:
    async with opened() as conversation:
        await conversation.grant(await conversation.floor(), ADA, RUN.child(), 0)
        then = await verify(conversation)
        held = (await conversation.floor()).open_grant
        assert held is not None
        await conversation.say(await conversation.floor(), held, "x", RUN)
        assert (await verify(conversation)).bus.head != then.bus.head
        assert (await verify(conversation, then.bus.through)).bus.head == then.bus.head


# Damage: records that are written straight into the log.

Change = Callable[[list[Record]], None]


async def copied(change: Change) -> list[tuple[str, str]]:
    """What is found in a copy of a clean party, at the same places, after a change."""
    async with opened() as conversation:
        await hold(conversation, {ADA: Thinker(), BOB: Thinker()})
        records = await read_all(conversation.log, f"{conversation.subjects.base}.>")
        change(records)
        log = MemoryLog()
        for record in records:
            headers = {name: value for name, value in record.headers.items() if not name.startswith("Nats-")}
            await log.append(Draft(record.subject, record.body, headers, record.headers.get("Nats-Msg-Id")))
        return await found(Conversation(log, conversation.id, conversation.subjects))


def place_of(records: list[Record], *has: str, number: int = 0) -> int:
    """Where the n-th record is whose subject or body has all of these."""
    fits = [at for at, record in enumerate(records) if all(one in f"{record.subject} {record.body!r}" for one in has)]
    return fits[number]


def without(*has: str, number: int = 0) -> Change:
    """A record is gone; what stands in its place harms nobody."""

    def change(records: list[Record]) -> None:
        at = place_of(records, *has, number=number)
        base = ".".join(records[at].subject.split(".")[:3])
        records[at] = Record(f"{base}.stream.hole", at + 1, 0, {}, b"")

    return change


def without_by_the_fold(*has: str) -> Change:
    """The same where no record has a key that tells its number."""

    def change(records: list[Record]) -> None:
        without(*has)(records)
        for at, record in enumerate(records):
            records[at] = replace(record, headers={k: v for k, v in record.headers.items() if k != "Nats-Msg-Id"})

    return change


def told(*has: str, old: str, new: str) -> Change:
    """A record says something else."""

    def change(records: list[Record]) -> None:
        at = place_of(records, *has)
        body = records[at].body.replace(old.encode(), new.encode())
        assert body != records[at].body
        records[at] = replace(records[at], body=body)

    return change


def headed(*has: str, run: RunContext) -> Change:
    """The headers of a record name another run."""

    def change(records: list[Record]) -> None:
        at = place_of(records, *has)
        key = {"Nats-Msg-Id": records[at].headers["Nats-Msg-Id"]}
        records[at] = replace(records[at], headers={**run.headers(), **key})

    return change


def behind(make: Callable[[list[Record]], list[Record]]) -> Change:
    """More records stand behind the others."""

    def change(records: list[Record]) -> None:
        records += make(records)

    return change


def orphan(parent: Callable[[list[Record]], str]) -> Change:
    """A run that says that another one is above it."""

    def make(records: list[Record]) -> list[Record]:
        base = ".".join(records[0].subject.split(".")[:3])
        run, above = mint_run_id(), parent(records)
        context = RunContext(run, RUN.run_id, RunId(above))
        body = f'{{"type":"run_started","agent":"x","model":"x","root":"{RUN.run_id}","parent":"{above}","input":"x"}}'
        return [Record(f"{base}.run.{RUN.run_id}.{run}", 0, 0, context.headers(), body.encode())]

    return behind(make)


def run_in(records: list[Record], *has: str) -> str:
    return records[place_of(records, ".run.", *has)].subject.split(".")[-1]


OTHER = RunContext.root()
DAMAGE: dict[str, tuple[Change, str, str]] = {
    "a copy without its first record": (
        without("run_started"),
        "journal",
        "record 1 of the journal where record 0 was due",
    ),
    "no question": (without("trip_started"), "journal", "record 2 of the journal where record 1 was due"),
    "no answer": (without("model_answered"), "journal", "record 3 of the journal where record 2 was due"),
    "no call": (without("tool_called"), "journal", "record 4 of the journal where record 3 was due"),
    "no result": (without("tool_returned"), "journal", "record 5 of the journal where record 4 was due"),
    "no end of a child": (without("run_finished", "so they say"), "journal", "the run above it has its result, and it"),
    "no end of a turn": (without("run_finished", "I heard."), "journal", "turn 1 was said, the conversation is closed"),
    "no beginning": (without_by_the_fold("run_started"), "journal", "the journal does not begin with run_started"),
    "nothing said": (without_by_the_fold("model_answered"), "journal", "trip 0 has no tool call 0"),
    "nothing came of it": (without_by_the_fold("tool_returned"), "journal", "trip 1 starts with tool calls open"),
    "a trip twice": (told("trip_started", old='"trip":0', new='"trip":1'), "journal", "trip 1 follows 0 trips"),
    "another root": (
        told("run_started", old=f'"root":"{RUN.run_id}"', new=f'"root":"{OTHER.run_id}"'),
        "journal",
        f"the run began below the root {OTHER.run_id}",
    ),
    "no event": (
        behind(lambda rs: [replace(rs[place_of(rs, ".run.")], body=b"{}", headers={})]),
        "foreign",
        "not a jo",
    ),
    "behind the end": (
        behind(lambda rs: [replace(rs[place_of(rs, "trip_st")], headers={})]),
        "journal",
        "nothing foll",
    ),
    "headers of another run": (headed("trip_started", run=OTHER), "header", f"the headers name run {OTHER.run_id}"),
    "no grant": (orphan(lambda rs: RUN.run_id), "orphan", "no grant names this run"),
    "no parent": (orphan(lambda rs: OTHER.run_id), "orphan", f"the run above it, {OTHER.run_id}, has no journal"),
    "no tool": (orphan(lambda rs: run_in(rs, "so they say")), "orphan", "the run above it"),
    "a forged turn": (told("bus.floor.ada", old="I heard.", new="I heard!"), "", ""),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_each_kind_of_damage_is_exactly_that_finding(name: str) -> None:
    change, kind, why = DAMAGE[name]
    findings = await copied(change)
    assert len(findings) == (1 if kind else 0), findings
    if kind:
        assert findings[0][0] == kind
        assert findings[0][1].startswith(why)


# Runs that have no end, and no fault


async def turn_of(conversation: Conversation, seat: SeatName = ADA) -> tuple[OpenGrant, RunContext]:
    await conversation.grant(await conversation.floor(), seat, RUN.child(), 0)
    held = (await conversation.floor()).open_grant
    assert held is not None
    return held, RunContext(held.grant.run_id, RUN.run_id, RUN.run_id)


async def begin(conversation: Conversation, run: RunContext) -> None:
    """Begin the run of a turn; whoever executes it is killed while its model is asked."""
    asked = anyio.Event()

    async def pause() -> None:
        asked.set()
        await anyio.sleep_forever()

    place = Place(conversation.log, conversation.subjects.base)
    agent = Agent("slow", model=ScriptedModel(["never"], pause=pause))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(agent.execute, "go", run=run, place=place, on_cancel="leave"))
        await asked.wait()
        tasks.cancel_scope.cancel()


async def test_a_run_that_goes_on_is_open_and_one_whose_turn_is_over_is_left() -> None:
    async with opened() as conversation:
        held, run = await turn_of(conversation)
        await begin(conversation, run)
        verdict = await verify(conversation)
        assert (verdict.findings, verdict.runs) == ((), {"open": 1})
        await conversation.revoke(await conversation.floor(), held, RUN, "too slow")
        await conversation.close(await conversation.floor(), RUN)
        verdict = await verify(conversation)
        assert (verdict.findings, verdict.runs) == ((), {"left": 1})


async def test_a_run_that_waits_for_an_answer_is_waiting_also_when_the_conversation_is_closed() -> None:
    async with opened() as conversation:
        held, run = await turn_of(conversation)
        call = Answer(parts=(ToolUse(id="1", name="sign", arguments={}),), stop_reason="tool_use")
        agent = Agent("clerk", model=ScriptedModel([call, "signed"]), tools=[client_tool("sign", "Sign.")])
        place = Place(conversation.log, conversation.subjects.base)
        await agent.execute("go", run=run, place=place)
        await conversation.pass_on(await conversation.floor(), held, run)
        await conversation.close(await conversation.floor(), RUN)
        verdict = await verify(conversation)
        assert (verdict.findings, verdict.runs) == ((), {"waiting": 1})


async def test_a_run_beside_the_conversation_is_nobodys_orphan() -> None:
    async with opened() as conversation:
        place = Place(conversation.log, conversation.subjects.base)
        await Agent("beside", model=ScriptedModel(["x"])).prompt("go", place=place)
        verdict = await verify(conversation)
        assert (verdict.findings, verdict.runs) == ((), {"ended": 1})


def test_of_a_long_journal_only_the_latest_trip_is_kept_so_that_time_is_linear() -> None:
    checks = Verification("cv.00.long")
    journals = JournalVerification(checks)
    events: list[JournalEvent] = [RunStarted(agent="a", model="m", root=RUN.root_run_id)]
    for trip in range(20):
        asks = ToolUse(id="1", name="ask", arguments={})
        answered = ModelAnswered(trip=trip, parts=(asks,), stop_reason="tool_use")
        returned = ToolReturned(trip=trip, index=0, call_id="1", name="ask", content="so they say")
        events += [TripStarted(trip=trip), answered, returned]
    kept: list[int] = []
    for seq, event in enumerate([*events, TripStarted(trip=22)], 1):
        record = Record(f"cv.00.long.run.{RUN.run_id}.{RUN.run_id}", seq, 0.0, RUN.headers(), event.body())
        context = checks.apply(record)
        assert context is not None
        journals.apply(record, context)
        state = journals._runs[RUN.run_id].state
        kept.append(0 if state is None else len(state.trips) + len(state.messages))
    assert max(kept) == 1
    assert [(finding.seq, finding.why) for finding in checks.findings.kept] == [(62, "trip 22 follows 20 trips")]
