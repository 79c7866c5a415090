"""Runs that are continued: after a crash at any record, by another process, from a source instead of an input."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from convive.agents.journal._chain import Chain, RunTaken
from convive.agents.journal._folding import fold_all
from convive.agents.journal._journal import (
    JournalEvent,
    ModelAnswered,
    Place,
    RunStarted,
    ToolReturned,
    TripStarted,
    journal_event_of,
)
from convive.agents.models._messages import Message, Text, ToolUse, assistant, user
from convive.agents.models._model import Answer, Request, Sampling
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.runs._limits import Limits
from convive.agents.runs._result import AgentResult
from convive.agents.runs._run import OtherRun
from convive.agents.runs._settings import Retry
from convive.agents.tools._tools import Tool, ToolContext, tool
from convive.bus import BadRecord, Draft, Log, MaybeAppended, MemoryLog, RunContext

pytestmark = pytest.mark.anyio

RUN = RunContext.root()


class Killed(BaseException):
    """The process is gone: nothing of it may run on."""


class Faulty(MemoryLog):
    """A log at one append of which the process dies: before it is stored, or after and before the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._left: int | None = None
        self._stored = False

    def fail_at(self, append: int | None, *, stored: bool = False) -> None:
        """Die at the append of that number, counted from now and from 0, and at all after it; None: never."""
        self._left, self._stored = append, stored

    async def append(self, draft: Draft) -> int:
        if self._left is None:
            return await super().append(draft)
        self._left -= 1
        if self._left >= 0:
            return await super().append(draft)
        if self._stored and self._left == -1:
            await super().append(draft)
        raise Killed


@dataclass
class Script:
    """What the model does in each trip: the kinds of the calls it makes; after the last trip it answers.

    "ok" works, "bad" raises, "odd" is called with wrong arguments, "no" is not a tool; an empty trip is an answer
    that `refine` rejects, with feedback.
    """

    trips: Sequence[Sequence[str]]
    asked: list[int] = field(default_factory=list[int])
    executed: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def answer(self, request: Request) -> Answer:
        trip = request.sampling.seed or 0
        self.asked.append(trip)
        if trip >= len(self.trips):
            return Answer(parts=(Text(text="the end"),), stop_reason="end")
        kinds = self.trips[trip]
        uses = (
            ToolUse(id=f"{trip}.{place}", name=kind, arguments={"x": 1} if kind == "odd" else {})
            for place, kind in enumerate(kinds)
        )
        text = Text(text=f"trip {trip}")
        return Answer(parts=(text, *uses), stop_reason="tool_use" if kinds else "end")

    def agent(self) -> Agent:
        def handler(name: str) -> Tool:
            async def handle(context: ToolContext) -> str:
                self.executed.append((context.idempotency_key, context.attempt))
                await anyio.lowlevel.checkpoint()
                if name == "bad":
                    raise OSError("it broke")
                return context.idempotency_key

            return tool(name=name)(handle)

        return Agent(
            "ada",
            model=ScriptedModel(self.answer),
            tools=[handler(name) for name in ("ok", "bad", "odd")],
            sampling=lambda context: Sampling(seed=context.trip),
            refine=lambda text: text if text == "the end" else Retry("unusable", feedback="Again."),
            limits=Limits(trips=100, reasks=100),
        )


async def journal(log: Log) -> list[JournalEvent]:
    async with log.read(Place(log, "base").journal(RUN)) as records:
        return [journal_event_of(record) async for record in records]


async def execute(script: Script, log: Log) -> AgentResult:
    return await script.agent().execute("go", run=RUN, place=Place(log, "base", live=False))


async def crash(script: Script, log: Faulty, at: int, *, stored: bool) -> None:
    log.fail_at(at, stored=stored)
    try:
        await execute(script, log)
    except Killed:
        pass
    except BaseExceptionGroup as group:
        assert group.split(Killed)[1] is None  # noqa: PT017 - the group may hold nothing else
    log.fail_at(None)


async def check_crash_and_continuation(trips: Sequence[Sequence[str]], at: int, *, stored: bool) -> None:
    whole, undisturbed = MemoryLog(), Script(trips)
    expected = await execute(undisturbed, whole)

    log, before, after = Faulty(), Script(trips), Script(trips)
    await crash(before, log, at, stored=stored)
    known = await journal(log)
    result = await execute(after, log)

    assert (result.status, result.text, result.messages) == (expected.status, expected.text, expected.messages)
    answered = {event.trip for event in known if isinstance(event, ModelAnswered)}
    returned = {f"{RUN.run_id}-{event.trip}-{event.index}" for event in known if isinstance(event, ToolReturned)}
    assert not answered & set(after.asked)
    assert not returned & {key for key, _ in after.executed}
    assert all(count == 1 for count in Counter(before.executed + after.executed).values())
    assert {key for key, _ in before.executed + after.executed} == {key for key, _ in undisturbed.executed}
    events = await journal(log)
    assert [event.type for event in events].count("run_finished") == 1
    assert fold_all(events).ended is events[-1]

    nobody = Script(trips)
    again = await execute(nobody, log)
    assert (again.text, again.messages, nobody.asked, nobody.executed) == (result.text, result.messages, [], [])


