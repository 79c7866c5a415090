"""Crash points: what they promise, and what a run promises at each of them."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    AgentResult,
    Answer,
    Approve,
    Place,
    Request,
    ToolContext,
    ToolUse,
    Usage,
    resume,
    tool,
)
from convive.agents.journal._journal import ModelAnswered, ToolReturned, journal_event_of
from convive.agents.models._messages import Text
from convive.agents.testing import Crashed, CrashPoint, NotCrashed, ScriptedModel, crash_after, crash_before
from convive.bus import Draft, Log, MemoryLog, RunContext, open_bus
from convive.bus.testing import LOG_CHECKS, Check

pytestmark = pytest.mark.anyio

BASE = "cv.00.desk"
RECORDS = 26
"""How many the run of `Desk` has, with the run below it."""


def draft(text: str, subject: str = "stream.a") -> Draft:
    return Draft(f"{BASE}.{subject}", text.encode())


async def bodies(log: Log) -> list[str]:
    async with log.read(f"{BASE}.>") as records:
        return [record.body.decode() async for record in records]


@pytest.mark.parametrize(
    ("point", "stored"),
    [
        (crash_after("a"), ["x", '{"type":"a","n":1}']),
        (crash_before("a"), ["x"]),
        (crash_after("a", nth=2), ["x", '{"type":"a","n":1}', '{"type":"b"}', '{"type":"a","n":2}']),
        (crash_before("a", nth=2), ["x", '{"type":"a","n":1}', '{"type":"b"}']),
        (crash_after("a", n=2), ["x", '{"type":"a","n":1}', '{"type":"b"}', '{"type":"a","n":2}']),
        (crash_after(n=1), ["x", '{"type":"a","n":1}']),
        (crash_after(), ["x"]),
        (crash_before(), []),
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [False, True])
async def test_what_comes_before_the_crash_is_stored_and_nothing_else(
    point: CrashPoint, stored: list[str], at_once: bool
) -> None:
    log = MemoryLog()
    drafts = [draft(text) for text in ("x", '{"type":"a","n":1}', '{"type":"b"}', '{"type":"a","n":2}')]
    with point.on(log) as dying:
        if at_once:
            await dying.append_all(drafts)
        for each in drafts:
            await dying.append(each)
    assert await bodies(log) == stored


async def test_a_crashed_process_asks_the_log_for_nothing_any_more() -> None:
    log = MemoryLog()
    with crash_after().on(log) as dying:
        try:
            await dying.append(draft("a"))
        except Crashed:
            calls: list[Callable[[], Any]] = [
                lambda: dying.append(draft("b")),
                lambda: dying.append_all([draft("b")]),
                lambda: dying.post(draft("b")),
                lambda: dying.last(BASE),
                lambda: dying.subjects(BASE),
                lambda: dying.read(BASE),
                lambda: dying.follow(BASE),
            ]
            for call in calls:
                with pytest.raises(Crashed, match="this process is gone"):
                    await call()
            raise
    assert await bodies(log) == ["a"]


async def test_a_refused_record_is_not_counted() -> None:
    log = MemoryLog()
    with crash_after("a").on(log) as dying:
        with pytest.raises(Exception, match="is not a subject"):
            await dying.append(Draft("no subject", b'{"type":"a"}'))
        await dying.append(draft('{"type":"b"}'))
        await dying.append(draft('{"type":"a"}'))
    assert await bodies(log) == ['{"type":"b"}', '{"type":"a"}']


async def test_a_point_that_is_not_reached_fails_the_test_and_says_what_there_was() -> None:
    log = MemoryLog()

    async def block() -> None:
        with crash_after("tool_caled", trip=0).on(log) as dying:
            for kind in ("run_started", "tool_called", "tool_called"):
                await dying.append(draft(f'{{"type":"{kind}"}}'))

    with pytest.raises(
        NotCrashed, match=r"'tool_caled', trip=0, nth=1\) was not reached.*1 run_started, 2 tool_called"
    ):
        await block()
    with pytest.raises(ValueError, match="counted from 1"):
        crash_after(nth=0)


async def test_other_errors_come_out_of_the_block() -> None:
    for also in (KeyError, Crashed):

        def block(raised: type[BaseException] = also) -> None:
            with crash_after("a").on(MemoryLog()):
                raise BaseExceptionGroup("both", [raised(), KeyError()])

        with pytest.raises(BaseExceptionGroup):
            block()


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_a_log_keeps_its_contract_until_the_crash(check: Check) -> None:
    """The records behind the crash point count; whatever comes before them is as it always is."""
    with crash_after("the end").on(MemoryLog()) as dying:
        await check(dying, BASE)
        await dying.append(draft('{"type":"the end"}'))


# A run with everything in it


class Verdict(BaseModel):
    text: str
    refunded: bool


class Desk:
    """A process that carries out the run: what it did beside the log."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[str] = []

    def agent(self) -> Agent[Verdict]:
        @tool
        async def charge(context: ToolContext, order: str) -> str:
            self.keys.append(context.idempotency_key)
            await anyio.lowlevel.checkpoint()
            return f"charged {order}"

        @tool(needs_approval=True)
        async def refund(context: ToolContext, amount: float) -> str:
            self.keys.append(context.idempotency_key)
            return f"{amount:g} back"

        @tool
        async def look(context: ToolContext, what: str) -> str:
            self.keys.append(context.idempotency_key)
            await anyio.lowlevel.checkpoint()
            return f"{what} found"

        searching = self._model("researcher", uses(look=[{"what": "A7"}]), "It is late.")
        researcher = Agent("researcher", model=searching, tools=[look])
        first = uses(charge=[{"order": "A7"}, {"order": "A8"}], research=[{"prompt": "why?"}], refund=[{"amount": 5}])
        model = self._model("lead", first, '{"text": "Sorry."}', '{"text": "Sorry.", "refunded": true}')
        return Agent(
            "lead",
            model=model,
            tools=[charge, refund, researcher.as_tool("research", "Find out.", streaming=True)],
            output=Verdict,
            repair=1,
        )

    def _model(self, name: str, *answers: Answer | str) -> ScriptedModel:
        def answer(request: Request) -> Answer:
            trip = sum(message.role == "assistant" for message in request.messages)
            self.asked.append(f"{name} {trip}")
            line = answers[trip]
            whole = Answer(parts=(Text(text=line),), stop_reason="end") if isinstance(line, str) else line
            return whole.model_copy(update={"usage": Usage(input_tokens=3, output_tokens=2)})

        return ScriptedModel(answer)

    async def go_on(self, place: Place, run: RunContext) -> AgentResult[Verdict]:
        """What any process would do about this run: carry it out, give the approvals that it waits for, carry on."""
        result = await self.agent().execute("My money!", run=run, place=place)
        while result.interrupts:
            answers = {each.id: Approve() for each in result.interrupts}
            result = await resume(place, run.run_id, answers, token=result.resume_token, agent=self.agent())
        return result


