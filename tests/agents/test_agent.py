"""Agents: the four shapes, precedence, names, and that a configuration keeps no state."""

import pytest

from convive.agents.models._errors import UnknownModel
from convive.agents.models._messages import Text, ToolUse, user
from convive.agents.models._model import Answer, Model, Request, Sampling
from convive.agents.models._models import Models
from convive.agents.models._schema import BadTool
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs import _agent
from convive.agents.runs._agent import Agent, agent
from convive.agents.runs._limits import Limits
from convive.agents.runs._settings import AskContext
from convive.agents.runs._stops import StopCondition, step_count_is
from convive.agents.tools._tools import Tool, tool

pytestmark = pytest.mark.anyio


def echo(request: Request) -> str:
    return f"{request.system}|{request.messages[-1].text}"


@tool
async def look(where: str) -> str:
    """Look somewhere."""
    return f"nothing in {where}"


def use_look(request: Request) -> Answer:
    return Answer(parts=(ToolUse(id="1", name="look", arguments={"where": "here"}),), stop_reason="tool_use")


async def test_an_inline_agent_needs_only_its_instructions() -> None:
    """G6, G8"""
    model = ScriptedModel(echo)
    assert (await agent("Summarize.", model=model).prompt("text")).text == "Summarize.|text"
    assert (await agent(instructions="Summarize.", model=model).prompt("text")).text == "Summarize.|text"


async def test_the_module_level_prompt_asks_a_helpful_assistant() -> None:
    """G7"""
    result = await _agent.prompt("Hello", model=ScriptedModel(echo))
    assert result.text == "You are a helpful assistant.|Hello"


async def test_a_configured_agent_is_defined_once_and_runs_many_times() -> None:
    """G1, G2, W1"""
    model = ScriptedModel(echo)
    ada = Agent("ada", model=model, instructions="Be brief.")
    assert [(await ada.prompt(text)).text for text in ("one", "two")] == ["Be brief.|one", "Be brief.|two"]
    assert [len(request.messages) for request in model.requests] == [1, 1]


async def test_a_subclass_may_use_attributes_and_methods() -> None:
    """G9, G10"""
    model = ScriptedModel([use_look, use_look, "never asked for"])

    class Searcher(Agent):
        limits = Limits(trips=5)

        def model(self) -> Model:
            return model

        def tools(self) -> list[Tool]:
            return [look]

        def stop_when(self) -> StopCondition:
            return step_count_is(2)

        def instructions(self, ctx: AskContext) -> str:
            return f"You search for {ctx.session_id}."

    result = await Searcher().prompt("Find it.", session_id="u42")
    assert (result.finish_reason, len(result.report.trips)) == ("stop_condition", 2)
    assert model.requests[0].system == "You search for u42."
    assert Searcher().name == "searcher"


async def test_a_call_overrides_the_instance_which_overrides_the_class() -> None:
    """G10"""

    class Base(Agent):
        model = ScriptedModel(echo)
        instructions = "class"

    assert (await Base().prompt("x")).text == "class|x"
    made = Base(instructions="instance")
    assert (await made.prompt("x")).text == "instance|x"
    assert (await made.prompt("x", instructions="call")).text == "call|x"
    assert (await made.prompt("x")).text == "instance|x"


async def test_a_list_on_a_class_is_copied_when_an_agent_is_made() -> None:
    class Searcher(Agent):
        model = ScriptedModel(echo)
        tools = [look]  # noqa: RUF012 - the mutable attribute is what this test is about

    made = Searcher()
    Searcher.tools.clear()
    assert list(made.settings().tools) == ["look"]


async def test_instructions_and_sampling_may_depend_on_the_trip() -> None:
    async def instructions(context: AskContext) -> str:
        return f"{context.agent} asks for trip {context.trip}, {context.deps}"

    model = ScriptedModel([use_look, "done"])
    ada = Agent(
        "ada",
        model=model,
        instructions=instructions,
        tools=[look],
        sampling=lambda context: Sampling(seed=7 + context.trip),
    )
    await ada.prompt("x", deps="deps")
    assert [request.system for request in model.requests] == ["ada asks for trip 0, deps", "ada asks for trip 1, deps"]
    assert [request.sampling.seed for request in model.requests] == [7, 8]


