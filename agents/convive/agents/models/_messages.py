"""Messages between a run and a model, in the shape that the journal keeps and every provider is translated from."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Part):
    """Prose."""

    type: Literal["text"] = "text"
    text: str


class Thinking(_Part):
    """A model's reasoning. Kept in the history because providers ask for it back, never shown as speech."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUse(_Part):
    """A model asks for a tool. `arguments` is what it sent, before validation."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    arguments: JsonValue


class ToolResult(_Part):
    """What a tool gave back, as the model reads it."""

    type: Literal["tool_result"] = "tool_result"
    tool_use_id: str
    content: str
    is_error: bool = False


Part = Annotated[Text | Thinking | ToolUse | ToolResult, Field(discriminator="type")]


class Message(BaseModel):
    """One message of a history."""

    __slots__ = ("__weakref__", "_known")  # for `_digest`, of this very object: a slot is no part of a copy
    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The prose of the message, its text parts joined."""
        return text_of(self.parts)


def user(text: str) -> Message:
    """A message from the user's side."""
    return Message(role="user", parts=(Text(text=text),))


def assistant(text: str) -> Message:
    """A message from the model's side."""
    return Message(role="assistant", parts=(Text(text=text),))


def text_of(parts: Iterable[Part]) -> str:
    """The text parts, joined."""
    return "".join(part.text for part in parts if isinstance(part, Text))
