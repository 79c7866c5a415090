"""Tools: from a typed function to a schema, and from a model's arguments to a call."""

import threading
from dataclasses import dataclass
from typing import Annotated, Literal

import anyio
import pytest
from pydantic import BaseModel, Field, JsonValue
from pydantic_core import from_json

from convive.agents.journal._fold import Call
from convive.agents.models._schema import BadTool
from convive.agents.tools._calls import Outcome, Ready, carry_out, prepare
from convive.agents.tools._tools import Handler, ModelRetry, Tool, ToolContext, ToolError, by_name, tool
from convive.bus import RunContext

pytestmark = pytest.mark.anyio


class Address(BaseModel):
    """Where something goes."""

    street: str
    number: int = Field(gt=0)


@tool
async def send(ctx: ToolContext, parcel: str, to: Address, speed: Literal["slow", "fast"] = "slow") -> str:
    """Send a parcel.

    It cannot be called back.

    Args:
        parcel: what is sent,
            in a word
        to (Address): where it goes

    Returns:
        A receipt.
    """
    ctx.artifacts.add("receipt", {"parcel": parcel, "key": ctx.idempotency_key})
    return f"{parcel} to {to.street} {to.number}, {speed}"


def context() -> ToolContext:
    return ToolContext(RunContext.root(), "call-1", "any", trip=0, attempt=1, idempotency_key="key")


async def use(subject: Tool, arguments: JsonValue) -> Outcome:
    prepared = prepare(Call(0, "call-1", subject.name, arguments), by_name([subject]))
    return await carry_out(prepared, context()) if isinstance(prepared, Ready) else prepared


def test_name_description_and_schema_come_from_signature_and_docstring() -> None:
    """W16"""
    assert send.name == "send"
    assert send.spec.description == "Send a parcel.\n\nIt cannot be called back."
    schema = send.spec.input_schema
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == ["parcel", "to", "speed"]
    assert properties["parcel"] == {"type": "string", "description": "what is sent, in a word"}
    assert properties["speed"] == {"type": "string", "enum": ["slow", "fast"], "default": "slow"}
    assert schema["required"] == ["parcel", "to"]
    assert schema["additionalProperties"] is False


def test_a_parameter_may_have_a_name_that_a_pydantic_model_could_not() -> None:
    @tool
    def odd(copy: int, schema: str, _private: bool, model_config: str = "x") -> str:
        """Odd."""
        return ""

    properties = odd.spec.input_schema["properties"]
    assert isinstance(properties, dict)
    assert list(properties) == ["copy", "schema", "_private", "model_config"]


def test_options_override_what_the_function_says() -> None:
    @tool(name="add-up", description="Sum.", timeout_s=3, sequential=True, silent=True)
    def add(first: int, second: int) -> int:
        return first + second

    assert (add.name, add.spec.description) == ("add-up", "Sum.")
    assert (add.timeout_s, add.sequential, add.silent) == (3, True, True)
    assert add(1, 2) == 3


def test_string_annotations_find_what_the_caller_defined_locally() -> None:
    class Local(BaseModel):
        size: int

    @tool
    def measure(what: "Local") -> int:
        return what.size

    assert prepare(Call(0, "1", "measure", {"what": {"size": 3}}), by_name([measure])) == Ready(
        measure, {"what": Local(size=3)}
    )


def test_a_function_that_a_model_could_not_call_is_refused_with_the_reason() -> None:
    def untyped(value) -> None: ...  # type: ignore[no-untyped-def] # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    def many(*values: int) -> None: ...
    def documented(value: int) -> None:
        """Do.

        Args:
            valeu: a typo
        """

    def opaque(value: threading.Thread) -> None: ...

    refused: list[tuple[Handler, str]] = [
        (untyped, "has no type hint"),
        (many, "passed by name"),
        (documented, r"describes \['valeu'\]"),
        (opaque, "no JSON Schema"),
    ]
    for function, reason in refused:
        with pytest.raises(BadTool, match=reason):
            tool(function)
    with pytest.raises(BadTool, match="not a name"):
        tool(name="add up")(lambda: None)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(BadTool, match="two tools are named 'send'"):
        by_name([send, send])


