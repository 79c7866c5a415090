"""What is given by mistake: refused at once and in words, before anything happens."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from convive.agents import (
    Agent,
    AgentSeat,
    Answer,
    BadAnswers,
    BadTool,
    Limits,
    Middleware,
    Place,
    Plan,
    ToolUse,
    client_tool,
    handoff,
    has_tool_call,
    host_seats,
    peek,
    resume,
    resume_many,
    tool,
    user,
    work,
)
from convive.agents.journal._interrupts import Result
from convive.agents.runs._agent import agent as make
from convive.agents.testing import ScriptedModel
from convive.bus import BadName, MemoryLog, SeatName, memory_bus

pytestmark = pytest.mark.anyio


@tool
async def look() -> str:
    """Look."""
    return "seen"


LOOK = Answer(parts=(ToolUse(id="1", name="look", arguments={}),), stop_reason="tool_use")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tools": look}, r"tools= takes a list of tools and typed functions, not Tool\."),
        ({"tools": "look"}, "tools= takes a list"),
        ({"instructions": 5}, "instructions= takes a text, or a function that gives one, not int"),
        ({"limits": {"trips": 3}}, r"limits= takes Limits\(\.\.\.\), not dict"),
        ({"middleware": Middleware()}, "middleware= takes a list of Middleware objects, not Middleware"),
        ({"middleware": [Middleware]}, "not a list of the class Middleware"),
        ({"stop_when": [5]}, "stop_when= takes a condition .*, not a list of int"),
        ({"sampling": {"max_tokens": 5}}, "sampling= takes Sampling"),
        ({"parallel_tools": "no"}, "parallel_tools= takes True or False, not str"),
        ({"repair": "1"}, "repair='1' is no whole number"),
        ({"expires_s": "5"}, "expires_s='5' is no number"),
        ({"observers": print}, "observers= takes Observers"),
        ({"on": print}, "on= takes handlers by the name"),
        ({"on": {"run_finish": print}}, "there is no event 'run_finish', .* run_finished"),
        ({"on": {"run_finished": 5}}, "the handler of run_finished is a function, or a list of them, not int"),
        ({"model": 5}, "model= takes a name"),
    ],
)
async def test_an_option_of_another_type_is_refused_when_the_agent_is_made_and_for_one_call(
    option: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Agent("ada", **option)
    model = ScriptedModel(["hello"])
    with pytest.raises(TypeError, match=message):
        await Agent("ada", model=model).execute("x", **option)
    assert model.requests == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"history": "x"}, "history= takes messages, .* not str"),
        ({"history": user("x")}, "history= takes messages, .* not Message"),
        ({"place": MemoryLog()}, "place= takes Place"),
        ({"run": "0" * 32}, "run= takes a RunContext, not str"),
        ({"session_id": 5}, "session_id= takes a text"),
        ({"on_cancel": "leaves"}, 'on_cancel= takes "record" or "leave", not str'),
        ({"fresh": "no"}, "fresh= takes True or False, not str"),
    ],
)
async def test_an_option_of_a_run_of_another_type_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        await Agent("ada", model=ScriptedModel([])).execute("x", **option)


@pytest.mark.parametrize("name", ["meta", "source"])
async def test_what_stands_in_the_journal_is_json(name: str) -> None:
    given: dict[str, Any] = {name: {"page": object()}}
    with pytest.raises(ValueError, match=rf"^{name}= has to be JSON data; page is not\. Nothing ran\.$"):
        await Agent("ada", model=ScriptedModel([])).execute("x", **given)


@pytest.mark.parametrize("given", [5, b"x", ["x"], user("x")])
async def test_an_input_is_a_text(given: Any) -> None:
    with pytest.raises(TypeError, match="input= takes a text, not "):
        await Agent("ada", model=ScriptedModel([])).execute(given)


async def test_other_words_for_a_name_a_tool_or_a_handler_are_refused() -> None:
    name: Any = 5
    with pytest.raises(TypeError, match="an agent's name is a text, not int"):
        Agent(name)
    wrong: Any = ["look"]
    with pytest.raises(BadTool, match="'look' in `tools` is neither a tool nor a function"):
        Agent("ada", tools=wrong)
    event: Any = "finished"
    with pytest.raises(TypeError, match="there is no event 'finished'"):
        make().on(event, print)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"trips": "3"}, TypeError, "trips='3' is no whole number"),
        ({"trips": 2.5}, TypeError, "trips=2.5 is no whole number"),
        ({"trips": 0}, ValueError, "at least one trip"),
        ({"tokens": "5"}, TypeError, "tokens='5' is no number"),
        ({"seconds": -1}, ValueError, "seconds=-1 is below zero"),
        ({"cost": float("nan")}, ValueError, "cost=nan is no number"),
        ({"reasks": None}, TypeError, "reasks=None is no whole number"),
        ({"on_limit": "stop"}, ValueError, 'neither "return" nor "raise"'),
    ],
)
def test_limits_are_numbers(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Limits(**given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"turns": "4"}, TypeError, "turns='4' is no whole number"),
        ({"turns": -1}, ValueError, "turns=-1 is below zero"),
        ({"turns": 4, "turn_s": "10"}, TypeError, "turn_s='10' is no number"),
        ({"turns": 4, "answer_s": -1}, ValueError, "answer_s=-1 is below zero"),
        ({"turns": 4, "policy": "round-robin"}, TypeError, "policy= takes a function such as round_robin, not str"),
    ],
)
def test_a_plan_is_made_of_numbers(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Plan(**given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"timeout_s": "5"}, TypeError, "tool 'f': timeout_s='5' is no number"),
        ({"timeout_s": -1}, ValueError, "timeout_s=-1 is below zero"),
        ({"timeout_s": 0}, ValueError, "timeout_s=0 leaves it no time"),
        ({"sequential": "yes"}, TypeError, "sequential= takes True or False"),
        ({"needs_approval": "yes"}, TypeError, "needs_approval= takes True, False, or a function"),
        ({"model_output": 5}, TypeError, "model_output= takes a function"),
        ({"name": 5}, BadTool, "5 is not a name for a tool"),
        ({"hints": "x"}, BadTool, "hints= takes fields by provider"),
    ],
)
def test_a_tool_takes_what_it_says(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):

        @tool(**given)
        async def f() -> None: ...


async def test_tools_from_an_iterator_are_there_for_every_run() -> None:
    """A run with an option of its own looks through them once more."""

    def tools() -> Iterator[Any]:
        yield look

    model = ScriptedModel([LOOK, "one", LOOK, "two"])
    ada = Agent("ada", model=model, tools=tools())
    await ada.prompt("x", limits=Limits(trips=3))
    await ada.prompt("x", stop_when=has_tool_call("nothing"), limits=Limits(trips=4))
    assert [[spec.name for spec in request.tools] for request in model.requests] == [["look"]] * 4


async def test_a_run_is_placed_beside_a_conversation() -> None:
    """As docs/agents.md says of approvals."""
    ask = client_tool("look", "Ask the person.")
    async with memory_bus() as bus:
        shop = await bus.conversation("shop")
        ada = Agent("ada", model=ScriptedModel([LOOK, "done"]), tools=[ask])
        result = await ada.execute("x", place=shop)
        waiting = await peek(bus, result.run_id)
        answers = {each.id: Result("seen") for each in waiting.interrupts}
        assert (await resume(Place(shop.log, shop.subjects.base), result.run_id, answers, agent=ada)).text == "done"


async def test_runs_are_looked_for_and_answered_with_what_can_be_meant() -> None:
    place, ask = Place(MemoryLog(), "cv.00.test"), client_tool("look", "Ask the person.")
    ada = Agent("ada", model=ScriptedModel([LOOK]), tools=[ask])
    result = await ada.execute("x", place=place)
    wrong: Any = [Result("seen")]
    with pytest.raises(BadAnswers, match=r"answers go by the id of their interrupt, \{id: Approve\(\)\}, not as list"):
        await resume(place, result.run_id, wrong, agent=ada)
    assert (await peek(place, result.run_id)).token == result.resume_token
    where: Any = "cv.00.test"
    with pytest.raises(TypeError, match="a run is looked for at a Place, in a conversation or on a bus, not in str"):
        await peek(where, result.run_id)
    number: Any = 5
    with pytest.raises(BadName, match="a run id is a text, not int"):
        await peek(place, number)


@pytest.mark.parametrize("given", [Agent("ada"), [Agent("ada")], {"ada": "ada"}])
async def test_a_worker_takes_agents_by_name(given: Any) -> None:
    async with memory_bus() as bus:
        with pytest.raises(TypeError, match="agents= takes agents by their names"):
            await work(bus, given)


async def test_a_builtin_without_a_signature_is_no_tool() -> None:
    with pytest.raises(BadTool, match="'max': Python does not tell what it takes"):
        tool(max)


@pytest.mark.parametrize("given", ["text", None, 5])
def test_a_script_is_a_list_of_answers(given: Any) -> None:
    """A text would be a list of its letters."""
    with pytest.raises(TypeError, match="a script is a list of answers, or a function, not "):
        ScriptedModel(given)


ADA: Any = Agent("ada")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ADA.as_tool("two words", "Ask."), "'two words' is not a name for a tool"),
        (lambda: ADA.as_tool("ask", None), "its description is a text, not NoneType"),
        (lambda: ADA.as_tool("ask", "Ask.", input=dict), "input= takes a pydantic model"),
        (lambda: ADA.as_tool("ask", "Ask.", prompt=5), "prompt= takes a function of the input or a format string"),
        (lambda: client_tool("ask me", "Ask."), "'ask me' is not a name for a tool"),
        (lambda: handoff(ADA, input=ADA), "input= takes a pydantic model"),
        (lambda: handoff(Agent("Ada Lovelace")), "'handoff_to_Ada Lovelace' is not a name for a tool"),
    ],
)
def test_a_tool_that_no_provider_would_take_is_not_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadTool, match=message):
        make()


async def test_in_a_seat_sits_a_participant() -> None:
    name: Any = "ada"
    with pytest.raises(TypeError, match="AgentSeat takes an Agent, not str"):
        AgentSeat(name)
    with pytest.raises(TypeError, match="handed over to an Agent, not to str"):
        handoff(name)
    async with memory_bus() as bus:
        with pytest.raises(TypeError, match=r"in seat 'ada' sits a participant, .*, and Agent is none"):
            await host_seats(await bus.conversation("soup"), {SeatName("ada"): ADA})


async def test_a_history_may_be_the_json_of_messages_wherever_it_stands() -> None:
    """W8: as it comes out of a database; also where the journal refers to it by its source"""
    before = [message.model_dump(mode="json") for message in (user("Who are you?"), user("I mean it."))]
    given: dict[str, Any] = {"history": before}
    model = ScriptedModel(["hello", "hello"])
    sources: list[Any] = [None, {"page": 3}]
    for source in sources:
        result = await Agent("ada", model=model).prompt("x", source=source, **given)
        assert result.messages[0].text == "Who are you?I mean it.x"
    given["history"] = [{"role": "nobody", "parts": []}]
    with pytest.raises(ValueError, match=r"history=.*message 1: role: .* Nothing ran"):
        await Agent("ada", model=model).prompt("x", source={"page": 3}, **given)
    assert len(model.requests) == 2


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_nothing_is_resumed_none_at_a_time(concurrency: int) -> None:
    """G38"""
    with pytest.raises(ValueError, match="at least one run at a time"):
        await resume_many(Place(MemoryLog(), "cv.00.x"), [], concurrency=concurrency)
