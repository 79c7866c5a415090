"""Runs that wait for somebody: approvals, client tools, and answers from any process."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, JsonValue

from convive.agents import (
    Agent,
    AgentChanged,
    AlreadyResumed,
    Answer,
    Approve,
    BadAnswers,
    Deny,
    Edit,
    Limits,
    NotSuspended,
    Place,
    Request,
    Result,
    ResumeRequest,
    SuspensionExpired,
    ToolContext,
    ToolUse,
    UnknownRun,
    accept_answers,
    cancel_run,
    client_tool,
    peek,
    pending,
    resume,
    resume_many,
    tool,
)
from convive.agents import _events as shown
from convive.agents._journal import Resumed, Suspended, journal_event_of
from convive.agents._messages import ToolResult
from convive.agents._scripted import ScriptedModel
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

Given = dict[str, JsonValue]


def place() -> Place:
    return Place(MemoryLog(), "cv.00.test", live=False)


def use(*calls: tuple[str, Given]) -> Answer:
    """An answer that calls these tools."""
    parts = tuple(ToolUse(id=f"c{n}", name=name, arguments=arguments) for n, (name, arguments) in enumerate(calls))
    return Answer(parts=parts, stop_reason="tool_use")


def told(request: Request) -> list[ToolResult]:
    return [part for part in request.messages[-1].parts if isinstance(part, ToolResult)]


async def types(where: Place, run_id: str) -> list[str]:
    async with where.log.read(f"{where.base}.run.*.{run_id}") as records:
        return [journal_event_of(record).type async for record in records]


class Shop:
    """A tool that waits for approval, and what it did."""

    def __init__(self, needs_approval: bool | Callable[[ToolContext, Any], bool] = True) -> None:
        self.done: list[float] = []
        done = self.done

        @tool(needs_approval=needs_approval)
        async def refund(amount: float) -> str:
            """Give money back."""
            done.append(amount)
            return f"refunded {amount:g}"

        self.refund = refund

    def agent(self, *script: Answer | str, **options: Any) -> tuple[Agent, ScriptedModel]:
        model = ScriptedModel(list(script))
        return Agent("shop", model=model, tools=[self.refund, *options.pop("more", ())], **options), model


async def test_an_approval_suspends_the_run_and_the_answer_goes_on_with_it() -> None:
    """G24, G30, G32, G40, G47, G82"""
    shop, where = Shop(), place()
    agent, model = shop.agent(use(("refund", {"amount": 5})), "There you are.")
    result = await agent.prompt("money back", place=where)
    assert (result.status, result.error, shop.done) == ("suspended", None, [])
    (interrupt,) = result.interrupts
    assert (interrupt.kind, interrupt.tool, interrupt.arguments) == ("approval", "refund", {"amount": 5})
    assert (interrupt.run_id, interrupt.agent) == (result.run_id, "shop")
    after = await resume(where, result.run_id, {interrupt.id: Approve()}, token=result.resume_token, agent=agent)
    assert (after.status, after.text, after.run_id) == ("completed", "There you are.", result.run_id)
    assert (shop.done, told(model.requests[1])[0].content) == ([5.0], "refunded 5")
    assert await types(where, result.run_id) == [
        "run_started",
        "trip_started",
        "model_answered",
        "suspended",
        "resumed",
        "tool_called",
        "tool_returned",
        "trip_started",
        "model_answered",
        "run_finished",
    ]


async def test_a_denied_call_is_not_carried_out_and_the_model_reads_why() -> None:
    """G33"""
    shop, where = Shop(), place()
    agent, model = shop.agent(use(("refund", {"amount": 5})), "Sorry.")
    result = await agent.prompt("money back", place=where)
    after = await resume(where, result.run_id, {result.interrupts[0].id: Deny("too late")}, agent=agent)
    assert (after.text, shop.done) == ("Sorry.", [])
    (heard,) = told(model.requests[1])
    assert (heard.is_error, heard.content) == (True, '{"rejected":true,"reason":"too late"}')


async def test_edited_arguments_are_validated_first_and_then_carried_out() -> None:
    """G32, C7"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 500})), "Done.")
    result = await agent.prompt("money back", place=where)
    (waiting,) = result.interrupts
    with pytest.raises(BadAnswers, match="amount: Input should be a valid number"):
        await resume(where, result.run_id, {waiting.id: Edit({"amount": "much"})}, agent=agent)
    after = await resume(where, result.run_id, {waiting.id: Edit({"amount": 50})}, agent=agent)
    assert (after.status, shop.done) == ("completed", [50.0])


