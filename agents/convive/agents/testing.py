"""What users need to test agents without a key: models that follow a script, and a local Messages server."""

from convive.agents._fake import Asked, FakeModels, fake_models
from convive.agents._messages_server import Interrupted, MessagesServer, Refused, SeenRequest, Streamed, sse
from convive.agents._replay import ReplayModel
from convive.agents._scripted import ScriptedModel, UnexpectedRequest

__all__ = [
    "Asked",
    "FakeModels",
    "Interrupted",
    "MessagesServer",
    "Refused",
    "ReplayModel",
    "ScriptedModel",
    "SeenRequest",
    "Streamed",
    "UnexpectedRequest",
    "fake_models",
    "sse",
]
