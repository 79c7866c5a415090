"""What users need to test agents without a key: scripted models, crashes where they hurt, a local Messages server, a
collector."""

from convive.agents.journal._faults import Crashed, CrashPoint, NotCrashed, crash_after, crash_before
from convive.agents.journal._replay import ReplayModel
from convive.agents.models._fake import Asked, FakeModels, fake_models
from convive.agents.models._messages_server import Interrupted, MessagesServer, Refused, SeenRequest, Streamed, sse
from convive.agents.models._scripted import ScriptedModel, UnexpectedRequest
from convive.agents.otel._otel_receiver import OtlpReceiver, ReceivedPoint, ReceivedSpan, otlp_receiver

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
