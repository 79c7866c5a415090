"""Arguments and results are JSON: a model that is strict takes a date for what JSON has for it."""

from datetime import date
from enum import Enum
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Strict

from convive.agents import Agent, BadAnswers, Result, client_tool, resume, tool
from convive.agents.models._model import Request
from convive.agents.testing import ScriptedModel
from tests.agents.runs import Given, place, told, use

pytestmark = pytest.mark.anyio


class Kind(Enum):
    LUNCH = "lunch"


class Booking(BaseModel):
    model_config = ConfigDict(strict=True)

    on: date
    kind: Kind = Kind.LUNCH
    seats: tuple[int, int] = (1, 1)


GIVEN: Given = {"on": "2026-11-20", "kind": "lunch", "seats": [1, 2]}


async def test_a_strict_model_and_a_strict_parameter_take_what_json_has_for_them() -> None:
    """W17"""
    seen: list[object] = []

    @tool
    async def book(on: Annotated[date, Strict()], kinds: Annotated[set[Kind], Strict()]) -> str:
        seen.extend((on, kinds))
        return "booked"

    other = Agent("other", model=ScriptedModel(lambda request: request.messages[-1].text))
    asking = other.as_tool("ask", "Ask.", input=Booking, prompt="On {on}, {seats}")
    calls = use(("book", {"on": "2026-11-20", "kinds": ["lunch"]}), ("ask", GIVEN))
    model = ScriptedModel([calls, lambda request: " and ".join(each.content for each in told(request))])
    result = await Agent("ada", model=model, tools=[book, asking]).prompt("x")
    assert seen == [date(2026, 11, 20), {Kind.LUNCH}]
    assert result.text == "booked and On 2026-11-20, (1, 2)"


async def test_so_does_the_answer_to_a_client_tool() -> None:
    """W17, G31"""

    def answer(request: Request) -> str:
        return told(request)[0].content

    pick = client_tool("pick", "Pick.", Booking, output=Booking)
    ada, where = Agent("ada", model=ScriptedModel([use(("pick", GIVEN)), answer]), tools=[pick]), place()
    waiting = await ada.prompt("x", place=where)
    (wait,) = waiting.interrupts
    result = await resume(where, waiting.run_id, {wait.id: Result(GIVEN)}, agent=ada)
    assert result.text == '{"on":"2026-11-20","kind":"lunch","seats":[1,2]}'


async def test_an_answer_that_does_not_fit_says_where_in_one_line() -> None:
    pick = client_tool("pick", "Pick.", Booking, output=Booking)
    ada, where = Agent("ada", model=ScriptedModel([use(("pick", GIVEN))]), tools=[pick]), place()
    waiting = await ada.prompt("x", place=where)
    (wait,) = waiting.interrupts
    with pytest.raises(BadAnswers) as refused:
        await resume(where, waiting.run_id, {wait.id: Result({"on": "soon", "seats": [1]})}, agent=ada)
    said = str(refused.value)
    assert "\n" not in said
    assert "on: " in said
    assert "seats.1: " in said
    assert "http" not in said
