"""Agents: models, tools, the run loop, and the supervisor and seats that bring them to a conversation."""

from convive.agents.answers._resume import GoesOn, accept_answers, answer, cancel_run, go_on, resume
from convive.agents.answers._resume_many import ResumedRuns, ResumeOutcome, ResumeRequest, resume_many
from convive.agents.journal._chain import RunTaken
from convive.agents.journal._fold import RunState
from convive.agents.journal._interrupts import Approve, Deny, Edit, Interrupt, LeadingCall, Resolution, Result
from convive.agents.journal._journal import ChildRun, Place
from convive.agents.journal._refusals import (
    AgentChanged,
    AlreadyResumed,
    BadAnswers,
    NotSuspended,
    ResumeRefused,
    SuspensionExpired,
    TurnOver,
    UnknownRun,
)
from convive.agents.journal._verify_journals import RunFate
from convive.agents.journal._waiting import Suspension, Where, peek, pending, suspension_json, until_answered
from convive.agents.models._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents.models._failover import FailoverModel, NoModelAnswered
from convive.agents.models._local import local_available
from convive.agents.models._messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from convive.agents.models._model import (
    Answer,
    ArgumentsDelta,
    Hints,
    Model,
    Request,
    Sampling,
    TextDelta,
    ThinkingDelta,
    ToolSpec,
    Usage,
)
from convive.agents.models._models import Choice, Models, choose_model, default_models, set_default_model, split_model
from convive.agents.models._providers import BrokenProvider, register_provider
from convive.agents.models._schema import BadTool
from convive.agents.otel._exporting import Exported, Exporting, NotExported, export_trace, exporting
from convive.agents.otel._otel_settings import BadCollector
from convive.agents.queues._channel_follower import follow_channel
from convive.agents.queues._queue import (
    BadCallback,
    NoBus,
    QueuedAlready,
    QueuedRun,
    Queueing,
    RunUpdate,
    find_queued,
    place_of,
    queued,
    queueing_on,
)
from convive.agents.queues._worker import TryLater, UnknownAgent, WorkersLost, work
from convive.agents.runs._agent import Agent, agent, prompt
from convive.agents.runs._audience import EventHandler, Observers
from convive.agents.runs._events import AnyRunEvent, EventName
from convive.agents.runs._handoff import handoff
from convive.agents.runs._incoming import join_trace
from convive.agents.runs._limits import Limits
from convive.agents.runs._mentions import Mentions, mention_rule, parse_mentions
from convive.agents.runs._middleware import Abort, HookContext, HookedCall, Middleware, ReplaceArgs, Skip
from convive.agents.runs._prices import Cost, Price, Prices, UnknownPrice, shipped_prices
from convive.agents.runs._result import AgentResult, Report, RunCancelled, RunFailed, RunUnfinished, unwrap
from convive.agents.runs._run_events import Followed, run_events
from convive.agents.runs._settings import AskContext, Refine, Retry
from convive.agents.runs._stops import StopCondition, has_tool_call, has_tool_result, step_count_is
from convive.agents.runs._stream import RunStream
from convive.agents.seats._agent_seat import AgentSeat, FunctionSeat, first_seen, run_in_turn, run_options
from convive.agents.seats._doubles import STANDBY_S
from convive.agents.seats._policies import POLICIES, Policy, addressed_next, round_robin
from convive.agents.seats._redrive import Deviation, Redriven, first_model, redrive
from convive.agents.seats._seat import host_seats
from convive.agents.seats._supervisor import (
    Close,
    Decision,
    Grant,
    Pause,
    Plan,
    Revoke,
    Wait,
    decide,
    overdue_s,
    standby,
    supervise,
)
from convive.agents.seats._turn import FirstOf, Participant, Pass, Say, Turn
from convive.agents.seats._verify import Verdict, verify
from convive.agents.tools._output import BadOutput
from convive.agents.tools._schema_tool import schema_tool
from convive.agents.tools._scoped import scoped_tool
from convive.agents.tools._tools import (
    Final,
    ModelRetry,
    NeedsAnswer,
    Tool,
    ToolContext,
    ToolError,
    ToolReturn,
    client_tool,
    tool,
)
from convive.agents.traces._node import Node
from convive.agents.traces._trace import Trace
from convive.agents.traces._trace_json import node_json
from convive.agents.traces._trace_reading import TracePlace, find_trace, follow_trace, journals, read_trace

__all__ = [
    "POLICIES",
    "STANDBY_S",
    "Abort",
    "Agent",
    "AgentChanged",
    "AgentResult",
    "AgentSeat",
    "AlreadyResumed",
    "Answer",
    "AnyRunEvent",
    "Approve",
    "ArgumentsDelta",
    "AskContext",
    "BadAnswers",
    "BadCallback",
    "BadCollector",
    "BadModelRequest",
    "BadOutput",
    "BadTool",
    "BrokenProvider",
    "ChildRun",
    "Choice",
    "Close",
    "Cost",
    "Decision",
    "Deny",
    "Deviation",
    "Edit",
    "EventHandler",
    "EventName",
    "Exported",
    "Exporting",
    "FailoverModel",
    "Final",
    "FirstOf",
    "Followed",
    "FunctionSeat",
    "GoesOn",
    "Grant",
    "Hints",
    "HookContext",
    "HookedCall",
    "Interrupt",
    "LeadingCall",
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
    "NeedsAnswer",
    "NoBus",
    "NoModelAnswered",
    "Node",
    "NotExported",
    "NotSuspended",
    "Observers",
    "Participant",
    "Pass",
    "Pause",
    "Place",
    "Plan",
    "Policy",
    "Price",
    "Prices",
    "QueuedAlready",
    "QueuedRun",
    "Queueing",
    "Redriven",
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
    "RunState",
    "RunStream",
    "RunTaken",
    "RunUnfinished",
    "RunUpdate",
    "Sampling",
    "Say",
    "Skip",
    "StopCondition",
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
    "Trace",
    "TracePlace",
    "TryLater",
    "Turn",
    "TurnOver",
    "UnknownAgent",
    "UnknownModel",
    "UnknownPrice",
    "UnknownRun",
    "Usage",
    "Verdict",
    "Wait",
    "Where",
    "WorkersLost",
    "accept_answers",
    "addressed_next",
    "agent",
    "answer",
    "assistant",
    "cancel_run",
    "choose_model",
    "client_tool",
    "decide",
    "default_models",
    "export_trace",
    "exporting",
    "find_queued",
    "find_trace",
    "first_model",
    "first_seen",
    "follow_channel",
    "follow_trace",
    "go_on",
    "handoff",
    "has_tool_call",
    "has_tool_result",
    "host_seats",
    "join_trace",
    "journals",
    "local_available",
    "mention_rule",
    "node_json",
    "overdue_s",
    "parse_mentions",
    "peek",
    "pending",
    "place_of",
    "prompt",
    "queued",
    "queueing_on",
    "read_trace",
    "redrive",
    "register_provider",
    "resume",
    "resume_many",
    "round_robin",
    "run_events",
    "run_in_turn",
    "run_options",
    "schema_tool",
    "scoped_tool",
    "set_default_model",
    "shipped_prices",
    "split_model",
    "standby",
    "step_count_is",
    "supervise",
    "suspension_json",
    "tool",
    "until_answered",
    "unwrap",
    "user",
    "verify",
    "work",
]
