"""Bad input to an agent: each has an error of its own, says what to do, and changes nothing."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_core import from_json

from convive.agents import Agent, BadTool, ToolReturn, tool
from convive.agents.testing import ScriptedModel
from convive.bus import ConviveError, RunContext
from tests.agents.runs import bodies, place, told, use

pytestmark = pytest.mark.anyio


def untyped(order) -> str:  # type: ignore[no-untyped-def] # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    """Refund an order."""
    return ""


def partly(order: str, amount=5) -> str:  # type: ignore[no-untyped-def] # pyright: ignore[reportMissingParameterType]
    """Refund an order."""
    return ""


def misnamed(order: str) -> str:
    """Refund an order.

    Args:
        ordre: a typing mistake
    """
    return ""


def unknown(order: "NoSuchType") -> str:  # type: ignore[name-defined] # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType] # noqa: F821
    """Refund an order."""
    return ""


def opaque(order: threading.Lock) -> str:
    """Refund an order."""
    return ""


def refund(order: str) -> str:
    """Refund an order."""
    return ""


@tool(name="refund")
async def another(amount: float) -> str:
    """Refund an amount."""
    return ""


TOOLS: dict[str, tuple[list[Any], str]] = {
    "no type hint": ([untyped], "tool 'untyped': parameter 'order' has no type hint; a model could not fill it"),
    "one without": ([partly], "tool 'partly': parameter 'amount' has no type hint"),
    "docstring of another": ([misnamed], r"tool 'misnamed': its docstring describes \['ordre'\], which it does not"),
    "type that is not there": ([unknown], "tool 'unknown': its annotation uses 'NoSuchType', which is not defined"),
    "type without a schema": ([opaque], "tool 'opaque': no JSON Schema can be made from its type hints"),
    "two of one name": ([refund, another], "two tools are named 'refund'; a model could not tell them apart"),
    "no name": ([lambda: None], "'<lambda>' is not a name for a tool"),
}


@pytest.mark.parametrize("case", TOOLS)
async def test_a_tool_that_a_model_could_not_use_is_refused_before_anything_runs(case: str) -> None:
    """W16, G74: when the agent is made, and as well for one call"""
    tools, message = TOOLS[case]
    with pytest.raises(BadTool, match=message) as caught:
        Agent("ada", tools=tools)
    assert isinstance(caught.value, ConviveError)
    model, where = ScriptedModel([]), place()
    with pytest.raises(BadTool, match=message):
        await Agent("ada", model=model).execute("x", tools=tools, place=where)
    assert (model.requests, await bodies(where)) == ([], [])


class Cursor:
    """As a database gives it."""


class Money:
    """Not JSON, but with a text of its own."""

    def __str__(self) -> str:
        return "5 EUR"


class Broken:
    """Fails even to say what it is."""

    def __str__(self) -> str:
        raise OSError("the connection is closed")


def _loop() -> object:
    whole: list[object] = []
    whole.append(whole)
    return whole


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (Cursor, "result_not_json"),
        (lambda: {"rows": [1, Cursor()]}, "result_not_json"),
        (threading.Lock, "result_not_json"),
        (lambda: refund, "result_not_json"),
        (lambda: ToolReturn("kept", Cursor()), "result_not_json"),
        (Broken, "tool_failed"),
    ],
    ids=["object", "inside", "lock", "function", "shown part", "broken text"],
)
async def test_a_result_that_cannot_be_told_is_an_error_that_says_so(
    make: Callable[[], object], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """W19: the model learns that the call was carried out, the developer what to change; the run goes on"""
    ran: list[str] = []

    @tool
    async def query() -> object:
        """Ask the database."""
        ran.append("query")
        return make()

    model = ScriptedModel([use(("query", {})), "Sorry."])
    with caplog.at_level(logging.WARNING):
        result = await Agent("ada", model=model, tools=[query]).prompt("x")
    (heard,) = told(model.requests[1])
    assert (result.text, ran, heard.is_error) == ("Sorry.", ["query"], True)
    assert from_json(heard.content)["error"] == error
    assert " at 0x" not in heard.content
    if error == "result_not_json":
        assert "query was carried out" in heard.content
        assert "model_output=" in caplog.text


@pytest.mark.parametrize(
    ("make", "content"), [(Money, '"5 EUR"'), (_loop, '"[[...]]"'), (lambda: {1: {2}}, '{"1":[2]}')]
)
async def test_what_has_a_text_of_its_own_is_told_by_it(make: Callable[[], object], content: str) -> None:
    """W19"""

    @tool
    async def query() -> object:
        """Ask."""
        return make()

    model = ScriptedModel([use(("query", {})), "Thanks."])
    await Agent("ada", model=model, tools=[query]).prompt("x")
    (heard,) = told(model.requests[1])
    assert (heard.content, heard.is_error) == (content, False)


@pytest.mark.parametrize("depth", [190, 230])
async def test_what_could_not_be_read_back_is_not_written_down(depth: int) -> None:
    """A JSON parser goes 200 levels deep: a journal that goes deeper would be lost with all that is in it."""
    given: Any = "figs"
    for _ in range(depth):
        given = [given]

    @tool
    def weigh(what: Any = None) -> str:
        return "2 pounds"

    where, run = place(), RunContext.root()
    model = ScriptedModel([use(("weigh", {"what": given})), "Done."])
    result = await Agent("ada", model=model, tools=[weigh]).execute("x", place=where, run=run)
    again = await Agent("ada", model=ScriptedModel([]), tools=[weigh]).execute(place=where, run=run)
    assert again.status == result.status
    if depth > 200:
        assert result.error is not None
        assert "nested too deeply" in result.error.message
    else:
        assert result.text == "Done."