@pytest.mark.parametrize(("amount", "asked"), [(5, False), (500, True)])
async def test_a_predicate_decides_by_the_arguments(amount: int, asked: bool) -> None:
    """G82"""
    shop = Shop(lambda context, arguments: bool(arguments.amount > 100))
    agent, _ = shop.agent(use(("refund", {"amount": amount})), "Done.")
    assert bool((await agent.prompt("x")).interrupts) == asked


async def test_a_predicate_that_raises_means_ask() -> None:
    """G82, C8"""

    def fail(context: ToolContext, arguments: Any) -> bool:
        raise ZeroDivisionError

    agent, _ = Shop(fail).agent(use(("refund", {"amount": 1})))
    assert (await agent.prompt("x")).status == "suspended"


async def test_arguments_that_do_not_fit_are_told_to_the_model_and_not_asked_about() -> None:
    """G85"""
    agent, model = Shop().agent(use(("refund", {"amount": "much"})), "Sorry.")
    assert (await agent.prompt("x")).text == "Sorry."
    assert "invalid_arguments" in told(model.requests[1])[0].content


class Pick(BaseModel):
    """Which files to offer."""

    pattern: str


PICK = client_tool("pick_file", "Have the user choose a file.", Pick, output=list[str])


async def test_a_client_tool_waits_for_its_result() -> None:
    """G24, G29, G31, G41, G67, G80"""
    where, model = place(), ScriptedModel([use(("pick_file", {"pattern": "*.txt"})), "Thanks."])
    agent = Agent("files", model=model, tools=[PICK])
    assert model.requests == []
    result = await agent.prompt("x", place=where)
    (waiting,) = result.interrupts
    assert (waiting.kind, waiting.arguments) == ("client_tool", {"pattern": "*.txt"})
    with pytest.raises(BadAnswers, match="does not fit"):
        await resume(where, result.run_id, {waiting.id: Result("a.txt")}, agent=agent)
    after = await resume(where, result.run_id, {waiting.id: Result(["a.txt"])}, agent=agent)
    assert (after.text, told(model.requests[1])[0].content) == ("Thanks.", '["a.txt"]')


async def test_a_stub_can_be_a_client_tool_too() -> None:
    """G67"""

    @tool(client=True)
    def locate(precise: bool) -> str:
        """Where the user is."""
        raise NotImplementedError

    where = place()
    agent = Agent("maps", model=ScriptedModel([use(("locate", {"precise": True})), "Here."]), tools=[locate])
    result = await agent.prompt("x", place=where)
    assert (await resume(where, result.run_id, {result.interrupts[0].id: Result("Ghent")}, agent=agent)).text == "Here."


async def test_a_client_tool_that_needs_approval_waits_twice() -> None:
    """G35, D8"""
    pick = client_tool("pick_file", "Choose.", Pick, needs_approval=True)
    where = place()
    agent = Agent("files", model=ScriptedModel([use(("pick_file", {"pattern": "*"})), "Thanks."]), tools=[pick])
    first = await agent.prompt("x", place=where)
    second = await resume(where, first.run_id, {first.interrupts[0].id: Approve()}, agent=agent)
    assert [each.kind for each in (*first.interrupts, *second.interrupts)] == ["approval", "client_tool"]
    assert second.resume_token != first.resume_token
    third = await resume(where, first.run_id, {second.interrupts[0].id: Result("a")}, agent=agent)
    assert (third.text, third.run_id) == ("Thanks.", first.run_id)


