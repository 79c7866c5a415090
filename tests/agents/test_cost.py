"""What runs cost without anybody asking: by trip, in the report, with the runs below, and under a limit."""

from typing import Any

import anyio
import pytest

from convive.agents import (
    Agent,
    Answer,
    Limits,
    ModelAnswerBroken,
    ModelOverloaded,
    Place,
    Price,
    Prices,
    Text,
    ToolUse,
    UnknownPrice,
    Usage,
    tool,
)
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._scripted import Scripted
from convive.agents.runs._result import AgentResult
from convive.agents.testing import MessagesServer, ScriptedModel, Streamed, fake_models
from convive.bus import MemoryLog, RunContext

pytestmark = pytest.mark.anyio

MILLION = Usage(input_tokens=1_000_000)
TABLE = Prices({"acme/*": Price(3, 15), "free/*": Price(0, 0, 0, 0)})


def say(text: str, usage: Usage = MILLION) -> Answer:
    return Answer(parts=(Text(text=text),), stop_reason="end", usage=usage)


def use(name: str, usage: Usage = MILLION, **arguments: Any) -> Answer:
    return Answer(
        parts=(Text(text="one moment"), ToolUse(id="1", name=name, arguments=arguments)),
        stop_reason="tool_use",
        usage=usage,
    )


def priced(*script: Scripted, name: str = "acme/big", **options: Any) -> Agent:
    return Agent(options.pop("named", "ada"), model=ScriptedModel(script, name=name), cost=TABLE, **options)


@tool
async def look() -> str:
    return "nothing"


async def test_the_report_and_each_trip_say_what_they_cost_without_being_asked() -> None:
    """W7, deliverable 1 of the issue: by the table that is shipped"""
    usage = Usage(input_tokens=1_000_000, output_tokens=100_000)
    async with MessagesServer(
        [Streamed([ToolUse(id="1", name="look", arguments={})], usage=usage)] * 1 + ["Done."]
    ) as server:
        model = AnthropicModel("anthropic/claude-sonnet-4-6", base_url=server.url, api_key="test")
        result = await Agent("ada", model=model, tools=[look]).prompt("x")
        await model.aclose()
    costs = [trip.cost for trip in result.report.trips]
    assert costs == [pytest.approx(4.5), pytest.approx((12 * 3 + 7 * 15) / 1_000_000)]
    assert result.cost == result.report.cost == pytest.approx(sum(cost or 0 for cost in costs))
    assert result.report.known_cost == result.cost


@pytest.mark.parametrize("name", ["local/smollm2-135m", "scripted/party", "replay/anthropic/claude-opus-5"])
async def test_what_nobody_sends_a_bill_for_costs_nothing_and_says_so(name: str) -> None:
    """Deliverable 1 of the issue: local, scripted and replayed models are free by the shipped table, also uncounted"""
    result = await Agent("ada", model=ScriptedModel([say("hi", Usage())], name=name)).prompt("x")
    assert (result.cost, result.report.known_cost) == (0.0, 0.0)


async def test_the_cost_of_a_model_that_the_table_does_not_know_is_none_never_zero() -> None:
    """Deliverable 1 of the issue"""
    result = await Agent("ada", model=ScriptedModel([say("hi")], name="acme/big")).prompt("x")
    assert (result.cost, result.report.trips[0].cost, result.report.known_cost) == (None, None, 0.0)


async def test_an_answer_whose_tokens_the_provider_did_not_count_has_an_unknown_cost() -> None:
    """Deliverable 1 of the issue: nothing counted is not nothing used"""
    assert (await priced(say("hi", Usage())).prompt("x")).cost is None
    with fake_models(["hi"]):
        assert (await Agent("ada", model="anthropic/claude-sonnet-4-6").prompt("x")).cost is None


async def test_a_user_replaces_the_table_for_a_class_an_agent_or_a_call() -> None:
    """G10, deliverable 1 of the issue"""

    class Ada(Agent):
        cost = Prices({"acme/*": Price(1, 1)})

    def ada(**options: Any) -> Agent:
        return Ada(model=ScriptedModel([say("hi")], name="acme/big"), **options)

    assert (await ada().prompt("x")).cost == 1.0
    assert (await ada(cost=TABLE).prompt("x")).cost == 3.0
    assert (await ada(cost=TABLE).prompt("x", cost=lambda model, usage: 7.0)).cost == 7.0
    assert (await ada(cost=TABLE).prompt("x", cost=None)).cost is None


