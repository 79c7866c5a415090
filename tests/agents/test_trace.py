"""A trace: one tree of all that was done under one root, from the log alone, in whatever order logs are read."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    Approve,
    FunctionSeat,
    Node,
    Participant,
    Place,
    Plan,
    QueuedRun,
    Text,
    ToolUse,
    Trace,
    Turn,
    UnknownRun,
    Usage,
    find_trace,
    follow_trace,
    host_seats,
    pending,
    read_trace,
    resume,
    supervise,
    tool,
    work,
)
from convive.agents.testing import ScriptedModel, crash_after, crash_before
from convive.bus import (
    Bus,
    Chair,
    Conversation,
    Draft,
    MemoryLog,
    Record,
    RunContext,
    SeatName,
    fork,
    memory_bus,
    open_bus,
)

pytestmark = pytest.mark.anyio

ADA, BOB = SeatName("ada"), SeatName("bob")
PLAN = Plan(turns=2, opens=False, toasts=False)


def said(text: str) -> Answer:
    return Answer(parts=(Text(text=text),), stop_reason="end", usage=Usage(input_tokens=10, output_tokens=1))


def uses(*calls: tuple[str, dict[str, Any]]) -> Answer:
    parts = tuple(ToolUse(id=f"c{n}", name=name, arguments=given) for n, (name, given) in enumerate(calls))
    return Answer(parts=parts, stop_reason="tool_use", usage=Usage(input_tokens=5, output_tokens=2))


@tool
def weigh(what: str) -> str:
    """Weigh something."""
    if what == "air":
        raise ValueError("it floats")
    return "2 pounds"


def ada() -> Agent:
    helper = Agent("helper", model=ScriptedModel([uses(("weigh", {"what": "air"})), said("Nothing.")]), tools=[weigh])
    model = ScriptedModel([uses(("weigh", {"what": "figs"}), ("help", {"prompt": "air?"})), said("Two pounds.")])
    return Agent("ada", model=model, tools=[weigh, helper.as_tool("help", "Ask")])


async def bob(turn: Turn) -> str:
    return f"I heard: {turn.heard[-1].text}"


def seats() -> dict[SeatName, Participant]:
    return {ADA: AgentSeat(ada()), BOB: FunctionSeat(bob)}


async def held(bus: Bus, name: str, seated: Mapping[SeatName, Participant] | None = None) -> Conversation:
    conversation = await bus.conversation(name)
    run = RunContext.root()
    await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_seats, conversation, seats() if seated is None else seated)
        tasks.start_soon(supervise, conversation, PLAN, run)
    return conversation


def drawn(node: Node, depth: int = 0) -> list[str]:
    """A tree as indented lines."""
    lines = [f"{'  ' * depth}{node.kind} {node.name} {node.status}"]
    for child in node.children:
        lines += drawn(child, depth + 1)
    return lines


TREE = [
    "conversation trace-{} ok",
    "  turn turn 1 ok",
    "    run ada ok",
    "      trip answer 1 ok",
    "      tool weigh ok",
    "      tool help ok",
    "        run helper ok",
    "          trip answer 1 ok",
    "          tool weigh failed",
    "          trip answer 2 ok",
    "      trip answer 2 ok",
    "  turn turn 2 ok",
]


def tree(name: str) -> list[str]:
    return [line.format(name) for line in TREE]


async def test_a_conversation_is_one_tree_down_to_the_tools_of_its_sub_agents(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        conversation = await held(bus, "trace-a")
        trace = await read_trace(bus, "trace-a")
        assert trace.root is not None
        assert drawn(trace.root) == tree("a")
        assert trace.roots == [trace.root]
        assert trace.is_over
        nodes = list(trace.root.walk())
        assert {node.run.root_run_id for node in nodes} == {trace.root.run_id}
        assert not [node for node in nodes if node.orphan or node.damage]
        assert len({(node.run_id, node.part) for node in nodes}) == len(nodes)
        assert all(node.ended_s is not None and node.ended_s >= node.started_s for node in nodes)
        assert (trace.root.total_usage, trace.root.usage) == (Usage(input_tokens=30, output_tokens=6), Usage())
        failed = next(node for node in nodes if node.status == "failed")
        assert "it floats" in failed.error
        assert failed.detail == '{"what":"air"}'
        for node in nodes:
            async with conversation.log.read(f"{conversation.subjects.base}.>", after=node.seqs[0] - 1) as records:
                assert (await anext(aiter(records))).seq == node.seqs[0]


async def test_a_run_is_found_by_its_id_and_the_beginning_of_it(nats_url: str) -> None:
    async with open_bus(nats_url) as bus:
        conversation = await held(bus, "trace-b")
        whole = await read_trace(bus, "trace-b")
        helper = next(run for run in whole.runs.values() if run.name == "helper")
        for which in (helper.run_id, helper.run_id[:20], whole.root.run_id if whole.root else ""):
            found = await read_trace(bus, which)
            assert found.root is not None
            assert drawn(found.root) == tree("b")
        assert (await find_trace(bus, helper.run_id)).asked == helper.run_id
        assert (await find_trace(conversation, helper.run_id)).root == helper.run.root_run_id


async def test_an_unknown_id_is_answered_with_near_ones() -> None:
    async with memory_bus() as bus:
        await held(bus, "trace-supper")
        with pytest.raises(UnknownRun, match="Did you mean trace-supper"):
            await read_trace(bus, "trace-super")
        with pytest.raises(UnknownRun, match="`convive runs` lists"):
            await read_trace(bus, "ffffffff")
        runs = list((await read_trace(bus, "trace-supper")).runs)
        with pytest.raises(UnknownRun, match="3 runs have ids that begin"):
            await read_trace(bus, runs[0][:8])


async def records_of(conversation: Conversation) -> list[Record]:
    async with conversation.log.read(f"{conversation.subjects.base}.>") as records:
        return [record async for record in records]


def folded(records: Sequence[Record]) -> Trace:
    trace = Trace()
    for record in records:
        trace.apply(record)
    return trace


async def test_logs_may_be_read_in_any_order() -> None:
    """A sub-agent's journal may stand in another log than its parent's, and that in another than the floor."""
    async with memory_bus() as bus:
        records = await records_of(await held(bus, "trace-c"))
        whole = folded(records)
        by_run: dict[str, list[Record]] = {}
        for record in records:
            by_run.setdefault(record.subject if ".run." in record.subject else "floor", []).append(record)
        backwards = [record for _, each in sorted(by_run.items(), reverse=True) for record in each]
        forwards = [record for _, each in sorted(by_run.items()) for record in each]
        assert whole.root is not None
        for mixed in (backwards, forwards):
            trace = folded(mixed)
            assert trace.root is not None
            assert drawn(trace.root) == drawn(whole.root)
            assert trace.roots == [trace.root]


async def test_every_moment_of_a_conversation_is_a_trace() -> None:
    async with memory_bus() as bus:
        records = await records_of(await held(bus, "trace-d"))
        for length in range(1, len(records)):
            trace = folded(records[:length])
            assert not trace.is_over
            if trace.root is not None:
                assert trace.root.status == "running"
                running = [node for node in trace.root.walk() if not node.is_over]
                assert all(node.ended_s is None for node in running)
                assert all(node.parent is None or not node.parent.is_over for node in running)


async def test_what_is_missing_above_is_an_orphan_and_shown() -> None:
    model = ScriptedModel([uses(("ask", {"prompt": "figs?"})), said("Done.")])
    seated: dict[SeatName, Participant] = {
        ADA: AgentSeat(Agent("chef", model=model, tools=[ada().as_tool("ask", "Ask")])),
        BOB: FunctionSeat(bob),
    }
    async with memory_bus() as bus:
        records = await records_of(await held(bus, "trace-e", seated))
        helper = next(run for run in folded(records).runs.values() if run.name == "helper")
        parent = f".{helper.run.parent_run_id}"
        trace = folded([record for record in records if not record.subject.endswith(parent)])
        assert [(node.name, node.orphan) for node in trace.roots] == [("trace-e", False), ("helper", True)]
        holed = [one for one in records if not (one.subject.endswith(helper.run_id) and b"model_answered" in one.body)]
        damaged = folded(holed).runs[helper.run_id]
        assert damaged.damage
        assert "record " in damaged.damage[0]


async def test_a_crash_is_a_second_attempt_with_its_place() -> None:
    place, run = Place(MemoryLog(), "cv.00.work", live=False), RunContext.root()
    with crash_before("model_answered", trip=0).on(place) as dying:
        await ada().execute("go", place=dying, run=run)
    broken = await read_trace(place, run.run_id)
    assert (broken.runs[run.run_id].status, broken.is_over) == ("running", False)
    with crash_after("tool_called", name="weigh").on(place) as dying:
        await ada().execute(place=dying, run=run)
    # The model of a new process: the journal has the first answer.
    again = Agent("ada", model=ScriptedModel([said("Done.")]), tools=list(ada().settings().tools.values()))
    await again.execute(place=place, run=run)
    root = (await read_trace(place, run.run_id)).runs[run.run_id]
    assert root.status == "ok"
    assert [(node.name, len(node.attempts)) for node in root.children] == [
        ("answer 1", 2),
        ("weigh", 2),
        ("help", 1),
        ("answer 2", 1),
    ]


async def test_called_off_and_revoked_are_not_running() -> None:
    async with memory_bus() as bus:
        conversation = await bus.conversation("trace-f")
        run = RunContext.root()
        await conversation.open(run, "figs", [Chair(seat=ADA)])
        turn = run.child()
        await conversation.grant(await conversation.floor(), ADA, turn, 2e9)
        with crash_after("trip_started").on(Place(conversation.log, conversation.subjects.base)) as dying:
            await ada().execute("go", place=dying, run=turn)
        assert [node.status for node in _root(await read_trace(bus, "trace-f")).walk()] == ["running"] * 4
        floor = await conversation.floor()
        assert floor.open_grant is not None
        await conversation.revoke(floor, floor.open_grant, run, "too slow")
        nodes = list(_root(await read_trace(bus, "trace-f")).walk())
        assert [node.status for node in nodes] == ["running", "revoked", "interrupted", "interrupted"]
        assert nodes[1].detail == "too slow"
        await conversation.close(await conversation.floor(), run)
        assert _root(await read_trace(bus, "trace-f")).status == "ok"


def _root(trace: Trace) -> Node:
    assert trace.root is not None
    return trace.root


async def test_a_run_that_waits_for_an_answer_waits() -> None:
    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    place, run = Place(MemoryLog(), "cv.00.work", live=False), RunContext.root()
    agent = Agent("clerk", model=ScriptedModel([uses(("pay", {"amount": 5})), said("Paid.")]), tools=[pay])
    await agent.execute("go", place=place, run=run)
    trace = await read_trace(place, run.run_id)
    assert drawn(_root(trace)) == ["run clerk waiting", "  trip answer 1 ok", "  tool pay waiting"]
    assert (trace.runs[run.run_id].children[1].detail, trace.is_over) == ('{"amount":5}', False)
    (interrupt,) = (await pending(place))[0].interrupts
    await resume(place, run.run_id, {interrupt.id: Approve()}, agent=agent)
    assert drawn(_root(await read_trace(place, run.run_id)))[2] == "  tool pay ok"


async def test_a_queued_run_is_in_the_trace_of_the_tool_that_sent_it(nats_url: str) -> None:
    """Issue 5, item 1: through queued runs. Its journal stands in another partition."""
    async with open_bus(nats_url) as bus:
        later = Agent("later", model=ScriptedModel([said("Done later.")]))
        sent: list[QueuedRun] = []

        @tool
        async def send() -> str:
            sent.append(await later.queue("do it", queue="trace-q").send(bus))
            return "sent"

        agent = Agent("sender", model=ScriptedModel([uses(("send", {})), said("It is on its way.")]), tools=[send])
        conversation, run = await bus.conversation("trace-g"), RunContext.root()
        await agent.execute("go", place=Place(conversation.log, conversation.subjects.base), run=run)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: work(bus, {"later": later}, queue="trace-q"))
            await sent[0].result()
            tasks.cancel_scope.cancel()
        root = _root(await read_trace(bus, run.run_id))
        assert [node.name for node in root.walk() if node.kind == "run"] == ["sender", "later"]


@asynccontextmanager
async def following(bus: Bus, name: str) -> AsyncGenerator[list[list[str]]]:
    seen: list[list[str]] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with follow_trace(bus, name) as states:
                seen.extend([drawn(_root(trace)) async for trace in states])

        tasks.start_soon(follow)
        yield seen


async def test_a_trace_is_followed_until_it_is_over(nats_url: str) -> None:
    async with open_bus(nats_url) as bus, open_bus(nats_url) as other:
        conversation = await bus.conversation("trace-h")
        run = RunContext.root()
        await conversation.open(run, "figs", [Chair(seat=ADA), Chair(seat=BOB)])
        with anyio.fail_after(30):
            async with following(other, "trace-h") as seen, anyio.create_task_group() as tasks:
                tasks.start_soon(host_seats, conversation, seats())
                tasks.start_soon(supervise, conversation, PLAN, run)
        assert seen[0][0] == "conversation trace-h running"
        assert seen[-1] == tree("h")


async def test_a_fork_is_a_trace_of_its_own_with_its_origin() -> None:
    async with memory_bus() as bus:
        origin = await held(bus, "trace-i")
        await fork(bus, origin, "trace-j")
        one, other = _root(await read_trace(bus, "trace-i")), _root(await read_trace(bus, "trace-j"))
        assert drawn(other)[1:] == drawn(one)[1:]
        assert not {node.run_id for node in one.walk()} & {node.run_id for node in other.walk()}
        assert other.origin is not None
        assert (other.origin.conversation, other.origin.run_id) == ("trace-i", one.run_id)


async def test_foreign_records_change_nothing() -> None:
    async with memory_bus() as bus:
        conversation = await held(bus, "trace-k")
        before = drawn(_root(await read_trace(bus, "trace-k")))
        root = _root(await read_trace(bus, "trace-k")).run_id
        for headers in ({}, {"Cv-Run": "nonsense"}):
            await conversation.log.append(Draft(f"{conversation.subjects.base}.run.{root}.x", b"\xff", headers))
        await conversation.log.append(Draft(conversation.subjects.link(BOB), b"{}"))
        assert drawn(_root(await read_trace(bus, "trace-k"))) == before