async def test_all_gates_of_a_trip_are_collected_and_partial_answers_are_legal() -> None:
    """G30, G81, G83, D7, C6"""
    shop, where = Shop(), place()
    ran: list[str] = []

    @tool
    async def look() -> str:
        ran.append("look")
        return "nothing"

    asks = [("refund", Given(amount=n)) for n in (1, 2, 3)]
    agent, model = shop.agent(use(*asks, ("look", {})), "Done.", more=[look])
    first = await agent.prompt("x", place=where)
    assert [each.arguments for each in first.interrupts] == [{"amount": n} for n in (1, 2, 3)]
    assert ran == ["look"]
    one, two, three = (each.id for each in first.interrupts)
    second = await resume(where, first.run_id, {two: Approve()}, agent=agent)
    assert (second.status, [each.id for each in second.interrupts], shop.done) == ("suspended", [one, three], [2.0])
    third = await resume(where, first.run_id, {one: Deny("no"), three: Approve()}, agent=agent)
    assert (third.status, shop.done, ran) == ("completed", [2.0, 3.0], ["look"])
    assert [part.is_error for part in told(model.requests[1])] == [True, False, False, False]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({}, "no answer"),
        ({"nosuch": Approve()}, "does not wait for 'nosuch'"),
        ({"": Result(1)}, "waits for Approve, Deny, Edit, not for Result"),
        ({"": Edit({})}, "amount: Field required"),
        ({"": Approve(), "nosuch": Approve()}, "does not wait for 'nosuch'"),
    ],
)
async def test_a_wrong_answer_changes_nothing(answers: dict[str, Any], why: str) -> None:
    """G31, G32, D2, C2"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")
    result = await agent.prompt("x", place=where)
    own = result.interrupts[0].id
    before = await types(where, result.run_id)
    with pytest.raises(BadAnswers, match=why):
        await resume(where, result.run_id, {id or own: answer for id, answer in answers.items()}, agent=agent)
    with pytest.raises(BadAnswers, match="token"):
        await resume(where, result.run_id, {own: Approve()}, agent=agent, token="guessed")  # noqa: S106
    assert await types(where, result.run_id) == before
    assert (await resume(where, result.run_id, {own: Approve()}, agent=agent)).status == "completed"


async def test_unknown_used_expired_and_not_waiting_are_different_errors() -> None:
    """G44, C28"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.", expires_s=60)
    with pytest.raises(UnknownRun, match="there is no run"):
        await resume(where, RunContext.root().run_id, {"x": Approve()}, agent=agent)
    result = await agent.prompt("x", place=where)
    answers = {result.interrupts[0].id: Approve()}
    await resume(where, result.run_id, answers, agent=agent, token=result.resume_token)
    with pytest.raises(AlreadyResumed, match="this token was used"):
        await resume(where, result.run_id, answers, agent=agent, token=result.resume_token)
    with pytest.raises(AlreadyResumed, match="not wait for an answer any more: it is over"):
        await resume(where, result.run_id, answers, agent=agent)
    assert shop.done == [5.0]
    other, _ = shop.agent("hi", use(("refund", {"amount": 5})))
    done = await other.prompt("x", place=where)
    with pytest.raises(NotSuspended, match="is over") as caught:
        await resume(where, done.run_id, answers, agent=other)
    assert not isinstance(caught.value, AlreadyResumed)
    late = await other.prompt("x", place=where, expires_s=-1)
    with pytest.raises(SuspensionExpired, match="over 1 s ago"):
        await resume(where, late.run_id, {late.interrupts[0].id: Approve()}, agent=other)
    assert (await types(where, late.run_id))[-1] == "suspended"
    assert (await peek(where, late.run_id)).expires_at == pytest.approx(time.time(), abs=30)


