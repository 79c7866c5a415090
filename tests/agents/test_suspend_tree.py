"""Runs that wait below other runs, and several that wait at once: answered at the root."""

from collections.abc import Sequence

import anyio
import pytest

from convive.agents import (
    Agent,
    AgentChanged,
    AlreadyResumed,
    Answer,
    Approve,
    BadAnswers,
    Deny,
    Edit,
    Request,
    ResumeRequest,
    UnknownRun,
    cancel_run,
    resume,
    resume_many,
    tool,
)
from convive.agents.models._messages import ToolResult
from convive.agents.models._scripted import ScriptedModel
from convive.bus import RunContext
from tests.agents.runs import Shop, place, told, types, use

pytestmark = pytest.mark.anyio


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
    assert waiting.through is not None
    assert (waiting.through.tool, waiting.through.call_id) == ("edit", "c0")
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
