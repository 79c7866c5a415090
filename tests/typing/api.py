"""What users write, under the eyes of the type checkers: `./check` runs mypy and basedpyright over this file.

Nothing here is executed. A line that must not type-check carries an ignore, which mypy would report as unused if it
did.
"""

from collections.abc import AsyncGenerator
from typing import Any, assert_type

from pydantic import BaseModel

from convive.agents import (
    Agent,
    AgentResult,
    AnyRunEvent,
    Approve,
    Deny,
    Edit,
    Final,
    Interrupt,
    Limits,
    Middleware,
    NeedsAnswer,
    Place,
    QueuedRun,
    Resolution,
    Result,
    Skip,
    Tool,
    ToolContext,
    ToolReturn,
    Usage,
    agent,
    client_tool,
    handoff,
    has_tool_call,
    peek,
    prompt,
    queued,
    resume,
    run_events,
    schema_tool,
    scoped_tool,
    step_count_is,
    tool,
)
from convive.agents.testing import ScriptedModel, fake_models
from convive.bus import Bus, Conversation, MemoryLog


class Ticket(BaseModel):
    """What a customer wants."""

    title: str
    urgent: bool = False


class Topic(BaseModel):
    """What to find out."""

    topic: str


@tool
async def look(city: str, days: int = 1) -> str:
    """Look up the weather."""
    return f"rain in {city} for {days} days"


@tool(needs_approval=lambda context, arguments: arguments.amount > 100, timeout_s=30, model_output=str)
async def refund(context: ToolContext, order: str, amount: float) -> Ticket | NeedsAnswer | ToolReturn:
    """Refund an order."""
    assert_type(context.approved, bool)
    assert_type(context.idempotency_key, str)
    await context.update({"order": order})
    context.artifacts.add("amount", amount)
    return Ticket(title=order) if amount < 50 else NeedsAnswer("approval", about=amount)


@tool(sequential=True)
async def watch() -> AsyncGenerator[str | Final]:
    """Watch."""
    yield "a little"
    yield Final("enough")


def plain(word: str) -> int:
    """A function is a tool when it is given as one."""
    return len(word)


async def handler(context: ToolContext, arguments: dict[str, Any]) -> Any:
    return arguments


def tools() -> None:
    assert_type(look, Tool)
    assert_type(refund, Tool)
    assert_type(client_tool("pick", "Pick.", Topic, output=list[str]), Tool)
    assert_type(schema_tool("any", "Any.", {"type": "object"}, handler), Tool)
    assert_type(scoped_tool("both", "Both.", {"look": look, "plain": plain}), Tool)


class Guard(Middleware):
    """What is not overridden needs no types."""

    async def on_start(self, ctx: Any) -> None:
        ctx.state["begun"] = True


class Support(Agent[Ticket]):
    """An agent as a class."""

    output = Ticket
    model = "anthropic/claude-sonnet-4-6"
    tools = (look, refund, plain)
    stop_when = step_count_is(8) | has_tool_call("done")

    def instructions(self) -> str:
        return "You help."


async def results() -> None:
    untyped = Agent("ada", model=ScriptedModel(["hi"]), tools=[look, plain, watch], limits=Limits(trips=3))
    result = await untyped.prompt("x", session_id="u42", history=[], meta={"user": 42})
    assert_type(result.text, str)
    assert_type(result.usage, Usage)
    assert_type(result.interrupts, tuple[Interrupt, ...])

    typed = Agent("desk", output=Ticket, repair=1)
    assert_type(typed, Agent[Ticket])
    assert_type(await typed.prompt("x"), AgentResult[Ticket])
    assert_type((await typed.execute("x")).data, Ticket | None)
    assert_type((await typed.prompt("x", output=Topic)).data, Topic | None)
    assert_type((await typed.prompt("x", output=list[int])).data, list[int] | None)
    assert_type((await Support().prompt("x")).data, Ticket | None)

    data = (await typed.prompt("x")).data
    data.title  # type: ignore[union-attr] # pyright: ignore[reportOptionalMemberAccess, reportUnusedExpression] # noqa: B018
    if data:
        assert_type(data.urgent, bool)

    assert_type((await prompt("x", model="scripted/party")).text, str)
    assert_type((await agent("You sum up.", tools=[look]).prompt("x")).text, str)


async def wrong_options() -> None:
    Agent("ada", tool=[look])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Agent("ada", limits=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await Agent("ada").prompt(5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await Agent("ada").prompt("x", sesion_id="u42")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    NeedsAnswer("later")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def streams(support: Agent[Ticket]) -> None:
    async with support.stream("x", on_cancel="leave") as run:
        async for event in run:
            assert_type(event, AnyRunEvent)
            if event.type == "text_delta":
                assert_type(event.text, str)
            elif event.type == "tool_started":
                assert_type(event.name, str)
            elif event.type == "run_suspended":
                assert_type(event.result.interrupts, tuple[Interrupt, ...])
            event.text  # type: ignore[union-attr] # pyright: ignore[reportAttributeAccessIssue, reportUnusedExpression] # noqa: B018
        run.cancel("enough", mode="after_trip")
    assert_type((await run.result()).text, str)


async def waiting(support: Agent[Ticket], conversation: Conversation) -> None:
    place = Place(MemoryLog(), "cv.00.shop")
    result = await support.prompt("x", place=place)
    suspension = await peek(place, result.run_id)
    answers: dict[str, Resolution] = {
        each.id: Approve() if each.kind == "approval" else Result(["a.txt"]) for each in suspension.interrupts
    }
    answers["other"] = Edit({"amount": 5})
    answers["last"] = Deny("too much")
    after = await resume(conversation, result.run_id, answers, token=suspension.token, agent=support)
    assert_type(after.data, Ticket | None)
    async with run_events(place, result.run_id, after=0) as events:
        async for each in events:
            assert_type(each.seq, int)
            assert_type(each.event, AnyRunEvent)


async def together(bus: Bus, support: Agent[Ticket]) -> None:
    research = support.as_tool("research", "Research.", input=Topic, prompt=lambda given: f"{given.topic}?")
    Agent("chief", tools=[research, handoff(support, "for tickets", input=Topic, prompt="{topic}")])
    off = support.on("tool_updated", lambda event: print(event.value))  # noqa: T201
    off()
    assert_type(await queued("support", "x", delay_s=5).send(bus), QueuedRun)
    assert_type(await (await support.queue("x").send(bus)).result(), AgentResult)
    with fake_models(["hi"]) as fake:
        assert_type(fake.left, int)


assert_type(Skip().result, object)
