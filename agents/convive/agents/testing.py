"""What users need to test agents without a key: scripted models, crashes where they hurt, a local Messages server, a
collector."""

from convive.agents._fake import Asked, FakeModels, fake_models
from convive.agents._faults import Crashed, CrashPoint, NotCrashed, crash_after, crash_before
from convive.agents._messages_server import Interrupted, MessagesServer, Refused, SeenRequest, Streamed, sse
from convive.agents._otel_receiver import OtlpReceiver, ReceivedPoint, ReceivedSpan, otlp_receiver
from convive.agents._replay import ReplayModel
from convive.agents._scripted import ScriptedModel, UnexpectedRequest

__all__ = [
    "Asked",
    "CrashPoint",
    "Crashed",
    "FakeModels",
    "Interrupted",
    "MessagesServer",
    "NotCrashed",
    "OtlpReceiver",
    "ReceivedPoint",
    "ReceivedSpan",
    "Refused",
    "ReplayModel",
    "ScriptedModel",
    "SeenRequest",
    "Streamed",
    "UnexpectedRequest",
    "crash_after",
    "crash_before",
    "fake_models",
    "otlp_receiver",
    "sse",
]
