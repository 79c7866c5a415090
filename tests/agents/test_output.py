"""Structured output: native or by instruction, always validated, repaired within the trips."""

import time
from typing import Any, assert_type

import pytest
from pydantic import BaseModel

from convive.agents.journal._journal import Place
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._messages import Text, ToolUse
from convive.agents.models._model import Answer
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent, agent, prompt
from convive.agents.runs._limits import Limits
from convive.agents.runs._result import AgentResult, RunFailed
from convive.agents.runs._settings import Retry
from convive.agents.runs._stream import RunStream
from convive.agents.testing import MessagesServer
from convive.agents.tools._output import BadOutput, output_of
from convive.agents.tools._tools import tool
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

GOOD = '{"title": "Soup", "minutes": 20}'


class Recipe(BaseModel):
    """A dish."""

    title: str
    minutes: int


class Native(ScriptedModel):
    """A model whose provider holds answers to a schema."""

    structured_output = True


@tool
async def look() -> str:
    return "nothing"


LOOK = Answer(parts=(ToolUse(id="1", name="look", arguments={}),), stop_reason="tool_use")


async def test_the_answer_is_validated_and_given_as_data_of_the_type() -> None:
    """W11"""
    cook = Agent("cook", model=ScriptedModel([GOOD]), output=Recipe)
    result = await cook.prompt("soup")
    data: Recipe | None = result.data
    assert data == Recipe(title="Soup", minutes=20)
    assert result.text == GOOD
    assert (await Agent("ada", model=ScriptedModel(["hi"])).prompt("x")).data is None


async def test_what_a_call_asks_for_replaces_what_the_agent_does() -> None:
    """W11"""
    cook = Agent("cook", model=ScriptedModel(["[1, 2]"]), output=Recipe)
    result = await cook.prompt("numbers", output=list[int])
    assert result.data == [1, 2]

    class Cook(Agent[Recipe]):
        model = ScriptedModel([GOOD])
        output = Recipe

    assert (await Cook().prompt("soup")).data == Recipe(title="Soup", minutes=20)


async def test_a_model_that_can_is_given_the_schema_on_every_trip() -> None:
    """W12"""
    model = Native([LOOK, GOOD])
    result = await Agent("cook", model=model, instructions="Cook.", tools=[look], output=Recipe).prompt("soup")
    assert result.data
    assert [request.system for request in model.requests] == ["Cook.", "Cook."]
    schemas = [request.output_schema for request in model.requests]
    assert schemas[0] == schemas[1] == output_of(Recipe, 0).schema
    assert '"title"' in str(schemas[0]).replace("'", '"')


@pytest.mark.parametrize("system", ["", "Cook."])
async def test_any_other_is_told_below_its_instructions(system: str) -> None:
    """W13"""
    model = ScriptedModel([GOOD])
    await Agent("cook", model=model, instructions=system, output=Recipe).prompt("soup")
    told = model.requests[0].system
    assert told.startswith("Cook.\n\nYour final answer" if system else "Your final answer")
    assert '"minutes":{"type":"integer"}' in told
    assert model.requests[0].output_schema is None


@pytest.mark.parametrize("answer", [f"Here:\n```json\n{GOOD}\n```\nEnjoy.", f"```\n{GOOD}\n```", f" {GOOD}\n"])
async def test_a_fence_around_the_data_does_not_matter(answer: str) -> None:
    """W14"""
    assert (await Agent("cook", model=ScriptedModel([answer]), output=Recipe).prompt("soup")).data


@pytest.mark.parametrize("model", [ScriptedModel, Native])
async def test_an_answer_that_does_not_fit_fails_the_run_with_its_text_and_trips(model: type[ScriptedModel]) -> None:
    """W14"""
    bad = '{"title": "Soup", "minutes": "a few"}'
    result = await Agent("cook", model=model([bad]), output=Recipe).execute("soup")
    assert (result.status, result.data, result.text, len(result.report.trips)) == ("failed", None, bad, 1)
    assert result.error
    assert "minutes: Input should be a valid integer" in result.error.message
    with pytest.raises(RunFailed, match="does not fit `output`"):
        await Agent("cook", model=model(["Soup!"]), output=Recipe).prompt("soup")


async def test_a_repair_shows_the_model_its_answer_and_each_place_that_does_not_fit() -> None:
    """W15"""
    model = ScriptedModel(['{"title": 1, "minutes": "a few"}', GOOD])
    result = await Agent("cook", model=model, output=Recipe, repair=1).prompt("soup")
    assert result.data
    assert [message.role for message in model.requests[1].messages] == ["user", "assistant", "user"]
    feedback = model.requests[1].messages[-1].text
    assert "title: " in feedback
    assert "minutes: " in feedback


async def test_repairs_count_as_trips_and_the_last_error_is_told() -> None:
    """W15, C19"""
    bad = ["no JSON", '{"title": "x"}', '{"minutes": 1}']
    result = await Agent("cook", model=ScriptedModel(bad), output=Recipe, repair=2).execute("soup")
    assert (result.status, len(result.report.trips)) == ("failed", 3)
    assert result.error
    assert "title: Field required" in result.error.message
    cook = Agent("cook", model=ScriptedModel(bad[:2]), output=Recipe)
    limited = await cook.execute("soup", repair=9, limits=Limits(trips=2))
    assert (limited.status, len(limited.report.trips)) == ("failed", 2)


async def test_a_call_says_how_many_repairs_are_made() -> None:
    """W15"""
    cook = Agent("cook", model=ScriptedModel(["no", GOOD]), output=Recipe, repair=0)
    assert (await cook.prompt("soup", repair=1)).data


