"""Records of other versions: those of before are read and gone on with, newer ones are left alone (conformance 30)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest

from convive.agents import (
    Agent,
    Approve,
    Place,
    Plan,
    ToolContext,
    ToolReturn,
    peek,
    pending,
    resume,
    run_events,
    supervise,
    tool,
    work,
)
from convive.agents.journal._journal import JournalEvent, journal_event_of
from convive.agents.queues._queue import place_of
from convive.agents.runs._events import AnyRunEvent, RunFinished
from convive.agents.testing import ScriptedModel
from convive.bus import (
    SCHEMA,
    BusEvent,
    Conversation,
    ConversationId,
    Draft,
    Guard,
    Job,
    MemoryLog,
    NewerRecord,
    RunContext,
    RunId,
    SeatName,
    Subjects,
    event_of,
    memory_bus,
)

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden"
BASE = "cv.07.golden"
ADA = SeatName("ada")


async def golden(name: str) -> MemoryLog:
    """The log that a version of long ago has written: every kind of event of its schema is in it."""
    log = MemoryLog()
    for line in (GOLDEN / name).read_text().splitlines():
        record = json.loads(line)
        key = record["headers"].pop("Nats-Msg-Id", None)
        await log.append(Draft(record["subject"], record["body"].encode(), record["headers"], key))
    return log


async def types_of(log: MemoryLog, *subjects: str, read: Callable[[Any], Any]) -> set[str]:
    async with log.read(*subjects) as records:
        return {read(record).type async for record in records}


def kinds(union: Any) -> set[str]:
    return {each.model_fields["type"].default for each in get_args(union)}


async def test_there_is_a_golden_log_of_every_schema_with_every_kind_of_event() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == [f"schema-{n}.jsonl" for n in range(1, SCHEMA + 1)]
    log = await golden(f"schema-{SCHEMA}.jsonl")
    assert await types_of(log, f"{BASE}.run.>", read=journal_event_of) == kinds(JournalEvent)
    others = (f"{BASE}.bus.>", f"{BASE}.memory.*", f"{BASE}.inbox.*")
    assert await types_of(log, *others, read=event_of) == kinds(BusEvent)


async def test_a_run_that_an_older_version_suspended_is_answered_today() -> None:
    """Conformance test 30, G42: a snapshot of schema 1, with a run below it"""
    place = Place(await golden("schema-1.jsonl"), BASE, live=False)

    @tool
    async def look(context: ToolContext, what: str) -> ToolReturn:
        """Look."""
        raise AssertionError

    @tool(needs_approval=True)
    async def publish(what: str) -> str:
        """Publish."""
        return f"published {what}"

    writer = Agent("writer", model=ScriptedModel(["written"]), tools=[publish]).as_tool("write", "Write.")
    chief = Agent("chief", model=ScriptedModel(["heard"]), tools=[look, writer])
    assert [each.run_id for each in await pending(place)] == ["a" * 32]
    waiting = await peek(place, "a" * 32)
    answers = {each.id: Approve() for each in waiting.interrupts}
    result = await resume(place, waiting.run_id, answers, token=waiting.token, agent=chief)
    assert (result.status, result.text) == ("completed", "heard")
    assert [(each.key, each.value) for each in result.artifacts] == [("source", {"page": 3})]
    assert [each.status for each in result.report.children] == ["completed"]


async def test_what_older_versions_wrote_folds_to_the_same_today() -> None:
    log = await golden("schema-1.jsonl")
    place, conversation = Place(log, BASE), Conversation(log, ConversationId("golden"), Subjects(BASE))
    ends: dict[str, AnyRunEvent] = {}
    for run in "bcd":
        async with run_events(place, run * 32) as events:
            ends[run] = [each.event async for each in events][-1]
    assert {run: each.type for run, each in ends.items()} == {
        "b": "run_finished",
        "c": "run_failed",
        "d": "run_cancelled",
    }
    end = ends["b"]
    assert isinstance(end, RunFinished)
    assert (end.result.text, end.result.usage.input_tokens) == ('{"text": "x", "refunded": true}', 7)
    world = await conversation.world(ADA)
    assert (world.floor.damaged, world.floor.turn, world.floor.closed is not None) == (0, 3, True)
    assert [each.text for each in world.heard] == ["Hello.", "Salt!"]


NEWER: tuple[dict[str, object], ...] = (
    {"schema": SCHEMA + 1, "type": "thought_better", "of": "it"},
    {"schema": SCHEMA + 1, "type": "trip_started", "trip": 1, "attempt": 1, "mood": "good"},
)


@pytest.mark.parametrize("body", NEWER, ids=["another kind", "another field"])
async def test_a_run_that_a_newer_version_goes_on_with_is_left_to_it(body: dict[str, object]) -> None:
    """Whatever reads the journal says why it cannot, and nothing is appended."""
    log, run = await golden("schema-1.jsonl"), RunContext.root(RunId("a" * 32))
    place = Place(log, BASE, live=False)
    token, journal = (await peek(place, run.run_id)).token, place.journal(run)
    last = await log.last(journal)
    assert last is not None
    seq = await log.append(Draft(journal, json.dumps(body).encode(), run.headers(), guard=Guard(journal, last.seq)))
    agent = Agent("chief", model=ScriptedModel([]))

    async def watched() -> None:
        async with run_events(place, run.run_id) as events:
            async for _ in events:
                pass

    calls: list[Callable[[], Any]] = [
        lambda: agent.execute("go", run=run, place=place),
        lambda: peek(place, run.run_id),
        lambda: resume(place, run.run_id, {}, token=token, agent=agent),
        watched,
    ]
    for call in calls:
        with pytest.raises(NewerRecord, match=rf"schema {SCHEMA + 1}, this one reads {SCHEMA}\). Nothing was changed"):
            await call()
    newest = await log.last(f"{BASE}.>")
    assert newest is not None
    assert newest.seq == seq


async def test_a_conversation_that_a_newer_version_leads_is_left_to_it() -> None:
    """A supervisor and a seat write nothing behind a link that they cannot read."""
    async with memory_bus() as bus:
        conversation, run = await bus.conversation("supper"), RunContext.root()
        await conversation.open(run, "soup")
        await conversation.grant(await conversation.floor(), ADA, run.child(), 0.0)
        floor = await conversation.floor()
        body = {"schema": SCHEMA + 1, "type": "lent", "link": 2}
        link = conversation.subjects.link(ADA)
        await conversation.log.append(Draft(link, json.dumps(body).encode(), run.headers()))
        with anyio.fail_after(5), pytest.raises(NewerRecord):
            await supervise(conversation, Plan(turns=1, turn_s=0, grace_s=0), run)
        after = await conversation.floor()
        assert after.open_grant is not None
        with pytest.raises(NewerRecord):
            await conversation.say(after, after.open_grant, "Hello.", run)
        assert after.seq == floor.seq + 1


@pytest.mark.parametrize("newer", ["order", "journal"])
async def test_a_worker_leaves_an_order_of_a_newer_version_to_newer_workers(
    newer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not given up, and costs none of its attempts."""
    async with memory_bus() as bus:
        jobs, run = await bus.work_queue(lease_s=1.0), RunContext.root()
        order = {"type": "run_order", "agent": "echo", "input": "hello", "max_attempts": 1}
        if newer == "order":
            order = {**order, "schema": SCHEMA + 1, "mood": "good"}
        else:
            place = await place_of(bus, "default")
            await place.log.append(Draft(place.journal(run), json.dumps(NEWER[0]).encode(), run.headers()))
        await jobs.send(Job(run.run_id, json.dumps(order).encode(), run.headers()))
        async with anyio.create_task_group() as tasks:
            agents = {"echo": Agent("echo", model=ScriptedModel([]))}
            tasks.start_soon(lambda: work(bus, agents, retry_s=0.01))
            with anyio.fail_after(10):
                while caplog.text.count("is left to a newer worker") < 3:  # noqa: ASYNC110 - a log sets no event
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            lease = await jobs.take()
        assert (lease.job.id, lease.attempt, await jobs.dead()) == (run.run_id, 1, [])
