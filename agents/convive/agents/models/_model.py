"""The model protocol: a request goes in, deltas come out, and one answer ends them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue

from convive.agents.models._messages import Message, Part, text_of

StopReason = Literal["end", "stop_sequence", "tool_use", "length", "refusal", "other"]


class Usage(BaseModel):
    """Tokens of one answer or of many. `input_tokens` leaves out what was read from or written to a prompt cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """All tokens, cached or not."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


Hints = Mapping[str, Mapping[str, JsonValue]]
"""By the provider in the name of a model, such as `anthropic`: fields of a tool in the requests to it."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it; `input_schema` is a JSON Schema of type object.

    `hints`: by provider, what its API is told of this tool beyond that. A provider passes over those of others.
    """

    name: str
    description: str
    input_schema: dict[str, JsonValue]
    hints: Hints = field(default_factory=dict[str, Mapping[str, JsonValue]])


class Sampling(BaseModel):
    """How to sample. None leaves a setting to the provider; a provider ignores what it cannot do."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One trip to a model. `messages` starts with the user, and ends with the user, or with words of the assistant that
    the answer is to continue (not every model can)."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    output_schema: Mapping[str, JsonValue] | None = None
    """What the final answer has to fit: set for a model whose `structured_output` is True, see `holds_to_schema`."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More prose."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the arguments of a tool call, in JSON that is whole only when the answer is. The first of a call may be
    empty, and says that it is being made. `index`: which call of the answer, from 0; deltas of several may alternate.
    """

    index: int
    call_id: str
    name: str
    text: str


Delta = TextDelta | ThinkingDelta | ArgumentsDelta


class Answer(BaseModel):
    """A model's whole answer; the last item of its stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    parts: tuple[Part, ...]
    stop_reason: StopReason
    usage: Usage = Usage()
    model: str = ""
    """What the provider says answered, which may be more exact than what was asked for."""

    @property
    def text(self) -> str:
        """The prose of the answer."""
        return text_of(self.parts)


class Model(Protocol):
    """A language model, named `provider/model`."""

    @property
    def name(self) -> str: ...

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Delta | Answer]]:
        """Ask. The iterator yields deltas and ends with exactly one Answer.

        Leaving the context early aborts the request. Raises a ModelError; retries that need no
        judgement (a refused connection, 429, 529) were made before it is raised.
        """
        ...


def holds_to_schema(model: Model) -> bool:
    """Whether the provider itself holds an answer to `Request.output_schema`.

    A model says so by an attribute `structured_output` that is True; one without it is told by instruction.
    """
    return getattr(model, "structured_output", False) is True
