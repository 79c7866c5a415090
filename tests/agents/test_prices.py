"""What answers cost, and what is said where that is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents.models._errors import ModelOverloaded
from convive.agents.models._failover import FailoverModel
from convive.agents.models._messages import Text, ToolUse
from convive.agents.models._model import Answer, Usage
from convive.agents.models._scripted import ScriptedModel
from convive.agents.runs._agent import Agent
from convive.agents.runs._prices import Cost, Price, Prices, shipped_prices
from convive.agents.tools._tools import tool

MILLION = Usage(
    input_tokens=1_000_000, output_tokens=1_000_000, cache_read_tokens=1_000_000, cache_write_tokens=1_000_000
)
WHOLE = Price(input=1, output=10, cache_read=100, cache_write=1000)
TABLE = Prices({"acme/fast": WHOLE, "acme/big-*": Price(2, 20), "free/*": Price(0, 0, 0, 0)})

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage, input_tokens=counts, output_tokens=counts, cache_read_tokens=counts, cache_write_tokens=counts
)
rates = st.none() | st.floats(min_value=0, max_value=1000)
prices = st.builds(Price, rates, rates, rates, rates)
costs = st.builds(Cost, st.integers(min_value=0, max_value=10**6).map(float), st.booleans())


def test_each_kind_of_token_has_its_price_per_million() -> None:
    assert TABLE.cost(MILLION, "acme/fast") == Cost(1111.0)
    assert TABLE.cost(Usage(input_tokens=500, output_tokens=20), "acme/fast").amount == pytest.approx(0.0007)


def test_an_answer_whose_tokens_nobody_counted_has_an_unknown_cost_unless_its_model_is_free() -> None:
    assert TABLE.cost(Usage(), "acme/fast") == TABLE.unknown()
    assert TABLE.cost(Usage(), "free/x") == Cost(0.0)


@pytest.mark.parametrize("model", ["acme/slow", "acme/fast-2", "fast", "acme/fast-2026", "", "other/acme/fast"])
def test_a_model_that_the_table_does_not_know_has_an_unknown_cost_never_zero(model: str) -> None:
    cost = TABLE.cost(MILLION, model)
    assert cost.amount is None
    assert not cost.complete
    assert str(cost) == "unknown"
    assert TABLE.cost(Usage(), model).amount is None


def test_a_key_fits_a_name_a_pattern_or_a_name_with_a_date_behind_it() -> None:
    assert TABLE.price("acme/fast-20260101") == WHOLE
    assert TABLE.price("acme/big-3") == TABLE.price("acme/big-3-20260101") == Price(2, 20)
    assert TABLE.price("free/a/b") == Price(0, 0, 0, 0)
    assert Prices({"local/[x].gguf": WHOLE}).price("local/[x].gguf") == WHOLE


def test_what_a_user_puts_into_a_table_goes_before_what_was_there() -> None:
    mine = TABLE.but({"acme/*": Price(5, 5)})
    assert mine.price("acme/fast") == Price(5, 5)
    assert mine.price("free/x") == Price(0, 0, 0, 0)
    assert TABLE.price("acme/fast") == WHOLE
    assert shipped_prices().but({"local/*": WHOLE}).price("local/x") == WHOLE


def test_a_price_that_is_known_in_part_makes_a_cost_of_at_least_that() -> None:
    cost = TABLE.cost(Usage(input_tokens=1_000_000, cache_read_tokens=1), "acme/big-1")
    assert cost == Cost(2.0, complete=False)
    assert str(cost) == "at least 2.0000 USD"
    assert TABLE.cost(Usage(input_tokens=1_000_000), "acme/big-1") == Cost(2.0)


def test_a_sum_is_whole_only_when_each_of_its_parts_is() -> None:
    assert (Cost(1.0) + Cost(2.0)).amount == 3.0
    assert Cost(1.0) + TABLE.unknown() == Cost(1.0, complete=False)
    assert [str(Cost(amount)) for amount in (0.25, 0.000012, 0.0)] == ["0.2500 USD", "0.000012 USD", "0.0000 USD"]
    with pytest.raises(ValueError, match="USD and EUR cannot be added up"):
        _ = Cost(1.0) + Cost(1.0, currency="EUR")
    assert Prices({"a/*": WHOLE}, currency="EUR").cost(MILLION, "a/b").currency == "EUR"


@given(costs, costs, costs)
def test_costs_add_up_in_any_order(one: Cost, two: Cost, three: Cost) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + Cost() == one
    assert (one + two).complete == (one.complete and two.complete)


@given(prices, usages, usages)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(price: Price, one: Usage, two: Usage) -> None:
    together, apart = price.cost(one + two), price.cost(one) + price.cost(two)
    assert together.complete == apart.complete
    assert together.known == pytest.approx(apart.known)


def test_a_price_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="below zero"):
        Price(1, -1)


@pytest.mark.parametrize(
    ("asked", "answered", "billed"),
    [
        ("acme/alias", "fast", WHOLE),  # the provider says more exactly who it was
        ("acme/alias", "fast-20260101", WHOLE),
        ("acme/alias", "acme/fast", WHOLE),
        ("acme/fast", "nobody-knows", WHOLE),  # what was asked for is in the table
        ("acme/fast", "", WHOLE),
        ("acme/alias", "nobody-knows", None),
        ("free/replay", "acme/fast", Price(0, 0, 0, 0)),  # who was asked sends the bill
        ("acme/alias|free/x", "acme/fast", WHOLE),
        ("acme/fast|free/x", "free/x", Price(0, 0, 0, 0)),
        ("acme/fast|free/x", "", None),
        ("acme/fast|free/x", "fast", None),
    ],
)
def test_who_answered_decides_the_price_where_the_table_knows_it(
    asked: str, answered: str, billed: Price | None
) -> None:
    expected = TABLE.unknown() if billed is None else billed.cost(MILLION)
    assert TABLE.cost(MILLION, asked, answered) == expected


def test_the_shipped_table_knows_the_default_model_and_leaves_out_what_it_cannot_confirm() -> None:
    """The figures are list prices of 2026-11-20; this test only keeps them from being changed by accident."""
    table = shipped_prices()
    assert table.price("anthropic/claude-sonnet-4-6") == Price(3, 15, cache_read=0.3, cache_write=3.75)
    assert table.price("anthropic/claude-haiku-4-5-20251001") == Price(1, 5, cache_read=0.1, cache_write=1.25)
    assert table.price("anthropic/claude-opus-5-5") == Price(4, 20, cache_read=0.2, cache_write=5)
    assert table.price("anthropic/claude-opus-5") == Price(5, 25, cache_read=0.5, cache_write=6.25)
    for unsure in ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-4-1", "claude-next"):
        assert table.price(f"anthropic/{unsure}") is None


def test_local_and_scripted_models_are_free_because_the_shipped_table_says_so() -> None:
    for name in ("local/smollm2-135m", "local/models/x.gguf", "scripted/party", "replay/anthropic/claude-opus-5"):
        assert shipped_prices().cost(MILLION, name) == Cost(0.0)
        assert Prices({}).cost(MILLION, name).amount is None


def answer(text: str, model: str, *, call: bool = False) -> Answer:
    parts = (ToolUse(id="1", name="look", arguments={}),) if call else (Text(text=text),)
    usage = Usage(input_tokens=1_000_000)
    return Answer(parts=parts, stop_reason="tool_use" if call else "end", usage=usage, model=model)


@tool
async def look() -> str:
    return "nothing"


@pytest.mark.anyio
async def test_the_trips_of_a_report_add_up_to_the_cost_of_the_run() -> None:
    """W7: each trip of the report has the usage that it is priced by, also when several models answered"""
    first = ScriptedModel([answer("", "fast", call=True), ModelOverloaded("busy")], name="acme/fast")
    second = ScriptedModel([answer("done", "")], name="free/x")
    model = FailoverModel([first, second])
    result = await Agent("ada", model=model, tools=[look]).prompt("x")
    assert [trip.answer and trip.answer.model for trip in result.report.trips] == ["acme/fast", "free/x"]
    assert TABLE.cost_of_trips(result.report.trips, model.name) == Cost(1.0)


@pytest.mark.anyio
async def test_a_trip_that_failed_makes_the_cost_of_the_run_a_lower_bound() -> None:
    """W7: a model call that failed is a trip of the report, and may have been billed"""
    model = ScriptedModel([answer("", "", call=True), ModelOverloaded("busy")], name="acme/fast")
    result = await Agent("ada", model=model, tools=[look]).execute("x")
    assert [trip.finish_reason for trip in result.report.trips] == ["tool_use", "unanswered"]
    assert TABLE.cost_of_trips(result.report.trips, model.name) == Cost(1.0, complete=False)
    free = TABLE.but({model.name: Price(0, 0, 0, 0)})
    assert free.cost_of_trips(result.report.trips, model.name) == Cost(0.0)
