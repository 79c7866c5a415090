"""Agents: models, tools, the run loop, and the supervisor and seats that bring them to a conversation."""

from convive.agents._agent import Agent, agent, prompt
from convive.agents._agent_seat import AgentSeat, FunctionSeat, first_seen, run_options
from convive.agents._chain import RunTaken
from convive.agents._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents._journal import Place
from convive.agents._limits import Limits
from convive.agents._local import local_available
from convive.agents._messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from convive.agents._model import Answer, Model, Request, Sampling, TextDelta, ThinkingDelta, ToolSpec, Usage
from convive.agents._models import Choice, Models, choose_model, default_models, split_model
from convive.agents._output import BadOutput
from convive.agents._policies import POLICIES, Policy, addressed_next, round_robin
from convive.agents._result import AgentResult, Report, RunCancelled, RunFailed, RunUnfinished, unwrap
from convive.agents._seat import host_seats
from convive.agents._settings import AskContext, Refine, Retry
from convive.agents._stops import has_tool_call, step_count_is
from convive.agents._supervisor import Close, Decision, Grant, Plan, Revoke, Wait, decide, standby, supervise
from convive.agents._tools import ModelRetry, Tool, ToolContext, ToolError, tool
from convive.agents._turn import FirstOf, Participant, Pass, Say, Turn

__all__ = [
    "POLICIES",
    "Agent",
    "AgentResult",
    "AgentSeat",
    "Answer",
    "AskContext",
    "BadModelRequest",
    "BadOutput",
    "Choice",
    "Close",
    "Decision",
    "FirstOf",
    "FunctionSeat",
    "Grant",
    "Limits",
    "Message",
    "Model",
    "ModelAccessDenied",
    "ModelAnswerBroken",
    "ModelError",
    "ModelOverloaded",
    "ModelRetry",
    "ModelUnreachable",
    "Models",
    "Participant",
    "Pass",
    "Place",
    "Plan",
    "Policy",
    "Refine",
    "Report",
    "Request",
    "Retry",
    "Revoke",
    "RunCancelled",
    "RunFailed",
    "RunTaken",
    "RunUnfinished",
    "Sampling",
    "Say",
    "Text",
    "TextDelta",
    "Thinking",
    "ThinkingDelta",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolResult",
    "ToolSpec",
    "ToolUse",
    "Turn",
    "UnknownModel",
    "Usage",
    "Wait",
    "addressed_next",
    "agent",
    "assistant",
    "choose_model",
    "decide",
    "default_models",
    "first_seen",
    "has_tool_call",
    "host_seats",
    "local_available",
    "prompt",
    "round_robin",
    "run_options",
    "split_model",
    "standby",
    "step_count_is",
    "supervise",
    "tool",
    "unwrap",
    "user",
]
