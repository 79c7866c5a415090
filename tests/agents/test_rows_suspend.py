"""Rows on runs that wait: what is kept, in which order, and what a refusal leaves as it was."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentChanged,
    AlreadyResumed,
    Approve,
    AskContext,
    BadAnswers,
    Edit,
    Limits,
    Place,
    Request,
    Resolution,
    Result,
    ResumeRefused,
    ResumeRequest,
    SuspensionExpired,
    UnknownRun,
    peek,
    pending,
    resume,
    resume_many,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.bus import BadRecord, Draft, RunContext, RunId
from tests.agents.runs import Given, Shop, bodies, place, told, types, use

pytestmark = pytest.mark.anyio

REFUND: tuple[str, Given] = ("refund", {"amount": 5})


async def test_a_suspension_can_be_resumed_as_soon_as_anybody_hears_of_it() -> None:
    """G28: it is stored first, and then shown"""
    shop, where = Shop(), place()
    agent, _ = shop.agent(use(REFUND), "Done.")
    seen: list[str] = []

    async def answer_at_once(event: Any) -> None:
        waiting = await peek(where, event.run_id)
        seen.append((await types(where, event.run_id))[-1])
        await resume(where, event.run_id, {waiting.interrupts[0].id: Approve()}, token=waiting.token, agent=agent)

    result = await agent.prompt("x", place=where, on={"run_suspended": answer_at_once})
    assert (result.status, seen, shop.done) == ("suspended", ["suspended"], [5.0])
    assert (await types(where, result.run_id))[-1] == "run_finished"


async def test_what_the_application_notes_of_a_run_is_kept_and_never_looked_into() -> None:
    """G43: in the journal, in the report and for whoever looks at what waits; nothing of it reaches the model"""
    shop, where = Shop(), place()
    agent, model = shop.agent(use(REFUND), "Done.")
    meta: Given = {"user": "u42", "run_id": None, "deep": [1, {"x": "y"}]}
    result = await agent.prompt("x", place=where, meta=meta)
    assert result.report.meta == meta
    assert [each.meta for each in await pending(where)] == [meta]
    after = await resume(where, result.run_id, {result.interrupts[0].id: Approve()}, agent=agent)
    assert (after.text, after.report.meta) == ("Done.", meta)
    assert "u42" not in str(model.requests)
    assert (await agent.execute(place=where, run=RunContext.root(result.run_id))).report.meta == meta
    before = await bodies(where)
    nothing: Any = object()
    with pytest.raises(ValueError, match=r"^meta= has to be JSON data; a\.1 is not\. Nothing ran\.$"):
        await agent.prompt("x", place=where, meta={"a": [1, nothing]})
    assert await bodies(where) == before


Attempt = Callable[[Place, str, dict[str, Resolution], Agent, Agent], Awaitable[object]]


def _answered(answer: Resolution) -> Attempt:
    return lambda where, run_id, good, agent, other: resume(where, run_id, dict.fromkeys(good, answer), agent=agent)


REFUSED: dict[str, tuple[Attempt, type[ResumeRefused], str]] = {
    "unknown run": (
        lambda where, run_id, good, agent, other: resume(where, "0" * 32, good, agent=agent),
        UnknownRun,
        "there is no run 0000",
    ),
    "unknown token": (
        lambda where, run_id, good, agent, other: resume(where, run_id, good, agent=agent, token=run_id),
        BadAnswers,
        "the token is not that of its suspension",
    ),
    "unknown answer": (
        lambda where, run_id, good, agent, other: resume(where, run_id, {**good, "x": Approve()}, agent=agent),
        BadAnswers,
        "does not wait for 'x'",
    ),
    "no answer": (
        lambda where, run_id, good, agent, other: resume(where, run_id, {}, agent=agent),
        BadAnswers,
        "there is no answer",
    ),
    "wrong kind": (_answered(Result(1)), BadAnswers, "waits for Approve, Deny, Edit, not for Result"),
    "bad arguments": (_answered(Edit({"amount": "much"})), BadAnswers, "amount: Input should be a valid number"),
    "changed agent": (
        lambda where, run_id, good, agent, other: resume(where, run_id, good, agent=other),
        AgentChanged,
        "refund takes other arguments",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_resumption_leaves_every_byte_as_it_was(case: str) -> None:
    """C2, C27, G31, G44: each refusal is an error of its own, and the right answer is taken afterwards"""
    attempt, error, message = REFUSED[case]
    shop, where = Shop(), place()
    agent, model = shop.agent(use(REFUND), "Done.")

    @tool(name="refund", needs_approval=True)
    async def changed(amount: float, currency: str) -> None: ...

    result = await agent.prompt("x", place=where)
    good: dict[str, Resolution] = {result.interrupts[0].id: Approve()}
    before = await bodies(where)
    with pytest.raises(error, match=message) as caught:
        await attempt(where, result.run_id, good, agent, Agent("shop", model=model, tools=[changed]))
    assert type(caught.value) is error
    assert (await bodies(where), shop.done, len(model.requests)) == (before, [], 1)
    after = await resume(where, result.run_id, good, token=result.resume_token, agent=agent)
    assert (after.text, shop.done) == ("Done.", [5.0])


async def test_expired_and_used_up_are_refused_for_good_and_change_nothing_either() -> None:
    """C28, G44: two more errors of their own"""
    shop, where = Shop(), place()
    agent, model = shop.agent(use(REFUND), use(REFUND), "Done.")
    late = await agent.prompt("x", place=where, expires_s=-1)
    used = await agent.prompt("x", place=where)
    good: dict[str, Resolution] = {used.interrupts[0].id: Approve()}
    await resume(where, used.run_id, good, token=used.resume_token, agent=agent)
    before = await bodies(where)
    with pytest.raises(SuspensionExpired, match="the time to answer was over"):
        await resume(where, late.run_id, {late.interrupts[0].id: Approve()}, token=late.resume_token, agent=agent)
    with pytest.raises(AlreadyResumed, match="this token was used"):
        await resume(where, used.run_id, good, token=used.resume_token, agent=agent)
    assert (await bodies(where), shop.done, len(model.requests)) == (before, [5.0], 3)


@pytest.mark.parametrize("concurrency", [None, 1, 2])
async def test_a_batch_is_resumed_side_by_side_or_so_many_at_a_time_and_told_in_order(concurrency: int | None) -> None:
    """G36, G38: nobody goes on before as many run as may"""
    where, running, most, order = place(), list[str](), list[int](), list[str]()

    @tool(needs_approval=True)
    async def work(what: str) -> str:
        order.append(what)
        running.append(what)
        await anyio.wait_all_tasks_blocked()
        most.append(len(running))
        running.remove(what)
        return what

    agent = Agent("ada", model=ScriptedModel(asks_for_work), tools=[work])
    wanted = [await wanted_of(agent, what, where) for what in "cab"]
    nosuch = ResumeRequest("0" * 32, {"x": Approve()}, agent, key="nosuch")
    batch = await resume_many(where, [nosuch, *wanted], concurrency=concurrency)
    assert ([each.key for each in batch.completed], [each.key for each in batch.errors]) == (
        ["c", "a", "b"],
        ["nosuch"],
    )
    assert (order, max(most), batch.done) == (["c", "a", "b"], concurrency or 3, False)
    again = [await wanted_of(agent, "d", where)]
    assert (await resume_many(where, again)).done


async def wanted_of(agent: Agent, what: str, where: Place) -> ResumeRequest:
    """A request to resume a new run that waits for an approval."""
    run = await agent.prompt(what, place=where)
    return ResumeRequest(run.run_id, {run.interrupts[0].id: Approve()}, agent, key=what)


def asks_for_work(request: Request) -> Any:
    return "Done." if told(request) else use(("work", {"what": request.messages[0].text}))


async def test_a_batch_that_raises_stops_the_others() -> None:
    """G37: those that were under way are cancelled, as their `on_cancel` says"""
    where, hanging = place(), anyio.Event()

    @tool(needs_approval=True)
    async def work(what: str) -> None:
        if what == "hang":
            hanging.set()
            await anyio.sleep_forever()

    async def instructions(context: AskContext) -> str:
        if context.trip and context.agent == "broken":
            await hanging.wait()
            raise ZeroDivisionError("a mistake")
        return ""

    agent, broken = (
        Agent(name, model=ScriptedModel(asks_for_work), tools=[work], instructions=instructions)
        for name in ("ada", "broken")
    )
    hang, mistake = await wanted_of(agent, "hang", where), await wanted_of(broken, "fine", where)
    with anyio.fail_after(10), pytest.raises(ZeroDivisionError):
        await resume_many(where, [hang, mistake], on_error="raise")
    assert (await types(where, hang.run_id))[-1] == "run_cancelled"


GOLDEN = Path(__file__).parent / "golden" / "suspended_run.jsonl"
RUN = RunContext.root(RunId("5" * 32))


async def _kept(*lines: str) -> Place:
    where = place()
    for line in lines:
        await where.log.append(Draft(where.journal(RUN), line.encode(), RUN.headers()))
    return where


async def test_a_journal_that_an_earlier_version_wrote_is_read_and_gone_on_with() -> None:
    """C30: the file is kept as it was written, without the fields that came later"""
    lines = GOLDEN.read_text().splitlines()
    assert not any('"about"' in line or '"meta"' in line for line in lines)
    shop, where = Shop(), await _kept(*lines)
    agent, _ = shop.agent("Done.")
    waiting = await peek(where, RUN.run_id)
    assert (waiting.agent, waiting.session_id, waiting.meta) == ("shop", "u42", None)
    (interrupt,) = waiting.interrupts
    assert (interrupt.tool, interrupt.arguments, interrupt.about) == ("refund", {"amount": 5}, None)
    after = await resume(where, RUN.run_id, {interrupt.id: Approve()}, token=waiting.token, agent=agent)
    assert (after.text, after.report.session_id, shop.done) == ("Done.", "u42", [5.0])


async def test_the_time_that_a_run_took_before_it_was_suspended_counts_after_it() -> None:
    """C5: of the answer in that journal, which took half a second; not that between question and answer"""
    shop, where = Shop(), await _kept(*GOLDEN.read_text().splitlines())
    agent, model = shop.agent("Done.")
    answers = {each.id: Approve() for each in (await peek(where, RUN.run_id)).interrupts}
    after = await resume(where, RUN.run_id, answers, agent=agent, limits=Limits(seconds=0.5))
    assert (after.finish_reason, shop.done, model.requests) == ("limit", [5.0], [])


async def test_a_journal_of_a_later_version_is_refused_rather_than_guessed_at() -> None:
    """C30: and stays as it is"""
    first, *rest = GOLDEN.read_text().splitlines()
    shop, where = Shop(), await _kept(first.replace('"schema":1', '"schema":2'), *rest)
    before = await bodies(where)
    with pytest.raises(BadRecord, match="schema"):
        await resume(where, RUN.run_id, {"x": Approve()}, agent=shop.agent("Done.")[0])
    assert await bodies(where) == before
