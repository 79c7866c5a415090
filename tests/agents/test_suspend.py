"""Runs that wait for somebody: approvals, client tools, and answers from any process."""

import gc
import time
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from convive.agents import (
    Agent,
    AgentChanged,
    AlreadyResumed,
    Approve,
    BadAnswers,
    Deny,
    Edit,
    Limits,
    NotSuspended,
    Result,
    SuspensionExpired,
    ToolContext,
    UnknownRun,
    accept_answers,
    cancel_run,
    client_tool,
    peek,
    pending,
    resume,
    tool,
)
from convive.agents.journal._journal import Resumed, Suspended, journal_event_of
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs import _events as shown
from convive.bus import RunContext
from tests.agents.runs import Given, Shop, place, told, types, use

pytestmark = pytest.mark.anyio


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
