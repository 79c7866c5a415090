"""Runs that wait, found and answered from anywhere: on a bus, below a conversation, without the agent's code."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field, JsonValue

from convive.agents import (
    Agent,
    AlreadyResumed,
    Answer,
    Approve,
    BadAnswers,
    Edit,
    Limits,
    NotSuspended,
    Place,
    Request,
    Result,
    ResumeRefused,
    ResumeRequest,
    ToolUse,
    UnknownRun,
    Usage,
    accept_answers,
    answer,
    cancel_run,
    client_tool,
    peek,
    pending,
    resume,
    resume_many,
    run_events,
    tool,
)
from convive.agents.journal._journal import journal_event_of
from convive.agents.models._messages import ToolResult
from convive.agents.testing import ScriptedModel
from convive.bus import BadName, Bus, Conversation, Draft, MemoryLog, Record, RunContext, memory_bus, open_bus

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "server"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncGenerator[Bus]:
    """A bus with a prefix of its own, so that nothing of other tests waits on it."""
    server: AbstractAsyncContextManager[Bus] = open_bus(nats_url, prefix=f"w{time.time_ns()}", partitions=4)
    async with memory_bus() if request.param == "memory" else server as made:
        yield made


def told(request: Request) -> list[str]:
    return [part.content for part in request.messages[-1].parts if isinstance(part, ToolResult)]


class Of(BaseModel):
    of: str


class Till:
    """An agent that pays by a tool which needs an approval; any process can make it."""

    def __init__(self, name: str = "till", tool_name: str = "pay", **arguments: JsonValue) -> None:
        self.paid: list[int] = []
        self.heard: list[str] = []

        @tool(name="pay", needs_approval=True)
        async def pay(amount: Annotated[int, Field(lt=1_000)]) -> str:
            """Pay."""
            self.paid.append(amount)
            return f"paid {amount}"

        def reply(request: Request) -> Answer | str:
            self.heard += told(request)
            if told(request):
                return "Thank you."
            use = ToolUse(id="1", name=tool_name, arguments=arguments or {"amount": 3})
            return Answer(parts=(use,), stop_reason="tool_use")

        self.ask = client_tool("ask", "Ask.", Of, output=list[str])
        self.agent = Agent(name, model=ScriptedModel(reply), tools=[pay, self.ask])

    async def waits(self, conversation: Conversation, run: RunContext | None = None, **options: Any) -> RunContext:
        """A run of it, beside this conversation, that has come to where it waits."""
        run = run or RunContext.root()
        result = await self.agent.prompt("go", run=run, place=beside(conversation), **options)
        assert result.status == "suspended"
        return run


def beside(conversation: Conversation) -> Place:
    return Place(conversation.log, conversation.subjects.base)


async def last_type(conversation: Conversation, run: RunContext) -> str:
    last = await conversation.log.last(conversation.journal(run))
    assert last is not None
    return journal_event_of(last).type


# A bus


async def test_a_bus_finds_a_run_wherever_it_is_kept(bus: Bus) -> None:
    """G31, G40, G44: peek, answer, resume and cancel need nothing but the run's id"""
    till = Till()
    runs = [await till.waits(await bus.conversation(f"table-{n}"), session_id=f"u{n}") for n in range(6)]
    listed = await pending(bus)
    assert [(each.run_id, each.conversation) for each in listed] == [
        (run.run_id, f"table-{n}") for n, run in enumerate(runs)
    ]
    looked = await peek(bus, runs[4].run_id)
    assert looked == listed[4]
    assert (looked.session_id, looked.agent, looked.seat, looked.trips) == ("u4", "till", None, 1)
    assert abs(looked.since_s - time.time()) < 60
    (waiting,) = looked.interrupts
    after = await resume(bus, runs[4].run_id, {waiting.id: Approve()}, agent=till.agent, token=looked.token)
    assert (after.text, till.paid) == ("Thank you.", [3])
    assert await cancel_run(bus, runs[0].run_id, "enough")
    requests = [
        ResumeRequest(run.run_id, {(await peek(bus, run.run_id)).interrupts[0].id: Approve()}, till.agent)
        for run in runs[1:4]
    ]
    assert (await resume_many(bus, requests)).done
    assert [each.run_id for each in await pending(bus)] == [runs[5].run_id]
    with pytest.raises(NotSuspended, match="run_cancelled"):
        await peek(bus, runs[0].run_id)


async def test_what_is_not_there_is_said_and_nothing_is_created(bus: Bus) -> None:
    """G44: unknown is an error of its own"""
    nobody = RunContext.root().run_id
    for doing in (peek(bus, nobody), cancel_run(bus, nobody), answer(bus, nobody, {"x": Approve()})):
        with pytest.raises(UnknownRun, match=f"no run {nobody} on the bus at {bus.where}"):
            await doing
    with pytest.raises(UnknownRun):
        async with run_events(bus, nobody):
            pass
    with pytest.raises(BadName):
        await peek(bus, "*")
    assert await pending(bus) == []
    assert await bus.run_place(nobody) is None
    assert await bus.partitions() == {}