def test_a_cost_that_is_no_rule_is_refused_when_the_agent_is_made() -> None:
    wrong: Any = 0.5
    with pytest.raises(TypeError, match=r"cost=0.5 is neither .* Limits\(cost=...\)"):
        Agent("ada", model=ScriptedModel([]), cost=wrong)


async def test_the_known_part_is_there_when_a_part_is_unknown() -> None:
    """Deliverable 1 of the issue: a price that lacks a kind of token, and a run below without a price"""
    usage = Usage(input_tokens=1_000_000, cache_read_tokens=5)
    result = await priced(say("hi", usage)).prompt("x")
    assert (result.cost, result.report.known_cost) == (None, 3.0)

    below = priced(say("found"), name="other/model", named="below")
    chief = priced(use("ask", prompt="x"), say("done"), tools=[below.as_tool("ask", "Ask.")])
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    for _ in range(2):  # the second time from the journal alone
        result = await chief.prompt("go", place=place, run=run)
        assert (result.cost, result.report.known_cost) == (None, 6.0)
        assert [(child.cost, child.known_cost) for child in result.report.children] == [(None, 0.0)]


async def test_a_run_that_is_unknown_in_part_hands_its_known_part_up() -> None:
    """Deliverable 1 of the issue, conformance test 22: three levels"""
    leaf = priced(use("look"), say("found", Usage()), tools=[look], named="leaf")
    middle = priced(use("ask", prompt="x"), say("done"), tools=[leaf.as_tool("ask", "Ask.")], named="middle")
    chief = priced(use("ask", prompt="x"), say("done"), tools=[middle.as_tool("ask", "Ask.")])
    report = (await chief.prompt("go")).report
    assert (report.cost, report.known_cost) == (None, 15.0)
    assert [(child.cost, child.known_cost) for child in report.children] == [(None, 9.0)]


async def test_a_request_that_was_lost_on_its_way_may_have_been_billed() -> None:
    """W7: the cost is known in part, unless the model is free"""
    lost = ModelAnswerBroken("cut")
    result = await priced(lost, say("hi")).prompt("x")
    assert (result.report.trips[0].attempt, result.cost, result.report.known_cost) == (2, None, 3.0)
    assert (await priced(lost, say("hi"), name="free/x").prompt("x")).cost == 0.0
    failed = await priced(use("look"), ModelOverloaded("busy"), tools=[look]).execute("x")
    assert (failed.status, failed.cost, failed.report.known_cost) == ("failed", None, 3.0)


@pytest.mark.parametrize(
    ("first", "cost"), [("acme/big", None), ("free/x", 3.0), ("unheard/of", None)], ids=["paid", "free", "unknown"]
)
async def test_an_answer_that_broke_off_before_the_next_model_was_asked_may_have_been_billed(
    first: str, cost: float | None
) -> None:
    """G93, W7: the words of a tool call are no delta, so that another model takes over from the middle of one"""
    models = [ScriptedModel([ModelAnswerBroken("cut")], name=first), ScriptedModel([say("hi")], name="acme/small")]
    result = await Agent("ada", model=models, cost=TABLE).prompt("x")
    assert (result.cost, result.report.known_cost) == (cost, 3.0)
    by_rule = Agent("ada", model=[ScriptedModel([ModelAnswerBroken("cut")], name="a/a"), ScriptedModel([say("hi")])])
    assert (await by_rule.prompt("x", cost=lambda model, usage: 2.0)).cost is None


async def test_a_model_that_refused_before_the_next_one_was_asked_costs_nothing() -> None:
    models = [ScriptedModel([ModelOverloaded("busy")], name="acme/big"), ScriptedModel([say("hi")], name="acme/small")]
    assert (await Agent("ada", model=models, cost=TABLE).prompt("x")).cost == 3.0


def check_sums(result: AgentResult) -> None:
    report = result.report
    own = sum((trip.usage for trip in report.trips), Usage())
    assert report.usage == sum((child.usage for child in report.children), own)
    below = sum(child.known_cost for child in report.children)
    assert report.known_cost == sum(trip.known_cost for trip in report.trips) + below
    costs = [trip.cost for trip in report.trips] + [child.cost for child in report.children]
    assert (report.cost is None) == (None in costs)