KINDS = st.sampled_from(["ok", "bad", "odd", "no"])


@settings(max_examples=150)
@given(st.lists(st.lists(KINDS, max_size=3), max_size=4), st.integers(0, 30), st.booleans())
def test_a_run_killed_at_any_record_is_continued_to_the_same_result(
    trips: list[list[str]], at: int, stored: bool
) -> None:
    """What the journal holds is neither asked for nor carried out again; C3."""

    async def check() -> None:
        await check_crash_and_continuation(trips, at, stored=stored)

    anyio.run(check)


@pytest.mark.parametrize("stored", [False, True])
async def test_every_record_of_one_run_is_a_place_to_crash_at(stored: bool) -> None:
    trips = [["ok", "bad"], [], ["odd", "ok", "no"]]
    log = MemoryLog()
    await execute(Script(trips), log)
    for at in range(len(await journal(log)) + 1):
        await check_crash_and_continuation(trips, at, stored=stored)


async def test_a_tool_whose_result_was_lost_runs_again_with_the_same_key_and_says_so() -> None:
    log, before, after = Faulty(), Script([["ok"]]), Script([["ok"]])
    await crash(before, log, 4, stored=False)
    assert [event.type for event in await journal(log)][-1] == "tool_called"
    await execute(after, log)
    key = f"{RUN.run_id}-0-0"
    assert (before.executed, after.executed) == ([(key, 1)], [(key, 2)])


async def test_two_processes_cannot_execute_one_run() -> None:
    """D17"""
    log = MemoryLog()
    inside, go_on = anyio.Event(), anyio.Event()

    @tool
    async def wait() -> None:
        inside.set()
        await go_on.wait()

    slow = ScriptedModel([Answer(parts=(ToolUse(id="1", name="wait", arguments={}),), stop_reason="tool_use"), "slow"])
    place = Place(log, "base", live=False)

    async def first() -> None:
        with pytest.raises(RunTaken, match="executed elsewhere"):
            await Agent("ada", model=slow, tools=[wait]).execute("go", run=RUN, place=place)

    async def second() -> None:
        # This process takes the run for one that was left behind, and is the first to append.
        await inside.wait()
        quick = tool(name="wait")(lambda: None)
        result = await Agent("ada", model=ScriptedModel(["quick"]), tools=[quick]).execute("go", run=RUN, place=place)
        assert result.text == "quick"
        go_on.set()

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        group.start_soon(second)
    assert [event.type for event in await journal(log)].count("run_finished") == 1


async def test_two_processes_that_start_a_run_at_once_do_not_take_each_other_for_a_retry() -> None:
    place = Place(MemoryLog(), "base", live=False)
    ada = Agent("ada", model=ScriptedModel(["one", "two"]))
    await ada.execute("go", run=RUN, place=place, fresh=True)
    with pytest.raises(RunTaken):
        await ada.execute("go", run=RUN, place=place, fresh=True)