async def test_a_run_is_followed_on_a_bus_from_its_beginning_or_from_behind_a_place(bus: Bus) -> None:
    """Item 9 of the issue: events replayed and then live, in another process that knows only the id"""
    till = Till()
    run = await till.waits(await bus.conversation("table"))
    kinds: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async with run_events(bus, run.run_id) as events:
                kinds.extend([each.event.type async for each in events])

        tasks.start_soon(follow)
        (waiting,) = (await peek(bus, run.run_id)).interrupts
        await resume(bus, run.run_id, {waiting.id: Approve()}, agent=till.agent)
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert kinds.count("run_suspended") == 1
    async with run_events(bus, run.run_id) as events:
        whole = [each async for each in events]
    async with run_events(bus, run.run_id, after=whole[2].seq) as events:
        assert [each.seq async for each in events] == [each.seq for each in whole[3:]]


class Counting(MemoryLog):
    """A log that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    @asynccontextmanager
    async def latest(self, *subjects: str) -> AsyncGenerator[AsyncIterator[Record]]:
        self.asked.append("latest")
        async with super().latest(*subjects) as records:
            yield records

    @asynccontextmanager
    async def read(self, *subjects: str, **given: Any) -> AsyncGenerator[AsyncIterator[Record]]:
        self.asked.append("read")
        async with super().read(*subjects, **given) as records:
            yield records

    async def last(self, subject: str) -> Record | None:
        self.asked.append("last")
        return await super().last(subject)


async def test_listing_what_waits_takes_no_request_a_run() -> None:
    """G36"""
    log, till = Counting(), Till()
    place = Place(log, "cv.00.table", live=False)
    for _ in range(50):
        await till.agent.prompt("go", place=place)
    log.asked.clear()
    assert len(await pending(place)) == 50
    assert log.asked == ["latest", "read"]


async def test_a_journal_that_cannot_be_read_hides_no_other(bus: Bus) -> None:
    conversation, till = await bus.conversation("table"), Till()
    for body in (b"", b'{"type":"suspended"}', b"\xff suspended", b"[]", b'{"type":"suspended","token":"x"}'):
        await conversation.log.append(Draft(conversation.journal(RunContext.root()), body))
    run = await till.waits(conversation)
    assert [each.run_id for each in await pending(bus)] == [run.run_id]


# Runs below


async def test_a_run_below_one_without_a_journal_is_answered_by_itself(bus: Bus) -> None:
    """G31: as a run that an application started below the run of a conversation"""
    conversation, till = await bus.conversation("table"), Till()
    run = await till.waits(conversation, RunContext.root().child().child())
    (listed,) = await pending(conversation)
    assert listed == await peek(bus, run.run_id)
    assert listed.run == run
    after = await resume(conversation, run.run_id, {listed.interrupts[0].id: Approve()}, agent=till.agent)
    assert (after.status, after.report.run, till.paid) == ("completed", run, [3])


def chief(till: Till) -> Agent:
    def lead(request: Request) -> Answer | str:
        if told(request):
            return f"heard: {told(request)[0]}"
        use = ToolUse(id="1", name="ask_till", arguments={"prompt": "pay"})
        return Answer(parts=(use,), stop_reason="tool_use")

    return Agent("chief", model=ScriptedModel(lead), tools=[till.agent.as_tool("ask_till", "Ask.")])


async def test_a_run_is_answered_at_the_topmost_one_that_waits_for_the_same(bus: Bus) -> None:
    """G31, conformance test 4: also when that one is below a conversation's run"""
    conversation, till = await bus.conversation("table"), Till()
    top = RunContext.root().child()
    result = await chief(till).prompt("go", run=top, place=beside(conversation))
    (waiting,) = result.interrupts
    with pytest.raises(UnknownRun, match=f"part of run {top.run_id}"):
        await answer(bus, waiting.run_id, {waiting.id: Approve()})
    assert [each.run_id for each in await pending(bus)] == [top.run_id]
    after = await resume(bus, top.run_id, {waiting.id: Approve()}, agent=chief(till))
    assert after.text == "heard: Thank you."


async def test_calling_a_run_off_leaves_its_neighbours_below_the_same_root_alone(bus: Bus) -> None:
    """Conformance test 23: a parked run, and only what is below it"""
    conversation, till = await bus.conversation("table"), Till()
    root = RunContext.root()
    one, other = root.child(), root.child()
    result = await chief(till).prompt("go", run=one, place=beside(conversation))
    await till.waits(conversation, other)
    below = next(each.run_id for each in result.interrupts)
    assert await cancel_run(bus, one.run_id, "enough")
    assert not await cancel_run(bus, one.run_id)
    assert await last_type(conversation, one) == "run_cancelled"
    assert await last_type(conversation, one.child(below)) == "run_cancelled"
    assert await last_type(conversation, other) == "suspended"


# Without the agent


