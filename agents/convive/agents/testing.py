"""What users need to test agents without a key: models that follow a script, and a local Messages server."""

from convive.agents._messages_server import Interrupted, MessagesServer, Refused, SeenRequest, Streamed, sse
from convive.agents._scripted import ScriptedModel, UnexpectedRequest

__all__ = [
    "Interrupted",
    "MessagesServer",
    "Refused",
    "ScriptedModel",
    "SeenRequest",
    "Streamed",
    "UnexpectedRequest",
    "sse",
]