async def test_of_two_resumptions_at_once_exactly_one_wins() -> None:
    """G44, D1, C1"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")
    result = await agent.prompt("x", place=where)
    won: list[str] = []

    async def one() -> None:
        try:
            answers = {result.interrupts[0].id: Approve()}
            won.append((await resume(where, result.run_id, answers, agent=agent, token=result.resume_token)).status)
        except AlreadyResumed:
            won.append("refused")

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
    assert sorted(won) == ["completed", *["refused"] * 4]
    assert shop.done == [5.0]


async def test_a_changed_agent_is_refused_with_what_changed_unless_forced() -> None:
    """D23, C27"""
    shop, where = Shop(), place()
    agent, model = shop.agent(use(("refund", {"amount": 5})), "Done.")
    result = await agent.prompt("x", place=where)

    @tool(name="refund")
    async def other(amount: float, currency: str = "EUR") -> str:
        return f"{amount} {currency}"

    @tool
    async def extra() -> None: ...

    answers = {result.interrupts[0].id: Approve()}
    changed = Agent("shop", model=model, tools=[other, extra])
    with pytest.raises(AgentChanged, match="extra is new, refund takes other arguments"):
        await resume(where, result.run_id, answers, agent=changed)
    with pytest.raises(AgentChanged, match="one of agent 'shop', not of 'store'"):
        await resume(where, result.run_id, answers, agent=Agent("store", model=model, tools=[shop.refund]))
    assert (await types(where, result.run_id))[-1] == "suspended"
    assert (await resume(where, result.run_id, answers, agent=changed, force=True)).text == "Done."


async def test_looking_changes_nothing_and_all_that_waits_can_be_listed() -> None:
    """G44"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), use(("refund", {"amount": 6})), "hi")
    first = await agent.prompt("x", place=where, session_id="u42")
    second = await agent.prompt("x", place=where)
    done = await agent.prompt("x", place=where)
    seen = await peek(where, first.run_id)
    assert seen == await peek(where, first.run_id)
    assert (seen.token, seen.interrupts, seen.session_id) == (first.resume_token, first.interrupts, "u42")
    assert [each.run_id for each in await pending(where)] == [first.run_id, second.run_id]
    with pytest.raises(NotSuspended):
        await peek(where, done.run_id)


async def test_each_suspension_has_a_token_of_its_own_that_nobody_can_guess() -> None:
    """G45"""
    agent, _ = Shop().agent(*[use(("refund", {"amount": 5}))] * 20)
    tokens = {(await agent.prompt("x")).resume_token for _ in range(20)}
    assert len(tokens) == 20
    assert all(token and len(token) >= 32 for token in tokens)


async def test_executing_a_suspended_run_again_gives_the_same_suspension() -> None:
    """G34"""
    shop, where, run = Shop(), place(), RunContext.root()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")
    first = await agent.prompt("x", place=where, run=run)
    again = await agent.prompt("x", place=where, run=run)
    assert (again.interrupts, again.resume_token) == (first.interrupts, first.resume_token)


async def test_a_crash_after_the_answers_were_taken_loses_none() -> None:
    """G46, C3"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.", more=[])
    result = await agent.prompt("x", place=where)
    options = await accept_answers(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=agent)
    assert (await types(where, result.run_id))[-1] == "resumed"
    del options
    gc.collect()
    other, _ = shop.agent("Done elsewhere.")
    assert (await other.prompt(place=where, run=RunContext.root(result.run_id))).text == "Done elsewhere."
    assert shop.done == [5.0]


async def test_a_stream_ends_with_the_suspension_and_goes_on_with_a_stream() -> None:
    """G28, G39, W31"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")
    async with agent.stream("x", place=where) as run:
        events = [event async for event in run]
    assert isinstance(events[-1], shown.RunSuspended)
    result = await run.result()
    options = await accept_answers(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=agent)
    async with agent.stream(**options) as run:
        events = [event async for event in run]
    assert isinstance(events[0], shown.RunStarted)
    assert events[0].resumed
    assert [type(event).__name__ for event in events[1:3]] == ["ToolStarted", "ToolFinished"]
    assert isinstance(events[-1], shown.RunFinished)


async def test_limits_count_over_suspensions() -> None:
    """D11, C5"""
    shop, where = Shop(), place()
    calls = [use(("refund", {"amount": n})) for n in range(4)]
    agent, _ = shop.agent(*calls, limits=Limits(trips=3))
    result = await agent.prompt("x", place=where)
    for _ in range(3):
        assert result.status == "suspended"
        result = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=agent)
    assert (result.status, result.finish_reason, len(result.report.trips)) == ("completed", "limit", 3)