class Unsure(MemoryLog):
    """A log that stores a record and then cannot say so, `times` times in a row for each."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times
        self._tried: Counter[str | None] = Counter()

    async def append(self, draft: Draft) -> int:
        seq = await super().append(draft)
        self._tried[draft.id] += 1
        if self._tried[draft.id] <= self._times:
            raise MaybeAppended(draft.subject, waited_s=1)
        return seq


async def test_an_append_without_an_answer_is_made_again_and_stored_once() -> None:
    log = Unsure(1)
    assert (await execute(Script([["ok"]]), log)).text == "the end"
    assert len(await journal(log)) == 8


async def test_a_run_whose_journal_stays_out_of_reach_is_left_to_be_continued() -> None:
    log = Unsure(2)
    with pytest.raises(MaybeAppended):
        await execute(Script([]), log)
    assert [event.type for event in await journal(log)] == ["run_started"]


class Slow(MemoryLog):
    """A log that stores a record of one type and then never answers."""

    def __init__(self, kind: bytes) -> None:
        super().__init__()
        self._kind = kind
        self.reached = anyio.Event()

    async def append(self, draft: Draft) -> int:
        seq = await super().append(draft)
        if self._kind in draft.body and not self.reached.is_set():
            self.reached.set()
            await anyio.sleep_forever()
        return seq


@pytest.mark.parametrize("kind", ["run_started", "trip_started", "tool_called", "run_finished"])
async def test_a_cancelled_append_is_settled_before_the_end_is_recorded(kind: str) -> None:
    log = Slow(f'"{kind}"'.encode())
    async with anyio.create_task_group() as group:
        group.start_soon(execute, Script([["ok"]]), log)
        await log.reached.wait()
        group.cancel_scope.cancel()
    state = fold_all(await journal(log))
    assert state.ended is not None
    assert state.ended.type == ("run_finished" if kind == "run_finished" else "run_cancelled")


async def test_an_append_after_a_cancelled_one_settles_that_first() -> None:
    log = Slow(b'"run_started"')
    chain = Chain(Place(log, "base"), RUN)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(chain.append, RunStarted(agent="ada", model="m", root=RUN.run_id, input="go"))
            await log.reached.wait()
            scope.cancel()
    await chain.append(TripStarted(trip=0))
    assert [event.type for event in await journal(log)] == ["run_started", "trip_started"]
    assert chain.state == fold_all(await journal(log))


@pytest.mark.parametrize("kind", ["run_started", "model_answered", "tool_called", "tool_returned", "run_finished"])
async def test_a_task_cancelled_by_asyncio_itself_records_its_end_all_the_same(kind: str) -> None:
    """W32: a shield of anyio does not stop asyncio's own cancellation, so the append below it is interrupted."""
    log = Slow(f'"{kind}"'.encode())
    task = asyncio.get_running_loop().create_task(execute(Script([["ok"]]), log))
    await log.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    events = await journal(log)
    assert kind in [event.type for event in events]
    ended = fold_all(events).ended
    assert ended is not None
    assert ended.type == ("run_finished" if kind == "run_finished" else "run_cancelled")


async def test_a_new_run_costs_no_read_and_one_that_is_there_is_found_all_the_same() -> None:
    reads: list[str] = []

    class Counted(MemoryLog):
        def read(
            self, *subjects: str, after: int = 0, until: int | None = None, since_s: float | None = None
        ) -> Any:  # the same as below, whose type is not public
            reads.extend(subjects)
            return super().read(*subjects, after=after, until=until, since_s=since_s)

    log = Counted()
    await execute(Script([]), log)
    assert reads == []
    assert (await execute(Script([]), log)).text == "the end"
    assert len(reads) == 1


async def test_a_run_with_a_source_stores_the_reference_and_not_the_messages() -> None:
    """What everybody hears is stored once, not once a run."""
    place = Place(MemoryLog(), "base", live=False)
    source: JsonValue = {"conversation": "party", "seq": 12}
    heard: list[Message] = [user("a long evening " * 50), assistant("indeed")]
    model = ScriptedModel(lambda request: request.messages[0].text[:6])
    ada = Agent("ada", model=model)
    result = await ada.execute("Your turn.", history=heard, source=source, run=RUN, place=place)
    assert result.text == "a long"
    (started, *rest) = await journal(place.log)
    assert started.type == "run_started"
    assert (started.source, started.input, started.history) == (source, None, ())
    assert sum(len(event.body()) for event in rest) < 600
    again = await ada.execute("Your turn.", history=heard, source=source, run=RUN, place=place)
    assert (again.text, again.messages, len(model.requests)) == (result.text, result.messages, 1)


async def test_another_input_or_source_under_a_run_id_is_refused_and_changes_nothing() -> None:
    log, script = Faulty(), Script([["ok"]])
    place = Place(log, "base", live=False)
    await crash(script, log, 2, stored=False)
    before = await journal(log)
    with pytest.raises(OtherRun, match="was started with another input"):
        await script.agent().execute("another", run=RUN, place=place)
    with pytest.raises(OtherRun, match="was started with another source"):
        await script.agent().execute("go", run=RUN, place=place, source={"seq": 1})
    assert await journal(log) == before
    assert (await script.agent().execute(run=RUN, place=place)).text == "the end"


async def test_a_journal_that_is_damaged_is_reported_and_not_appended_to() -> None:
    log = MemoryLog()
    place = Place(log, "base", live=False)
    for body in (b'{"type":"trip_started","schema":1,"trip":0}', b"{}"):
        await log.append(Draft(place.journal(RUN), body))
        with pytest.raises(BadRecord):
            await execute(Script([]), log)
    assert len((await log.subjects(">")).keys()) == 1
    assert (await log.subjects(">"))[place.journal(RUN)] == 2