def uses(**calls: list[dict[str, object]]) -> Answer:
    """An answer that calls tools, the calls of one name behind one another."""
    parts = [
        ToolUse.model_validate({"id": f"{name}{place}", "name": name, "arguments": arguments})
        for name, each in calls.items()
        for place, arguments in enumerate(each)
    ]
    return Answer(parts=tuple(parts), stop_reason="tool_use")


@asynccontextmanager
async def desk_place(kind: str, nats_url: str, run: RunContext) -> AsyncGenerator[Place]:
    if kind == "memory":
        yield Place(MemoryLog(), BASE)
    else:
        async with open_bus(nats_url) as bus:
            conversation = await bus.conversation(f"desk-{run.run_id}")
            yield Place(conversation.log, conversation.subjects.base)


async def journaled(place: Place) -> tuple[int, set[str], int]:
    """How many answers are in the journals, the keys of the calls that are settled, and the number of records."""
    answers, settled, records = 0, set[str](), 0
    async with place.log.read(f"{place.base}.run.>") as found:
        async for record in found:
            event, run, records = journal_event_of(record), record.subject.rpartition(".")[2], records + 1
            if isinstance(event, ModelAnswered):
                answers += 1
            elif isinstance(event, ToolReturned):
                settled.add(f"{run}-{event.trip}-{event.index}")
    return answers, settled, records