async def test_a_process_without_the_agents_code_can_answer_and_another_one_goes_on(bus: Bus) -> None:
    """G40, G46: the answers stand in the journal"""
    conversation, till = await bus.conversation("table"), Till()
    run = await till.waits(conversation)
    (waiting,) = (await peek(bus, run.run_id)).interrupts
    with pytest.raises(BadAnswers, match="not for Result"):
        await accept_answers(bus, run.run_id, {waiting.id: Result(1)})
    with pytest.raises(BadAnswers, match="the token is not"):
        await accept_answers(bus, run.run_id, {waiting.id: Approve()}, token="x")  # noqa: S106
    assert await answer(bus, run.run_id, {waiting.id: Approve()}) == "nobody"
    with pytest.raises(AlreadyResumed):
        await answer(bus, run.run_id, {waiting.id: Approve()})
    assert till.paid == []
    again = await Till().agent.prompt(run=run, place=beside(conversation))
    assert again.text == "Thank you."


@pytest.mark.parametrize(("amount", "paid", "heard"), [(7, [7], "paid 7"), (5_000, [], "invalid_arguments")])
async def test_arguments_edited_without_the_agent_are_checked_when_the_run_goes_on(
    amount: JsonValue, paid: list[int], heard: str
) -> None:
    """G32, conformance test 7: what its schema says of names and types is checked at once, see `test_takes`"""
    async with memory_bus() as bus:
        conversation, till = await bus.conversation("table"), Till()
        run = await till.waits(conversation)
        (waiting,) = (await peek(bus, run.run_id)).interrupts
        await answer(bus, run.run_id, {waiting.id: Edit({"amount": amount})})
        await till.agent.prompt(run=run, place=beside(conversation))
    assert till.paid == paid
    assert heard in till.heard[0]


@pytest.mark.parametrize(("value", "heard"), [(["a"], '["a"]'), ([5], "invalid_result")])
async def test_a_result_given_without_the_agent_is_checked_when_the_run_goes_on(value: object, heard: str) -> None:
    """G31, G41"""
    async with memory_bus() as bus:
        conversation, till = await bus.conversation("table"), Till(tool_name="ask", of="you")
        run = await till.waits(conversation)
        (waiting,) = (await peek(bus, run.run_id)).interrupts
        await answer(bus, run.run_id, {waiting.id: Result(value)})
        await till.agent.prompt(run=run, place=beside(conversation))
    assert heard in till.heard[0]


async def test_a_run_whose_input_is_elsewhere_is_not_executed_without_it() -> None:
    async with memory_bus() as bus:
        conversation, till = await bus.conversation("table"), Till()
        run = await till.waits(conversation, source={"page": 7})
        (waiting,) = (await peek(bus, run.run_id)).interrupts
        with pytest.raises(ResumeRefused, match="has its input elsewhere"):
            await resume(bus, run.run_id, {waiting.id: Approve()}, agent=till.agent)
        assert await last_type(conversation, run) == "suspended"


async def test_what_an_application_notes_with_a_run_is_there_for_whoever_looks_at_it() -> None:
    """G43: `meta` means nothing here"""
    async with memory_bus() as bus:
        meta: JsonValue = {"ticket": [1, None]}
        run = await Till().waits(await bus.conversation("table"), meta=meta)
        assert (await peek(bus, run.run_id)).meta == meta
        assert (await pending(bus))[0].meta == meta


async def test_an_approval_a_client_tool_and_an_approval_follow_one_another_within_one_budget() -> None:
    """G34, G35, conformance test 5: the same run, another token each time, and limits that count over all of it"""
    async with memory_bus() as bus:
        conversation, paid = await bus.conversation("table"), list[int]()
        calls: list[tuple[str, dict[str, JsonValue]]]
        calls = [("pay", {"amount": 1}), ("ask", {"of": "you"}), ("pay", {"amount": 2}), ("pay", {"amount": 3})]

        @tool(needs_approval=True)
        async def pay(amount: int) -> str:
            """Pay."""
            paid.append(amount)
            return "paid"

        def reply(request: Request) -> Answer:
            name, given = calls[sum(message.role == "assistant" for message in request.messages)]
            use = ToolUse(id="1", name=name, arguments=given)
            return Answer(parts=(use,), stop_reason="tool_use", usage=Usage(output_tokens=10))

        def agent() -> Agent:
            tools = [pay, client_tool("ask", "Ask.", Of)]
            return Agent("till", model=ScriptedModel(reply), tools=tools, limits=Limits(tokens=25))

        result = await agent().prompt("go", place=beside(conversation))
        kinds, tokens = list[str](), set[str | None]()
        while result.interrupts:
            (waiting,) = result.interrupts
            kinds.append(waiting.kind)
            tokens.add(result.resume_token)
            resolution = Approve() if waiting.kind == "approval" else Result("me")
            result = await resume(
                bus, result.run_id, {waiting.id: resolution}, agent=agent(), token=result.resume_token
            )
    assert (kinds, len(tokens)) == (["approval", "client_tool", "approval"], 3)
    assert (result.finish_reason, len(result.report.trips), paid) == ("limit", 3, [1, 2])
