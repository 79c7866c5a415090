"""Agents: models, tools, the run loop, and the supervisor and seats that bring them to a conversation."""

from convive.agents._agent import Agent, agent, prompt
from convive.agents._agent_seat import AgentSeat, FunctionSeat, first_seen, run_options
from convive.agents._audience import EventHandler, Observers
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
from convive.agents._events import AnyRunEvent, EventName
from convive.agents._failover import FailoverModel, NoModelAnswered
from convive.agents._handoff import handoff
from convive.agents._interrupts import Approve, Deny, Edit, Interrupt, Resolution, Result
from convive.agents._journal import ChildRun, Place
from convive.agents._limits import Limits
from convive.agents._local import local_available
from convive.agents._mentions import Mentions, mention_rule, parse_mentions
from convive.agents._messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from convive.agents._middleware import Abort, HookContext, HookedCall, Middleware, ReplaceArgs, Skip
from convive.agents._model import Answer, Model, Request, Sampling, TextDelta, ThinkingDelta, ToolSpec, Usage
from convive.agents._models import Choice, Models, choose_model, default_models, split_model
from convive.agents._output import BadOutput
from convive.agents._policies import POLICIES, Policy, addressed_next, round_robin
from convive.agents._prices import Cost, Price, Prices, shipped_prices
from convive.agents._providers import BrokenProvider
from convive.agents._queue import (
    BadCallback,
    NoBus,
    QueuedAlready,
    QueuedRun,
    Queueing,
    RunUpdate,
    find_queued,
    queued,
    queueing_on,
)
from convive.agents._result import AgentResult, Report, RunCancelled, RunFailed, RunUnfinished, unwrap
from convive.agents._resume import (
    AgentChanged,
    AlreadyResumed,
    BadAnswers,
    NotSuspended,
    ResumeRefused,
    Suspension,
    SuspensionExpired,
    UnknownRun,
    accept_answers,
    cancel_run,
    peek,
    pending,
    resume,
)
from convive.agents._resume_many import ResumedRuns, ResumeOutcome, ResumeRequest, resume_many
from convive.agents._run_events import Followed, run_events
from convive.agents._scoped import scoped_tool
from convive.agents._seat import host_seats
from convive.agents._settings import AskContext, Refine, Retry
from convive.agents._stops import has_tool_call, step_count_is
from convive.agents._supervisor import Close, Decision, Grant, Plan, Revoke, Wait, decide, standby, supervise
from convive.agents._tools import Final, ModelRetry, Tool, ToolContext, ToolError, ToolReturn, client_tool, tool
from convive.agents._turn import FirstOf, Participant, Pass, Say, Turn
from convive.agents._verify import RunFate, Verdict, verify
from convive.agents._worker import TryLater, UnknownAgent, WorkersLost, work

__all__ = [
    "POLICIES",
    "Abort",
    "Agent",
    "AgentChanged",
    "AgentResult",
    "AgentSeat",
    "AlreadyResumed",
    "Answer",
    "AnyRunEvent",
    "Approve",
    "AskContext",
    "BadAnswers",
    "BadCallback",
    "BadModelRequest",
    "BadOutput",
    "BrokenProvider",
    "ChildRun",
    "Choice",
    "Close",
    "Cost",
    "Decision",
    "Deny",
    "Edit",
    "EventHandler",
    "EventName",
    "FailoverModel",
    "Final",
    "FirstOf",
    "Followed",
    "FunctionSeat",
    "Grant",
    "HookContext",
    "HookedCall",
    "Interrupt",
    "Limits",
    "Mentions",
    "Message",
    "Middleware",
    "Model",
    "ModelAccessDenied",
    "ModelAnswerBroken",
    "ModelError",
    "ModelOverloaded",
    "ModelRetry",
    "ModelUnreachable",
    "Models",
    "NoBus",
    "NoModelAnswered",
    "NotSuspended",
    "Observers",
    "Participant",
    "Pass",
    "Place",
    "Plan",
    "Policy",
    "Price",
    "Prices",
    "QueuedAlready",
    "QueuedRun",
    "Queueing",
    "Refine",
    "ReplaceArgs",
    "Report",
    "Request",
    "Resolution",
    "Result",
    "ResumeOutcome",
    "ResumeRefused",
    "ResumeRequest",
    "ResumedRuns",
    "Retry",
    "Revoke",
    "RunCancelled",
    "RunFailed",
    "RunFate",
    "RunTaken",
    "RunUnfinished",
    "RunUpdate",
    "Sampling",
    "Say",
    "Skip",
    "Suspension",
    "SuspensionExpired",
    "Text",
    "TextDelta",
    "Thinking",
    "ThinkingDelta",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolResult",
    "ToolReturn",
    "ToolSpec",
    "ToolUse",
    "TryLater",
    "Turn",
    "UnknownAgent",
    "UnknownModel",
    "UnknownRun",
    "Usage",
    "Verdict",
    "Wait",
    "WorkersLost",
    "accept_answers",
    "addressed_next",
    "agent",
    "assistant",
    "cancel_run",
    "choose_model",
    "client_tool",
    "decide",
    "default_models",
    "find_queued",
    "first_seen",
    "handoff",
    "has_tool_call",
    "host_seats",
    "local_available",
    "mention_rule",
    "parse_mentions",
    "peek",
    "pending",
    "prompt",
    "queued",
    "queueing_on",
    "resume",
    "resume_many",
    "round_robin",
    "run_events",
    "run_options",
    "scoped_tool",
    "shipped_prices",
    "split_model",
    "standby",
    "step_count_is",
    "supervise",
    "tool",
    "unwrap",
    "user",
    "verify",
    "work",
]