def test_an_agent_is_frozen() -> None:
    made = Agent("ada", model=ScriptedModel([]))
    with pytest.raises(AttributeError, match="frozen"):
        made.name = "eve"


def test_an_anonymous_agent_has_the_same_name_in_every_process_and_others_have_another() -> None:
    """W9"""

    def name(instructions: str = "Be brief.", model: str = "scripted/party", *tools: Tool) -> str:
        return Agent(model=model, instructions=instructions, tools=tools).name

    assert name() == name() == "anon-scripted-party-da7f3c6d"
    assert (
        len({name(), name("Be long."), name("Be brief.", "anthropic/x"), name("Be brief.", "scripted/party", look)})
        == 4
    )


@pytest.mark.parametrize("model", ["claude-sonnet-4-6", "", "scripted/", "nobody/model"])
def test_a_model_without_a_known_provider_is_refused_when_the_agent_is_made(model: str) -> None:
    """G5"""
    with pytest.raises(UnknownModel):
        Agent("ada", model=model)


async def test_a_model_is_found_by_name_in_the_registry_given() -> None:
    """G4"""
    asked: list[str] = []

    def factory(name: str) -> Model:
        asked.append(name)
        return ScriptedModel(echo)

    ada = Agent("ada", model="mine/with/slashes", models=Models({"mine": factory}), instructions="i")
    assert asked == []
    assert [(await ada.prompt("x")).text for _ in range(2)] == ["i|x", "i|x"]
    assert asked == ["with/slashes"]


def test_two_tools_of_one_name_are_refused_when_the_agent_is_made() -> None:
    with pytest.raises(BadTool, match="look"):
        Agent("ada", model=ScriptedModel([]), tools=[look, look])


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(TypeError, match=r"unknown option 'instruction'; there are: .*instructions"):
        Agent("ada", instruction="x")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def test_history_is_explicit_and_results_carry_it_ready_to_hand_on() -> None:
    """W8, W36"""
    model = ScriptedModel([use_look, "It is not here.", "As I said."])
    ada = Agent("ada", model=model, tools=[look])
    first = await ada.prompt("Where is it?")
    await ada.prompt("Are you sure?", history=first.messages)
    assert [message.role for message in model.requests[-1].messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert model.requests[-1].messages[-2].text == "It is not here."


async def test_a_history_that_ends_with_tool_results_is_joined_with_the_next_input() -> None:
    model = ScriptedModel([use_look, "done"])
    ada = Agent("ada", model=model, tools=[look], stop_when=step_count_is(1))
    first = await ada.prompt("Look.")
    await ada.prompt("And now?", history=first.messages)
    last = model.requests[-1].messages[-1]
    assert [part.type for part in last.parts] == ["tool_result", "text"]


async def test_a_run_without_anything_from_the_user_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an input"):
        await Agent("ada", model=ScriptedModel([])).prompt()
    result = await Agent("ada", model=ScriptedModel(echo)).prompt(history=[user("hello")])
    assert result.text == "|hello"


async def test_the_session_is_stamped_on_the_report_and_not_interpreted() -> None:
    """W34"""
    result = await Agent("ada", model=ScriptedModel(echo)).execute("x", session_id="user/42")
    assert result.report.session_id == "user/42"


async def test_the_report_names_each_trip_with_its_calls_usage_and_reason() -> None:
    """W7"""
    result = await Agent("ada", model=ScriptedModel([use_look, "done"]), tools=[look]).prompt("x")
    trips = result.report.trips
    assert [(trip.index, trip.finish_reason) for trip in trips] == [(0, "tool_use"), (1, "end")]
    assert [call.name for call in trips[0].calls] == ["look"]
    assert all(trip.took_s >= 0 for trip in trips)
    assert isinstance(trips[1].answer.parts[0] if trips[1].answer else None, Text)