@pytest.mark.parametrize("how", ["as_tool", "in a tool", "in a tool that fails"])
async def test_usage_and_cost_add_up_also_when_a_run_below_has_failed(how: str) -> None:
    """Conformance test 22"""
    below = priced(use("look"), ModelOverloaded("busy"), tools=[look], named="below")

    @tool
    async def ask(prompt: str) -> str:
        result = await below.execute(prompt)
        if how == "in a tool that fails":
            raise ZeroDivisionError
        return result.text

    asked = below.as_tool("ask", "Ask.") if how == "as_tool" else ask
    result = await priced(use("ask", prompt="x"), say("done"), tools=[asked]).prompt("go")
    assert [(child.agent, child.status) for child in result.report.children] == [("below", "failed")]
    assert (result.usage.total_tokens, result.report.known_cost, result.cost) == (3_000_000, 9.0, None)
    check_sums(result)


async def test_usage_and_cost_add_up_also_when_a_run_below_is_called_off_with_the_one_above() -> None:
    """Conformance tests 22 and 23: the call that made it never returns, and its use is not lost"""
    reached = anyio.Event()

    @tool
    async def wait() -> None:
        reached.set()
        await anyio.sleep_forever()

    below = priced(use("wait"), tools=[wait], named="below")
    chief = priced(use("ask", prompt="x"), tools=[below.as_tool("ask", "Ask.")])
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    async with chief.stream("go", place=place, run=run) as running:
        await reached.wait()
        running.cancel("enough")
    for result in (await running.result(), await chief.execute("go", place=place, run=run)):
        assert [(child.agent, child.status) for child in result.report.children] == [("below", "cancelled")]
        assert (result.status, result.usage.total_tokens, result.cost) == ("cancelled", 2_000_000, 6.0)
        check_sums(result)


async def test_a_limit_on_the_cost_works_with_the_table() -> None:
    """Rule 12 of the design: also over a run below, of which a part is unknown"""
    ada = Agent(
        "ada",
        model=ScriptedModel(lambda request: use("look"), name="acme/big"),
        tools=[look],
        cost=TABLE,
        limits=Limits(cost=7),
    )
    result = await ada.prompt("x")
    assert (result.text, len(result.report.trips)) == ("one moment", 3)
    assert result.report.warnings == ("the limit of 7 for the cost was reached",)

    leaf = priced(use("look"), say("found", Usage()), tools=[look], named="leaf")
    chief = priced(use("ask", prompt="x"), say("never"), tools=[leaf.as_tool("ask", "Ask.")], limits=Limits(cost=6))
    result = await chief.prompt("x")
    assert (len(result.report.trips), result.report.known_cost, result.finish_reason) == (1, 6.0, "limit")


async def test_a_limit_on_the_cost_of_a_model_without_a_price_is_refused_before_anything_runs() -> None:
    """Rule 12 of the design: a limit that could not hold is no limit"""
    model = ScriptedModel(["never"], name="other/model")
    bound = Limits(cost=1)
    place, run = Place(MemoryLog(), "base", live=False), RunContext.root()
    ada = Agent("ada", model=model, limits=bound)
    with pytest.raises(UnknownPrice, match=r"'ada' .* no price is known for other/model: .*Nothing ran.*'other/model'"):
        await ada.execute("x", place=place, run=run)
    with pytest.raises(UnknownPrice):
        ada.stream("x")
    with pytest.raises(UnknownPrice):
        await Agent("ada", model=ScriptedModel([])).prompt("x", limits=bound, cost=None)
    either = [ScriptedModel([], name="acme/big"), model]
    with pytest.raises(UnknownPrice, match="known for other/model:"):
        await Agent("ada", model=either, cost=TABLE, limits=bound).prompt("x")
    assert model.requests == []
    assert not await place.log.subjects(">")
    assert (await ada.prompt("x", cost=lambda name, usage: None)).text == "never"  # a function is taken at its word


async def test_a_limit_on_the_cost_is_refused_also_for_the_sake_of_an_agent_below() -> None:
    """Rule 12 of the design: an agent as a tool is known beforehand, one that a tool calls when it is called"""
    below = Agent("below", model=ScriptedModel(["found"], name="other/model"))
    chief = priced(use("ask", prompt="x"), tools=[below.as_tool("ask", "Ask.")], limits=Limits(cost=9))
    with pytest.raises(UnknownPrice, match="other/model"):
        await chief.prompt("go")

    refused: list[UnknownPrice] = []

    @tool
    async def ask(prompt: str) -> str:
        try:
            await below.prompt(prompt)
        except UnknownPrice as error:
            refused.append(error)
        return "no"

    await priced(use("ask", prompt="x"), say("done"), tools=[ask], limits=Limits(cost=9)).prompt("go")
    assert "'below' runs under a limit" in str(refused[0])
    unbound = priced(use("ask", prompt="x"), say("done"), tools=[below.as_tool("ask", "Ask.")])
    assert (await unbound.prompt("go")).report.known_cost == 6.0