async def test_a_suspended_run_can_be_called_off() -> None:
    """C23"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})))
    result = await agent.prompt("x", place=where)
    assert await cancel_run(where, result.run_id, "never mind")
    assert not await cancel_run(where, result.run_id, "again")
    with pytest.raises(NotSuspended, match="run_cancelled"):
        await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=agent)
    ended = await agent.execute(place=where, run=RunContext.root(result.run_id))
    assert (ended.status, ended.interrupts, ended.error and ended.error.message) == ("cancelled", (), "never mind")
    assert shop.done == []


async def test_the_journal_holds_what_was_asked_and_answered() -> None:
    """G42"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")
    result = await agent.prompt("x", place=where)
    await resume(where, result.run_id, {result.interrupts[0].id: Edit({"amount": 1})}, agent=agent)
    async with where.log.read(f"{where.base}.run.>") as records:
        events = [journal_event_of(record) async for record in records]
    (asked,) = [event for event in events if isinstance(event, Suspended)]
    (answered,) = [event for event in events if isinstance(event, Resumed)]
    assert (asked.interrupts, asked.token) == (result.interrupts, result.resume_token)
    assert answered.answers == {result.interrupts[0].id: Edit({"amount": 1})}


def three_levels(done: list[str], scripts: Sequence[Sequence[Answer | str]]) -> Agent:
    """An agent whose tool asks an agent whose tool asks an agent whose tool waits for approval."""

    @tool(needs_approval=True)
    async def publish(what: str) -> str:
        done.append(what)
        return f"published {what}"

    writer = Agent("writer", model=ScriptedModel(list(scripts[2])), tools=[publish])

    @tool
    async def write() -> str:
        try:
            return (await writer.prompt("write")).text
        except Exception as error:  # noqa: BLE001 - as a careless tool does
            return f"swallowed {error}"

    editor = Agent("editor", model=ScriptedModel(list(scripts[1])), tools=[write])

    @tool
    async def edit() -> str:
        return (await editor.prompt("edit")).text

    return Agent("chief", model=ScriptedModel(list(scripts[0])), tools=[edit])


async def test_an_approval_three_levels_down_is_answered_at_the_root() -> None:
    """G17, G25, G27 (nothing needs to be streamed for it), G28, G31, D10, C4"""
    where, done = place(), list[str]()
    asks = [[use(("edit", {}))], [use(("write", {}))], [use(("publish", {"what": "news"}))]]
    result = await three_levels(done, asks).prompt("go", place=where)
    (waiting,) = result.interrupts
    assert (result.status, waiting.agent, waiting.tool) == ("suspended", "writer", "publish")
    assert waiting.run_id != result.run_id
    with pytest.raises(UnknownRun, match=f"part of run {result.run_id}"):
        await resume(where, waiting.run_id, {waiting.id: Approve()}, agent=three_levels(done, asks))
    # another process: new objects, and models that know only the rest
    rest = three_levels(done, [["chief done"], ["editor done"], ["writer done"]])
    after = await resume(where, result.run_id, {waiting.id: Approve()}, token=result.resume_token, agent=rest)
    assert (after.status, after.text, done) == ("completed", "chief done", ["news"])
    heard = [part.content for message in after.messages for part in message.parts if isinstance(part, ToolResult)]
    assert heard == ["editor done"]


async def test_a_denial_three_levels_down_reaches_the_model_that_asked() -> None:
    """G33"""
    where, done = place(), list[str]()
    asks = [[use(("edit", {}))], [use(("write", {}))], [use(("publish", {"what": "news"}))]]
    result = await three_levels(done, asks).prompt("go", place=where)
    rest = three_levels(done, [["chief done"], ["editor done"], ["writer gave up"]])
    after = await resume(where, result.run_id, {result.interrupts[0].id: Deny("not today")}, agent=rest)
    assert (after.text, done) == ("chief done", [])
    async with where.log.read(f"{where.base}.run.>") as records:
        bodies = [record.body.decode() async for record in records]
    assert any("not today" in body and "tool_returned" in body for body in bodies)


@pytest.mark.parametrize("together", [False, True])
async def test_two_children_that_wait_at_once_are_answered_one_by_one(together: bool) -> None:
    """G36, D7"""
    shop, where = Shop(), place()

    def answer(request: Request) -> Answer | str:
        if len(request.messages) == 1:
            return use(("refund", {"amount": float(request.messages[0].text)}))
        return told(request)[0].content

    clerk = Agent("clerk", model=ScriptedModel(answer), tools=[shop.refund])
    said: dict[str, str] = {}

    @tool
    async def ask(amount: str) -> str:
        return (await clerk.prompt(amount)).text

    @tool
    async def ask_both() -> str:
        async def one(amount: str) -> None:
            said[amount] = (await clerk.prompt(amount)).text

        async with anyio.create_task_group() as group:
            group.start_soon(one, "1")
            group.start_soon(one, "2")
        return "; ".join(said[amount] for amount in sorted(said))

    calls = use(("ask_both", {})) if together else use(("ask", {"amount": "1"}), ("ask", {"amount": "2"}))
    boss = Agent("boss", model=ScriptedModel([calls, "Done."]), tools=[ask, ask_both])
    result = await boss.prompt("x", place=where)
    rounds = 0
    while result.interrupts:
        rounds += 1
        result = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=boss)
    assert (result.text, rounds, sorted(shop.done)) == ("Done.", 2, [1.0, 2.0])


