"""Rows of the checklist on tools: what can be one, the order of the gates, what the model reads."""

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest
from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents import (
    Agent,
    BadTool,
    Final,
    HookContext,
    HookedCall,
    Middleware,
    ReplaceArgs,
    Skip,
    Tool,
    ToolContext,
    ToolUse,
    client_tool,
    schema_tool,
    tool,
)
from convive.agents.testing import ScriptedModel
from tests.agents.runs import Given, told, use

pytestmark = pytest.mark.anyio


async def called(subject: Tool | Callable[..., object], name: str = "", **arguments: JsonValue) -> tuple[bool, Any]:
    """Whether one call of this tool was an error, and what the model read."""
    name = subject.name if isinstance(subject, Tool) else name
    model = ScriptedModel([use((name, arguments)), "Done."])
    await Agent("ada", model=model, tools=[subject]).prompt("x")
    (result,) = told(model.requests[1])
    return result.is_error, result.content


async def test_a_tool_of_a_schema_is_public_and_its_schema_goes_to_the_model_as_it_is() -> None:
    """G68, G69: for what is described elsewhere, such as by OpenAPI"""
    schema: Given = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "x-of": "us"}

    async def handler(context: ToolContext, arguments: Given) -> str:
        return f"{context.tool_name}: rain in {arguments['city']}"

    model = ScriptedModel([use(("weather", {"city": "Ghent"}), ("weather", {})), "Done."])
    await Agent("ada", model=model, tools=[schema_tool("weather", "Look.", schema, handler)]).prompt("x")
    assert model.requests[0].tools[0].input_schema == schema
    good, bad = told(model.requests[1])
    assert (good.content, good.is_error) == ("weather: rain in Ghent", False)
    assert from_json(bad.content)["issues"] == [{"path": "city", "message": "Field required"}]


async def look_up(what: str, where: str) -> str:
    """Look something up."""
    return f"{what} in {where}"


class Counter:
    """An object that can be called."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, by: int = 1) -> int:
        """Count."""
        self.count += by
        return self.count

    def method(self, by: int) -> int:
        """Count."""
        self.count += by
        return self.count


async def test_whatever_can_be_called_can_be_a_tool() -> None:
    """W16, W18: a partial, a bound method, an object with `__call__`; name and docstring of what is behind it"""
    bound = tool(name="look_up")(functools.partial(look_up, where="Ghent"))
    assert bound.spec.description == "Look something up."
    assert await called(bound, what="rain") == (False, "rain in Ghent")
    counter = Counter()
    assert await called(tool(name="count")(counter), by=2) == (False, "2")
    assert await called(counter.method, "method", by=3) == (False, "5")
    with pytest.raises(BadTool, match="not a name"):
        tool(functools.partial(look_up, where="Ghent"))


def logged(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> object:
        return function(*args, **kwargs)

    return wrapper


@logged
async def by_async_generator(count: int) -> AsyncGenerator[object]:
    """Count."""
    for number in range(count):
        yield number
    yield Final("counted")


@logged
def by_generator(count: int) -> Generator[int, None, str]:
    """Count."""
    yield from range(count)
    return "counted"


@pytest.mark.parametrize("function", [by_async_generator, by_generator])
async def test_a_generator_behind_a_decorator_is_one_all_the_same(function: Callable[..., object]) -> None:
    """G73"""
    model, seen = ScriptedModel([use((function.__name__, {"count": 2})), "Done."]), list[object]()
    agent = Agent("ada", model=model, tools=[function], on={"tool_updated": lambda event: seen.append(event.value)})
    await agent.prompt("x")
    assert (seen, told(model.requests[1])[0].content) == ([0, 1], "counted")


async def test_a_generator_that_a_plain_function_returns_is_its_result() -> None:
    """G73, W19"""

    @tool
    def squares(count: int) -> object:
        """Squares."""
        return (number * number for number in range(count))

    assert await called(squares, count=3) == (False, "[0,1,4]")


async def test_bad_arguments_are_a_whole_call_to_whoever_watches_and_the_handler_is_not_run() -> None:
    """G74: the events and `after_tool` come in pairs, and the issues name each place"""
    ran: list[int] = []
    heard: list[tuple[str, bool]] = []

    @tool
    async def pick(count: int, of: list[int]) -> None:
        ran.append(count)

    class After(Middleware):
        async def after_tool(self, ctx: HookContext, call: HookedCall, content: str, is_error: bool) -> None:
            heard.append((call.id, is_error))

    model = ScriptedModel([use(("pick", {"count": "many", "of": [1, "x"]})), "Done."])
    agent = Agent("ada", model=model, tools=[pick], middleware=[After()])
    async with agent.stream("x") as run:
        events = [event.type async for event in run if event.type.startswith("tool")]
    assert (events, heard, ran) == (["tool_started", "tool_finished"], [("c0", True)], [])
    problem = from_json(told(model.requests[1])[0].content)
    assert problem["error"] == "invalid_arguments"
    assert [issue["path"] for issue in problem["issues"]] == ["count", "of.1"]


class Gatekeeper(Middleware):
    """Writes down what it is asked about, and rewrites one call."""

    def __init__(self, trace: list[str]) -> None:
        self._trace = trace

    async def before_tool(self, ctx: HookContext, call: HookedCall) -> Skip | ReplaceArgs | None:
        self._trace.append(f"hook {call.id} {call.arguments}")
        return ReplaceArgs({"amount": 500}) if call.id == "c3" else None


async def test_a_call_passes_its_gates_in_one_order_and_each_is_passed_by_what_came_before() -> None:
    """G78, G85: rewritten, found, validated, approved, carried out; calls one after the other, in the model's order"""
    trace: list[str] = []

    def asks(context: ToolContext, arguments: Any) -> bool:
        trace.append(f"approval {context.tool_call_id} {vars(arguments)}")
        return context.tool_name == "show" or bool(arguments.amount > 100)

    @tool(needs_approval=asks)
    async def pay(context: ToolContext, amount: int) -> str:
        """Pay."""
        trace.append(f"run {context.tool_call_id}")
        return "paid"

    pick, show = client_tool("pick", "Pick."), client_tool("show", "Show.", needs_approval=asks)
    calls: list[tuple[str, Given]] = [
        ("nosuch", {}),
        ("pay", {"amount": "much"}),
        ("pay", {"amount": 1}),
        ("pay", {"amount": 2}),
        ("pick", {}),
        ("show", {}),
    ]
    agent = Agent("ada", model=ScriptedModel([use(*calls)]), tools=[pay, pick, show], middleware=[Gatekeeper(trace)])
    result = await agent.prompt("x")
    assert trace == [
        "hook c0 {}",
        "hook c1 {'amount': 'much'}",
        "hook c2 {'amount': 1}",
        "approval c2 {'amount': 1}",
        "hook c3 {'amount': 2}",
        "approval c3 {'amount': 500}",
        "hook c4 {}",
        "hook c5 {}",
        "approval c5 {}",
        "run c2",
    ]
    waiting = [("c3", "approval"), ("c4", "client_tool"), ("c5", "approval")]
    assert [(each.call_id, each.kind) for each in result.interrupts] == waiting
    assert result.interrupts[0].arguments == {"amount": 500}
    errors = [
        call.returned.content for call in result.report.trips[0].calls if call.returned and call.returned.is_error
    ]
    assert [from_json(content)["error"] for content in errors] == ["unknown_tool", "invalid_arguments"]