def outcome(result: AgentResult[Verdict]) -> tuple[object, ...]:
    """What must not depend on a crash."""
    below = [(each.run_id, each.status, each.usage) for each in result.report.children]
    trips = [(each.finish_reason, each.text, each.usage) for each in result.report.trips]
    return result.status, result.data, result.text, result.usage, result.messages, below, trips


async def whole(run: RunContext) -> tuple[Desk, AgentResult[Verdict], int]:
    """The run without a crash, and how many records it has."""
    desk, place = Desk(), Place(MemoryLog(), BASE)
    result = await desk.go_on(place, run)
    return desk, result, (await journaled(place))[2]


async def test_the_run_without_a_crash() -> None:
    run = RunContext.root()
    desk, result, records = await whole(run)
    assert result.data == Verdict(text="Sorry.", refunded=True)
    assert sorted(desk.asked) == ["lead 0", "lead 1", "lead 2", "researcher 0", "researcher 1"]
    assert len(desk.keys) == len(set(desk.keys)) == 4
    assert (records, result.usage.input_tokens) == (RECORDS, 15)


async def go_through(points: Iterable[CrashPoint], place: Place, run: RunContext) -> list[str]:
    """Processes that crash one after the other, then one that does not; the keys of all calls that were carried out.

    At each: what the journal holds is not paid for, or done, again.
    """
    reference, expected, _ = await whole(run)
    keys: list[str] = []
    for point in points:
        answers, settled, _ = await journaled(place)
        desk = Desk()
        with suppress(NotCrashed), point.on(place) as dying:
            await desk.go_on(dying, run)
        assert not settled & set(desk.keys), point
        assert len(desk.asked) <= 5 - answers, point
        keys += desk.keys
    answers, settled, _ = await journaled(place)
    last = Desk()
    assert outcome(await last.go_on(place, run)) == outcome(expected)
    assert not settled & set(last.keys)
    assert len(last.asked) == 5 - answers
    assert set(keys + last.keys) == set(reference.keys)
    return keys + last.keys


CRASHES: tuple[Callable[..., CrashPoint], ...] = (crash_after, crash_before)


@pytest.mark.parametrize("kind", ["memory", "server"])
@pytest.mark.parametrize("crash", CRASHES)
async def test_a_run_comes_out_the_same_whichever_record_its_process_crashed_at(
    kind: str, crash: Callable[..., CrashPoint], nats_url: str
) -> None:
    """Conformance test 3: parallel tools, an agent below, an approval and a repaired answer. What is journaled is not
    asked for or done again; what is not is done with the key that it had."""
    for nth in range(1, RECORDS + 1):
        run = RunContext.root()
        async with desk_place(kind, nats_url, run) as place:
            keys = await go_through([crash(nth=nth)], place, run)
        assert len(keys) - len(set(keys)) <= 3, nth  # the calls that ran side by side when it crashed


async def test_a_run_comes_out_the_same_when_the_next_process_crashes_as_well() -> None:
    for crash, first, second in product(CRASHES, range(1, RECORDS, 2), range(1, RECORDS, 3)):
        run = RunContext.root()
        await go_through([crash(nth=first), crash(nth=second)], Place(MemoryLog(), BASE, live=False), run)


async def test_a_tool_that_ran_without_leaving_a_word_runs_again_with_the_same_key() -> None:
    """Conformance test 3, architecture.md section 7"""
    run, place, desk = RunContext.root(), Place(MemoryLog(), BASE), Desk()
    with crash_before("tool_returned", name="refund").on(place) as dying:
        await desk.go_on(dying, run)
    assert f"{run.run_id}-0-3" in desk.keys
    again = Desk()
    await again.go_on(place, run)
    assert again.keys == [f"{run.run_id}-0-3"]


async def test_a_stream_crashes_too() -> None:
    run, place = RunContext.root(), Place(MemoryLog(), BASE)
    agent = Agent("poet", model=ScriptedModel(["one two three", "never asked"]))
    with crash_after("model_answered").on(place) as dying:
        async with agent.stream("x", run=run, place=dying) as stream:
            async for _ in stream:
                pass
    result = await agent.execute("x", run=run, place=place)
    assert (result.text, len(result.report.trips)) == ("one two three", 1)