async def test_calling_off_a_suspended_run_calls_off_what_is_below() -> None:
    """C23"""
    where, done = place(), list[str]()
    asks = [[use(("edit", {}))], [use(("write", {}))], [use(("publish", {"what": "news"}))]]
    result = await three_levels(done, asks).prompt("go", place=where)
    await cancel_run(where, result.run_id, "enough")
    for subject in await where.log.subjects(f"{where.base}.run.>"):
        assert (await types(where, subject.rpartition(".")[2]))[-1] == "run_cancelled"


async def test_several_runs_are_resumed_at_once_and_each_outcome_names_its_request() -> None:
    """G36, G37, G38"""
    shop, where = Shop(), place()

    def answer(request: Request) -> Answer | str:
        if len(request.messages) == 1 or (request.messages[0].text == "again" and len(request.messages) < 5):
            return use(("refund", {"amount": 1}))
        return f"{request.messages[0].text} done"

    agent = Agent("shop", model=ScriptedModel(answer), tools=[shop.refund])
    runs = {name: await agent.prompt(name, place=where) for name in ("one", "again", "two")}
    wanted = [
        ResumeRequest(run.run_id, {run.interrupts[0].id: Approve()}, agent, run.resume_token, key=name)
        for name, run in runs.items()
    ]
    wanted.insert(1, ResumeRequest(RunContext.root().run_id, {"x": Approve()}, agent, key="nosuch"))
    batch = await resume_many(where, wanted, concurrency=1)
    assert [each.key for each in batch.outcomes] == ["one", "nosuch", "again", "two"]
    assert [each.key for each in batch.completed] == ["one", "two"]
    assert [each.key for each in batch.suspended] == ["again"]
    assert [type(each.error) for each in batch.errors] == [UnknownRun]
    assert ([each.tool for each in batch.interrupts], batch.done) == (["refund"], False)
    assert (await resume_many(where, [])).done
    with pytest.raises(ValueError, match="two requests are for one run"):
        await resume_many(where, [wanted[0], wanted[0]])
    with pytest.raises(AlreadyResumed):
        await resume_many(where, [wanted[0]], on_error="raise")


async def test_answers_for_an_agent_below_are_checked_against_its_own_tools() -> None:
    """G31, C2, C27"""
    where, shop = place(), Shop()
    writer, _ = shop.agent(use(("refund", {"amount": 5})), "Done.")

    def chief(below: Agent) -> Agent:
        def answer(request: Request) -> Answer | str:
            return "end" if told(request) else use(("ask", {"prompt": "x"}))

        return Agent("chief", model=ScriptedModel(answer), tools=[below.as_tool("ask", "Ask.")])

    result = await chief(writer).prompt("x", place=where)
    (waiting,) = result.interrupts
    with pytest.raises(BadAnswers, match="amount: Input should be a valid number"):
        await resume(where, result.run_id, {waiting.id: Edit({"amount": "much"})}, agent=chief(writer))

    @tool(name="refund", needs_approval=True)
    async def other(amount: float, currency: str) -> str:
        return f"{amount} {currency}"

    changed = Agent("shop", model=ScriptedModel(["Done."]), tools=[other])
    with pytest.raises(AgentChanged, match="refund takes other arguments"):
        await resume(where, result.run_id, {waiting.id: Approve()}, agent=chief(changed))
    assert (await types(where, result.run_id))[-1] == "suspended"
    after = await resume(where, result.run_id, {waiting.id: Edit({"amount": 7})}, agent=chief(writer))
    assert (after.text, shop.done) == ("end", [7.0])