async def test_a_placeholder_can_stand_for_a_client_tools_result() -> None:
    """G80: without it a run waits; a middleware that skips the call makes it go on"""

    class Placeholder(Middleware):
        async def before_tool(self, ctx: HookContext, call: HookedCall) -> Skip | None:
            return Skip({"pending": call.id}) if call.name == "pick" else None

    model = ScriptedModel([use(("pick", {})), "Go and pick one."])
    agent = Agent("ada", model=model, tools=[client_tool("pick", "Pick.")], middleware=[Placeholder()])
    result = await agent.prompt("x")
    assert (result.text, told(model.requests[1])[0].content) == ("Go and pick one.", '{"pending":"c0"}')


def silent_tools() -> list[Tool]:
    @tool(silent=True)
    async def note(text: str) -> None:
        if not text:
            raise OSError("the pencil broke")

    @tool
    async def ask() -> str:
        return "answer"

    return [note, ask]


NOTE: tuple[str, Given] = ("note", {"text": "x"})
FAIL: tuple[str, Given] = ("note", {"text": ""})
BAD: tuple[str, Given] = ("note", {})
ASK: tuple[str, Given] = ("ask", {})
NOSUCH: tuple[str, Given] = ("nosuch", {})


@pytest.mark.parametrize(
    ("other", "reason"),
    [(NOTE, "silent"), (ASK, "answered"), (FAIL, "answered"), (BAD, "answered"), (NOSUCH, "answered")],
    ids=["all silent", "mixed", "one fails", "bad arguments", "unknown tool"],
)
async def test_a_trip_of_silent_calls_ends_the_run_unless_the_model_has_something_to_read(
    other: tuple[str, Given], reason: str
) -> None:
    """C15, W5"""
    model = ScriptedModel([use(NOTE, other, text="I made a note."), "I see."])
    result = await Agent("ada", model=model, tools=silent_tools()).prompt("x")
    assert (result.finish_reason, result.text) == (reason, "I made a note." if reason == "silent" else "I see.")
    assert len(model.requests) == (1 if reason == "silent" else 2)


@pytest.mark.parametrize("cut", ["length", "refusal"])
async def test_an_answer_that_is_cut_or_refused_carries_nothing_out(cut: Any) -> None:
    """C17, W4"""
    ran: list[str] = []

    @tool
    async def pay() -> None:
        ran.append("paid")

    model = ScriptedModel([use(("pay", {}), text="I will").model_copy(update={"stop_reason": cut}), "Hello."])
    agent = Agent("ada", model=model, tools=[pay])
    result = await agent.prompt("x")
    assert (result.text, result.finish_reason, ran) == ("I will", cut, [])
    assert "pay" in result.report.warnings[0]
    assert (await agent.prompt("y", history=result.messages)).text == "Hello."
    parts = [part for message in model.requests[1].messages for part in message.parts]
    assert not any(isinstance(part, ToolUse) for part in parts)