async def test_no_repair_is_made_of_a_refusal_and_there_is_no_data() -> None:
    """W15"""
    refusal = Answer(parts=(Text(text="I will not."),), stop_reason="refusal")
    result = await Agent("cook", model=ScriptedModel([refusal]), output=Recipe, repair=3).execute("soup")
    assert (result.status, result.finish_reason, result.data) == ("completed", "refusal", None)
    assert "no data" in result.report.warnings[-1]


async def test_the_words_beside_tool_calls_need_not_fit() -> None:
    """W12"""
    said = Answer(parts=(Text(text="Let me look."), *LOOK.parts), stop_reason="tool_use")
    result = await Agent("cook", model=ScriptedModel([said, GOOD]), tools=[look], output=Recipe).prompt("soup")
    assert result.data
    limited = Agent("cook", model=ScriptedModel([said]), tools=[look], output=Recipe, limits=Limits(trips=1))
    assert (await limited.prompt("soup")).data is None


async def test_refine_comes_first_and_its_text_is_validated() -> None:
    """W14"""

    def refine(text: str) -> str | Retry:
        return text.removeprefix("ANSWER ")

    result = await Agent("cook", model=ScriptedModel([f"ANSWER {GOOD}"]), output=Recipe, refine=refine).prompt("soup")
    assert (result.text, result.data) == (GOOD, Recipe(title="Soup", minutes=20))


async def test_another_process_finds_the_data_in_the_journal() -> None:
    """W11"""
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    await Agent("cook", model=ScriptedModel([GOOD]), output=Recipe).prompt("soup", place=place, run=run)
    again = await Agent("cook", model=ScriptedModel([]), output=Recipe).prompt("soup", place=place, run=run)
    assert again.data == Recipe(title="Soup", minutes=20)


def test_a_type_without_a_schema_is_refused_when_the_agent_is_made() -> None:
    class Opaque:
        pass

    with pytest.raises(BadOutput, match="Opaque"):
        Agent("cook", model=ScriptedModel([]), output=Opaque)
    with pytest.raises(ValueError, match="below zero"):
        Agent("cook", model=ScriptedModel([]), output=Recipe, repair=-1)


def test_the_name_of_an_anonymous_agent_depends_on_its_output() -> None:
    """W9"""
    model = ScriptedModel([])
    names = {Agent(model=model).name, Agent(model=model, output=Recipe).name, Agent(model=model, output=int).name}
    assert len(names) == 3


async def test_claude_is_held_to_the_schema_by_the_messages_api() -> None:
    """W12"""
    async with MessagesServer([GOOD]) as server:
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key="k")
        result = await Agent("cook", model=model, output=Recipe).prompt("soup")
        request: Any = server.requests[0].body
        await model.aclose()
    assert result.data
    assert request["output_config"]["format"]["type"] == "json_schema"
    assert set(request["output_config"]["format"]["schema"]["required"]) == {"title", "minutes"}
    assert "system" not in request
    assert not AnthropicModel("anthropic/smollm", base_url="http://127.0.0.1:1", api_key="k").structured_output


async def test_the_result_of_a_stream_and_of_each_shape_has_the_type_of_the_output() -> None:
    """W11, G3: checked by the type checkers as much as here"""

    class Typed(Agent[Recipe]):
        output = Recipe
        model = ScriptedModel(lambda request: GOOD)

    model = ScriptedModel(lambda request: GOOD)
    cook, anyone = Agent("cook", model=model, output=Recipe), Agent("anyone", model=model)
    async with cook.stream("soup") as run:
        pass
    assert_type(run, RunStream[Recipe])
    assert_type((await run.result()).data, Recipe | None)
    async with anyone.stream("soup", output=Recipe) as other:
        pass
    assert_type(await other.result(), AgentResult[Recipe])
    inline = await agent("You cook.", model=model, output=Recipe).prompt("soup")
    assert_type(inline, AgentResult[Recipe])
    asked = await prompt("soup", model=model, output=Recipe)
    assert_type(asked, AgentResult[Recipe])
    made = await Typed().prompt("soup")
    assert_type(made, AgentResult[Recipe])
    results = (await run.result(), await other.result(), inline, asked, made)
    assert [result.data and result.data.minutes for result in results] == [20] * 5


@pytest.mark.parametrize("blanks", [" ", "\t", " \n", "```json\n "])
def test_an_answer_that_runs_away_in_blanks_is_judged_in_time_that_is_linear(blanks: str) -> None:
    """Models do that in JSON; the event loop waits for the verdict. In quadratic time this takes more than a minute."""
    began = time.perf_counter()
    assert output_of(Recipe, 0).judge("```json\n" + blanks * 400_000) is not None
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"title": "Soup", "minutes": 20}\n```',
        'Here you are:\n```\n{"title": "Soup", "minutes": 20}   ```\nEnjoy.',
        '```json  \n{"title": "Soup", "minutes": 20}```  ```json\nmore\n```',
        '```{"a": 1}``` or rather ```json\n{"title": "Soup", "minutes": 20}\n```',
    ],
)
def test_the_first_fence_around_an_answer_is_taken_off(text: str) -> None:
    """W14"""
    assert output_of(Recipe, 0).read(text) == Recipe(title="Soup", minutes=20)


def test_a_fence_within_a_text_of_the_data_is_part_of_it() -> None:
    """W14: a line break is never raw in a JSON text, so that a fence on a line of its own is around it"""
    fenced = '```json\n{"title": "Put ``` around ```py code```", "minutes": 20}\n   ```\nDone.'
    assert output_of(Recipe, 0).read(fenced) == Recipe(title="Put ``` around ```py code```", minutes=20)
    wrong = output_of(Recipe, 0).judge('```json\n{"title": "Soup", "minutes": "long"}``` and\n```')
    assert wrong is not None
    assert "minutes: " in wrong.reason
