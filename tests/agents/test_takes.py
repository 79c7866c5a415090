"""What an answer may bring stands beside what is waited for, so that who has no code of the agent is told at once."""

from typing import Any

import pytest
from pydantic import BaseModel, JsonValue

from convive.agents import (
    Agent,
    BadAnswers,
    Edit,
    Interrupt,
    NeedsAnswer,
    Resolution,
    Result,
    Tool,
    ToolContext,
    answer,
    client_tool,
    go_on,
    peek,
    tool,
)
from convive.agents.testing import ScriptedModel
from convive.bus import run_of
from tests.agents.runs import Given, place, told, types, use

pytestmark = pytest.mark.anyio


@tool(needs_approval=True)
async def refund(order: str, amount: float, note: str | None = None) -> str:
    return f"{amount:g} for {order}, {note}"


class City(BaseModel):
    name: str
    people: int = 0


locate = client_tool("locate", "Where is it?", output=City)
choose = client_tool("choose", "Which ones?", output=list[int])
GIVEN: Given = {"order": "A7", "amount": 500}


async def waiting(a_tool: Tool, arguments: Given) -> tuple[Any, Agent, Interrupt]:
    """Where a run waits for an answer to such a call, and its agent, which tells what the call came to."""
    model = ScriptedModel([use((a_tool.name, arguments)), lambda request: told(request)[-1].content])
    ada, where = Agent("ada", model=model, tools=[a_tool]), place()
    result = await ada.prompt("x", place=where)
    return where, ada, result.interrupts[0]


@pytest.mark.parametrize(
    ("a_tool", "given", "wrong", "why"),
    [
        (
            refund,
            GIVEN,
            Edit({"order": "A", "amout": 5}),
            "amount: Field required; amout: Not an argument of this tool",
        ),
        (refund, GIVEN, Edit({"order": "A7", "amount": "much"}), "amount: Input should be of type number"),
        (locate, {}, Result("Ghent"), "it should be of type object, not str"),
        (locate, {}, Result({"people": "many"}), "name: Field required; people: Input should be of type integer"),
        (choose, {}, Result({"first": 1}), "it should be of type array, not dict"),
    ],
)
async def test_an_answer_that_cannot_fit_is_refused_without_the_agent(
    a_tool: Tool, given: Given, wrong: Resolution, why: str
) -> None:
    """Rule 8 of the design: a wrong answer changes nothing"""
    where, _, wait = await waiting(a_tool, given)
    before = await types(where, wait.run_id)
    with pytest.raises(BadAnswers) as refused:
        await answer(where, wait.run_id, {wait.id: wrong})
    assert f"the answer does not fit: {why}" in str(refused.value)
    assert await types(where, wait.run_id) == before


@pytest.mark.parametrize(
    ("a_tool", "given", "right", "came_to"),
    [
        (refund, GIVEN, Edit({"order": "A8", "amount": 2, "note": None}), "2 for A8, None"),
        (refund, GIVEN, Edit({"order": "A8", "amount": 2.5, "note": "late"}), "2.5 for A8, late"),
        (locate, {}, Result(City(name="Ghent")), '{"name":"Ghent","people":0}'),
        (choose, {}, Result([1, 2]), "[1,2]"),
    ],
)
async def test_one_that_fits_is_taken(a_tool: Tool, given: Given, right: Resolution, came_to: str) -> None:
    where, ada, wait = await waiting(a_tool, given)
    assert await answer(where, wait.run_id, {wait.id: right}) == "nobody"
    assert (await go_on(where, wait.run_id, agent=ada)).text == came_to


async def test_what_lies_deeper_is_checked_when_the_run_goes_on() -> None:
    where, ada, wait = await waiting(choose, {})
    await answer(where, wait.run_id, {wait.id: Result(["one"])})
    assert "What choose gave back does not fit: 0: Input should be a valid integer" in (
        (await go_on(where, wait.run_id, agent=ada)).text
    )


async def test_whoever_looks_sees_what_may_be_answered() -> None:
    """Also where the tool itself asked, and for a run below the one that is looked at."""

    @tool
    async def act(context: ToolContext, what: str) -> str | NeedsAnswer:
        return what if context.approved else NeedsAnswer("approval")

    below = Agent("below", model=ScriptedModel([use(("act", {"what": "x"}))]), tools=[act])
    where, _, wait = await waiting(below.as_tool("ask", "Ask."), {"prompt": "x"})
    async with where.log.read(f"{where.base}.run.*.*") as records:
        (top,) = {run.root_run_id async for record in records if (run := run_of(record.headers)) is not None}
    (seen,) = (await peek(where, top)).interrupts
    assert wait == seen
    assert seen.takes == act.spec.input_schema


async def test_a_schema_that_is_very_long_is_not_kept() -> None:
    schema: JsonValue = {"type": "integer", "description": "much " * 20_000}

    @tool(needs_approval=True)
    async def act(count: int) -> str:
        return str(count)

    act.spec.input_schema["properties"] = {"count": schema}
    where, ada, wait = await waiting(act, {"count": 1})
    assert wait.takes is None
    assert await answer(where, wait.run_id, {wait.id: Edit({"count": "many"})}) == "nobody"
    assert "valid integer" in (await go_on(where, wait.run_id, agent=ada)).text


async def test_very_many_calls_that_wait_still_fit_into_the_record() -> None:
    """Conformance test 6: the schema of each would fill it, and the run would fail for that."""

    @tool(needs_approval=True)
    async def act(count: int) -> str:
        return str(count)

    act.spec.input_schema["properties"] = {"count": {"type": "integer", "description": "much " * 1_800}}
    calls = use(*[("act", Given(count=n)) for n in range(150)])
    ada, where = Agent("ada", model=ScriptedModel([calls, "done"]), tools=[act]), place()
    result = await ada.prompt("x", place=where)
    assert (result.status, len(result.interrupts)) == ("suspended", 150)
    assert {each.takes is None for each in result.interrupts} == {True}
