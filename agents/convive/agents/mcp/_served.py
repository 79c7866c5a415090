"""An agent for callers that are no agents of ours: itself as a tool, and its tools without a run around them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from convive.agents.journal._fold import Call
from convive.agents.journal._journal import Place
from convive.agents.models._schema import BadTool, json_of
from convive.agents.runs import _events as shown
from convive.agents.runs._agent import Agent
from convive.agents.runs._frame import ChildWaits, Frame, inside
from convive.agents.tools._calls import Outcome, Ready, carry_out, prepare
from convive.agents.tools._schema_tool import provider_names
from convive.agents.tools._tools import Tool, ToolContext, ToolError, by_name, tool
from convive.bus import ConviveError, RunContext

Expose = Literal["agent", "tools", "both"]
OnUpdate = Callable[[JsonValue], Awaitable[None]]


def served_tools(agent: Agent, expose: Expose, tool_name: str | None, description: str | None) -> Mapping[str, Tool]:
    """What a caller gets to see, by name. Raises BadTool when that is nothing, or when two share a name."""
    served: list[Tool] = []
    if expose in ("agent", "both"):
        served.append(_agent_tool(agent, tool_name or provider_names([agent.name])[agent.name], description))
    if expose in ("tools", "both"):
        served += [each for each in agent.settings().tools.values() if not _needs_somebody(each)]
    if not served:
        raise BadTool(f"agent {agent.name!r} has no tool that could be served without a run around it.")
    return by_name(served)


async def call_served(
    tools: Mapping[str, Tool],
    name: str,
    arguments: JsonValue,
    *,
    place: Place | None,
    deps: Any,
    on_update: OnUpdate,
) -> Outcome:
    """Call a served tool as a run of its own. What goes wrong is an outcome, without a traceback."""
    run = RunContext.root()
    prepared = prepare(Call(0, str(run.run_id), name, arguments), tools)
    if not isinstance(prepared, Ready):
        return prepared
    key = f"{run.run_id}-0-0"
    context = ToolContext(
        run=run,
        tool_call_id=str(run.run_id),
        tool_name=name,
        trip=0,
        attempt=1,
        idempotency_key=key,
        deps=deps,
        on_update=on_update,
    )
    frame = Frame(run, place or Place.local(), key, fresh=True, on_cancel="record", session_id=None)
    try:
        with inside(frame):
            return await carry_out(prepared, context)
    except ConviveError as error:  # of the bus, or of an agent inside: no caller can do more than try again
        content = json_of({"error": "unavailable", "type": type(error).__name__, "message": str(error)})
        return Outcome(content, is_error=True)
    except ChildWaits:
        message = "an agent inside of this tool waits for somebody's answer, and whoever called cannot be asked"
        return Outcome(json_of({"error": "unavailable", "type": "ChildWaits", "message": message}), is_error=True)


def _agent_tool(agent: Agent, name: str, description: str | None) -> Tool:
    async def ask(
        context: ToolContext,
        prompt: Annotated[str, Field(min_length=1, description="What is asked, with all that it takes to answer.")],
    ) -> str:
        # The call is the run: place and session are those of the frame around it.
        async with agent.stream(prompt, run=context.run, fresh=True, deps=context.deps) as run:
            async for event in run:
                message = _told(event)
                if message:
                    await context.update({"message": message})
        result = await run.result()
        if result.status == "completed":
            return result.text
        failure = result.error
        raise ToolError(
            json_of(
                {
                    "error": f"run_{result.status}",
                    "type": failure.error if failure else None,
                    "message": failure.message if failure else f"The run is {result.status}.",
                    "run_id": str(result.run_id),
                }
            )
        )

    return tool(name=name, description=description or f"Ask the agent {agent.name!r}, and wait for its answer.")(ask)


def _told(event: shown.AnyRunEvent) -> str | None:
    """What a caller reads of a run under way; text is not told word by word."""
    match event:
        case shown.TripStarted():
            return f"trip {event.trip + 1}" + (f", attempt {event.attempt}" if event.attempt > 1 else "")
        case shown.ToolStarted():
            return f"calls {event.name}"
        case shown.ToolUpdated():
            return f"{event.name}: {event.value if isinstance(event.value, str) else json_of(event.value)}"
        case shown.ToolFinished():
            return f"{event.name} {'failed' if event.is_error else 'is done'}"
        case _:
            return None


def _needs_somebody(served: Tool) -> bool:
    """Whether a call may have to wait for a person or for the application: here is nobody to ask."""
    return served.needs_approval is not False or served.client
