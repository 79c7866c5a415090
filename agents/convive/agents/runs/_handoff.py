"""Handing a conversation over to another agent, which answers in place of the one that had it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field

from convive.agents.models._messages import Message
from convive.agents.models._model import ToolSpec
from convive.agents.models._schema import model_parameters
from convive.agents.runs._agent import Agent
from convive.agents.runs._as_tool import PromptOf, check_prompt, prompt_of
from convive.agents.runs._frame import current_frame, inside
from convive.agents.tools._tools import Tool, ToolContext, ToolError, ToolReturn

MOST_HANDOFFS = 5
"""How often one conversation may be handed on."""


class HandoffInput(BaseModel):
    """What the next agent is told beside the conversation."""

    message: str = Field(default="Go on from here.", description="What the next agent should know or do.")


def handoff(
    agent: Agent[Any],
    when: str = "",
    *,
    name: str | None = None,
    input: type[BaseModel] = HandoffInput,
    prompt: PromptOf | None = None,
    history: Callable[[Sequence[Message]], Sequence[Message]] | None = None,
) -> Tool:
    """A tool that hands the conversation over to `agent`, for good: its answer is the run's.

    The agent sees the conversation so far, or what `history` makes of it, under its own instructions, in a run below.
    Of several handoffs in one answer the first counts, and calls behind it are not carried out. After five hops in a
    row, and when the agent fails, the model reads an error, and calls behind it are carried out. `report.handoffs` of
    the result names the agents. `input` and `prompt` say what it is told beside the conversation, as for
    `Agent.as_tool`; by default, a `message`. Raises BadTool.
    """
    if not isinstance(agent, Agent):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a conversation is handed over to an Agent, not to {type(agent).__name__}.")
    chosen = name or f"handoff_to_{agent.name}"
    check_prompt(prompt, input, "message", chosen, agent)

    async def call(context: ToolContext, input: BaseModel) -> ToolReturn:
        frame = current_frame()
        if frame is None or frame.hops >= MOST_HANDOFFS:
            raise ToolError(f"This conversation was handed on {MOST_HANDOFFS} times. Answer it yourself.")
        told = frame.history()
        with inside(replace(frame, hops=frame.hops + 1)):
            result = await agent.execute(
                await prompt_of(prompt, input, "message"),
                history=told if history is None else history(told),
                deps=context.deps,
            )
        if result.error is not None:
            raise ToolError(f"agent {agent.name!r} could not take over: {result.error.message}")
        path = (agent.name, *result.report.handoffs)
        return ToolReturn(
            value={"run_id": result.run_id, "agent": agent.name}, model_output=result.text, handed_to=path
        )

    parameters = model_parameters(input, chosen, "input", context="context")
    spec = ToolSpec(chosen, f"Hand the conversation over to {agent.name}. {when}".strip(), parameters.schema)
    return Tool(spec, call, parameters, sequential=True, handoff=True, below=agent)
