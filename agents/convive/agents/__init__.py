"""Agents: models, tools, the run loop, and the supervisor and seats that bring them to a conversation."""

from convive.agents._agent import (
    Agent,
    agent,
    prompt,
)
from convive.agents._agent_seat import (
    AgentSeat,
    FunctionSeat,
    first_seen,
    run_in_turn,
    run_options,
)
from convive.agents._audience import (
    EventHandler,
    Observers,
)
from convive.agents._chain import (
    RunTaken,
)
from convive.agents._channel_follower import (
    follow_channel,
)
from convive.agents._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents._events import (
    AnyRunEvent,
    EventName,
)
from convive.agents._failover import (
    FailoverModel,
    NoModelAnswered,
)
from convive.agents._fold import (
    RunState,
)
from convive.agents._handoff import (
    handoff,
)
from convive.agents._interrupts import (
    Approve,
    Deny,
    Edit,
    Interrupt,
    Resolution,
    Result,
)
from convive.agents._journal import (
    ChildRun,
    Place,
)
from convive.agents._limits import (
    Limits,
)
from convive.agents._local import (
    local_available,
)
from convive.agents._mentions import (
    Mentions,
    mention_rule,
    parse_mentions,
)
from convive.agents._messages import (
    Message,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    assistant,
    user,
)
from convive.agents._middleware import (
    Abort,
    HookContext,
    HookedCall,
    Middleware,
    ReplaceArgs,
    Skip,
)
from convive.agents._model import (
    Answer,
    Hints,
    Model,
    Request,
    Sampling,
    TextDelta,
    ThinkingDelta,
    ToolSpec,
    Usage,
)
from convive.agents._models import (
    Choice,
    Models,
    choose_model,
    default_models,
    split_model,
)
from convive.agents._output import (
    BadOutput,
)
from convive.agents._policies import (
    POLICIES,
    Policy,
    addressed_next,
    round_robin,
)
from convive.agents._prices import (
    Cost,
    Price,
    Prices,
    UnknownPrice,
    shipped_prices,
)
from convive.agents._providers import (
    BrokenProvider,
)
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
from convive.agents._redrive import (
    Deviation,
    Redriven,
    first_model,
    redrive,
)
from convive.agents._refusals import (
    AgentChanged,
    AlreadyResumed,
    BadAnswers,
    NotSuspended,
    ResumeRefused,
    SuspensionExpired,
    TurnOver,
    UnknownRun,
)
from convive.agents._result import (
    AgentResult,
    Report,
    RunCancelled,
    RunFailed,
    RunUnfinished,
    unwrap,
)
from convive.agents._resume import (
    GoesOn,
    accept_answers,
    answer,
    cancel_run,
    go_on,
    resume,
)
from convive.agents._resume_many import (
    ResumedRuns,
    ResumeOutcome,
    ResumeRequest,
    resume_many,
)
from convive.agents._run_events import (
    Followed,
    run_events,
)
from convive.agents._schema import (
    BadTool,
)
from convive.agents._schema_tool import (
    schema_tool,
)
from convive.agents._scoped import (
    scoped_tool,
)
from convive.agents._seat import (
    host_seats,
)
from convive.agents._settings import (
    AskContext,
    Refine,
    Retry,
)
from convive.agents._stops import (
    StopCondition,
    has_tool_call,
    has_tool_result,
    step_count_is,
)
from convive.agents._stream import (
    RunStream,
)
from convive.agents._supervisor import (
    Close,
    Decision,
    Grant,
    Pause,
    Plan,
    Revoke,
    Wait,
    decide,
    standby,
    supervise,
)
from convive.agents._tools import (
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
from convive.agents._trace import (
    Node,
    Trace,
)
from convive.agents._trace_reading import (
    TracePlace,
    find_trace,
    follow_trace,
    journals,
    read_trace,
)
from convive.agents._turn import (
    FirstOf,
    Participant,
    Pass,
    Say,
    Turn,
)
from convive.agents._verify import RunFate, Verdict, verify
from convive.agents._waiting import (
    Suspension,
    Where,
    peek,
    pending,
    until_answered,
)
from convive.agents._worker import (
    TryLater,
    UnknownAgent,
    WorkersLost,
    work,
)

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
    "journals",
    "local_available",
    "mention_rule",
    "parse_mentions",
    "peek",
    "pending",
    "prompt",
    "queued",
    "queueing_on",
    "read_trace",
    "redrive",
    "resume",
    "resume_many",
    "round_robin",
    "run_events",
    "run_in_turn",
    "run_options",
    "schema_tool",
    "scoped_tool",
    "shipped_prices",
    "split_model",
    "standby",
    "step_count_is",
    "supervise",
    "tool",
    "until_answered",
    "unwrap",
    "user",
    "verify",
    "work",
]