async def test_arguments_are_validated_and_converted_before_the_call() -> None:
    """W17, W18"""
    outcome = await use(send, {"parcel": "hat", "to": {"street": "Elm", "number": "5"}})
    assert (outcome.content, outcome.is_error) == ("hat to Elm 5, slow", False)
    assert outcome.artifacts[0].value == {"parcel": "hat", "key": "key"}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"parcel": "hat", "to": {"street": "Elm", "number": 0}}, "to.number"),
        ({"parcel": "hat"}, "to"),
        ({"parcel": "hat", "to": {"street": "Elm", "number": 1}, "gift": True}, "gift"),
        ("{broken", ""),
        (None, ""),
        ([1], ""),
    ],
)
async def test_bad_arguments_go_back_to_the_model_with_their_places(arguments: JsonValue, path: str) -> None:
    """W17"""
    outcome = await use(send, arguments)
    assert outcome.is_error
    report = from_json(outcome.content)
    assert report["error"] == "invalid_arguments"
    assert report["issues"][0]["path"] == path


async def test_an_unknown_tool_is_answered_with_the_names_of_those_that_are() -> None:
    """G79"""
    outcome = prepare(Call(0, "1", "sned", {}), by_name([send]))
    assert isinstance(outcome, Outcome)
    assert outcome.is_error
    assert from_json(outcome.content) == {"error": "unknown_tool", "message": "There is no tool 'sned'. Tools: send."}


async def test_an_exception_reaches_the_model_as_kind_and_message_without_a_traceback() -> None:
    """W20"""

    @tool
    async def fail(how: str) -> None:
        raise {"error": ToolError, "retry": ModelRetry, "other": KeyError}[how]("the shelf is empty")

    told = await use(fail, {"how": "error"})
    assert (told.content, told.is_error) == ("the shelf is empty", True)
    retry = await use(fail, {"how": "retry"})
    assert from_json(retry.content) == {"error": "retry", "message": "the shelf is empty"}
    other = await use(fail, {"how": "other"})
    assert from_json(other.content) == {"error": "tool_failed", "message": "'the shelf is empty'", "type": "KeyError"}
    assert "Traceback" not in other.content


@dataclass
class Point:
    x: int


class Opaque:
    def __str__(self) -> str:
        return "opaque"


_loop: list[object] = []
_loop.append(_loop)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is", "as it is"),
        ("bad \ud800 text", "bad ? text"),
        (None, "null"),
        (Address(street="Elm", number=5), '{"street":"Elm","number":5}'),
        (Point(1), '{"x":1}'),
        ({"deep": [Opaque()]}, '{"deep":["opaque"]}'),
        (float("nan"), "null"),
        (b"\xff", "\"b'\\\\xff'\""),
        (_loop, '"[[...]]"'),
    ],
)
async def test_any_result_has_a_text_for_the_model(value: object, content: str) -> None:
    """W19"""

    @tool
    async def give() -> object:
        return value

    outcome = await use(give, {})
    assert (outcome.content, outcome.is_error) == (content, False)


async def test_model_output_narrows_what_the_model_reads_and_the_whole_is_kept() -> None:
    """G76"""

    @tool(model_output=lambda point: f"x is {point.x}")
    async def find() -> Point:
        return Point(3)

    outcome = await use(find, {})
    assert (outcome.content, outcome.value) == ("x is 3", {"x": 3})


async def test_a_model_output_that_fails_leaves_the_model_the_whole_result() -> None:
    """G21"""

    @tool(model_output=lambda point: point.y)
    async def find() -> Point:
        return Point(3)

    outcome = await use(find, {})
    assert (outcome.content, outcome.is_error) == ('{"x":3}', False)


async def test_a_sync_function_runs_in_a_thread() -> None:
    @tool
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert (await use(where, {})).content == "false"


async def test_a_call_that_takes_too_long_is_given_up_and_the_model_told() -> None:
    @tool(timeout_s=0.01)
    async def hang() -> None:
        await anyio.sleep_forever()

    outcome = await use(hang, {})
    assert outcome.is_error
    assert from_json(outcome.content)["error"] == "timeout"


async def test_a_tools_own_timeout_error_is_its_own_failure() -> None:
    @tool(timeout_s=5)
    async def give_up() -> None:
        raise TimeoutError("the other side is slow")

    assert from_json((await use(give_up, {})).content)["type"] == "TimeoutError"


async def test_cancelling_a_call_goes_through_the_tool() -> None:
    @tool
    async def hang() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as scope:
        await use(hang, {})
    assert scope.cancelled_caught


def test_constraints_in_annotations_reach_the_schema() -> None:
    @tool
    def pick(count: Annotated[int, Field(ge=1, le=3, description="how many")]) -> None: ...

    properties = pick.spec.input_schema["properties"]
    assert isinstance(properties, dict)
    assert properties["count"] == {"type": "integer", "minimum": 1, "maximum": 3, "description": "how many"}
