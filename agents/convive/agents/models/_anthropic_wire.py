"""The Messages API as data: a request becomes JSON, a stream of events becomes deltas and one answer. No I/O.

Source of the protocol: https://platform.claude.com/docs/en/api/messages and .../build-with-claude/streaming.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never, cast

from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents.models._messages import Message, Part, Text, Thinking, ToolResult, ToolUse
from convive.agents.models._model import (
    Answer,
    ArgumentsDelta,
    Delta,
    Request,
    Sampling,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolSpec,
    Usage,
)

# A redacted block is reasoning that only the provider can read. It has to go back as it came, and a signature
# is the field of `Thinking` that only the provider reads.
_REDACTED = "redacted_thinking:"

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_use",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
_BLOCK_KINDS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
_REASONING = frozenset({"thinking", "redacted_thinking"})
_EVENT_KINDS = frozenset({"message_start", "content_block_start", "content_block_delta", "message_delta", "error"})
_DELTA_KINDS = frozenset({"text_delta", "thinking_delta", "signature_delta", "input_json_delta"})


class MalformedEvent(Exception):
    """An event that is not JSON or not of the protocol. The stream it came from cannot be read on."""


class ProviderSaid(Exception):
    """The provider sent an `error` event in place of the rest of the answer."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        self.message = message
        super().__init__(f"{kind}: {message}")


def request_body(request: Request, model: str, provider: str = "anthropic") -> dict[str, JsonValue]:
    """The JSON of a request to `model`, without `stream`, with up to three prompt-cache breakpoints.

    Of the tools' hints, those for `provider` are in it.

    They stand after the tools and the system prompt, after the user message that ended the previous request
    of an append-only history (what the cache holds), and after the last message (what the next one finds).
    Where the last message ends with several texts, the last of them is taken for instructions to this request
    alone, which the history will not keep, and the breakpoint stands before it.
    """
    ids = _CallIds()
    messages = [encoded for message in request.messages if (encoded := _message(message, ids))["content"]]
    tools = [_tool(spec, provider) for spec in request.tools]
    system: list[dict[str, Any]] = []
    if request.system.strip():
        system.append({"type": "text", "text": request.system})
    _mark(system or tools)
    asked = [message["content"] for message in messages if message["role"] == "user"]
    for content in asked[-2:-1]:
        _mark(content)
    for content in asked[-1:]:
        _mark(content[:-1] if [block["type"] for block in content[-2:]] == ["text", "text"] else content)
    body: dict[str, JsonValue] = {
        "model": model,
        "max_tokens": request.sampling.max_tokens,
        "messages": [*messages],
    }
    if system:
        body["system"] = [*system]
    if tools:
        body["tools"] = [*tools]
    return body | _sampling(request.sampling, model)


def _sampling(sampling: Sampling, model: str) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {}
    if sampling.stop:
        body["stop_sequences"] = [*sampling.stop]
    # Since API version 2026-10-21, which the SDK sends, Claude refuses a request that carries any of these,
    # at any value. Other models behind the same protocol take them. None takes a seed: the protocol has no such
    # field, and llama.cpp passes one over.
    if "claude" not in model:
        settings = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {name: value for name, value in settings.items() if value is not None}
    return body


def _tool(spec: ToolSpec, provider: str) -> dict[str, Any]:
    hint = spec.hints.get(provider, {})
    # A tool of the provider's own is known to it by its type, and it refuses a schema beside that.
    native = hint.get("type", "custom") != "custom"
    said = {} if native else {"description": spec.description, "input_schema": spec.input_schema}
    return {"name": spec.name, **said, **hint}


class _CallIds:
    """The ids of a history's calls in the form that the API takes, each once. Those of another model's calls may have
    any form, and come again in its next answer."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._times = Counter[str]()
        self._open: dict[str, deque[str]] = {}

    def of_call(self, given: str) -> str:
        plain = given if _ID.fullmatch(given) else f"call_{_digest(given)}"
        id = plain
        while id in self._used:
            self._times[plain] += 1
            id = f"{plain[:50]}_{self._times[plain] + 1}"
        self._used.add(id)
        self._open.setdefault(given, deque()).append(id)
        return id

    def of_result(self, given: str) -> str:
        """That of the first such call without a result; as it was given where there is none."""
        calls = self._open.get(given)
        return calls.popleft() if calls else given


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _message(message: Message, ids: _CallIds) -> dict[str, Any]:
    # The API wants the results of tools before anything else that the user says.
    parts = sorted(message.parts, key=lambda part: not isinstance(part, ToolResult))
    content = [block for part in parts if (block := _block(part, ids))]
    # Nor does it take an answer that ends in reasoning, as one does that was cut short there.
    while content and content[-1]["type"] in _REASONING:
        content.pop()
    return {"role": message.role, "content": content}


def _block(part: Part, ids: _CallIds) -> dict[str, Any] | None:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text} if text.strip() else None  # the API refuses empty text
        case Thinking(signature=signature) if signature.startswith(_REDACTED):
            return {"type": "redacted_thinking", "data": signature.removeprefix(_REDACTED)}
        case Thinking(thinking=thinking, signature=signature):
            # Unsigned reasoning comes from another provider; this one refuses what it did not sign.
            return {"type": "thinking", "thinking": thinking, "signature": signature} if signature else None
        case ToolUse(id=call_id, name=name, arguments=arguments):
            # The API takes objects only. What was no object goes back under a name that says so.
            value = arguments if isinstance(arguments, dict) else {"unreadable_arguments": arguments}
            named = _NO_NAME.sub("_", name)[:128] or "unnamed"
            return {"type": "tool_use", "id": ids.of_call(call_id), "name": named, "input": value}
        case ToolResult(tool_use_id=call_id, content=content, is_error=is_error):
            told_to = ids.of_result(call_id)
            return {"type": "tool_result", "tool_use_id": told_to, "content": content, "is_error": is_error}
        case _:
            assert_never(part)


def _mark(blocks: Iterable[dict[str, Any]]) -> None:
    cacheable = [block for block in blocks if block.get("type") not in _REASONING]
    if cacheable:
        cacheable[-1]["cache_control"] = {"type": "ephemeral"}


@dataclass(slots=True)
class _Block:
    kind: str
    id: str = ""
    name: str = ""
    call: int = 0
    given: Any = None
    signature: str = ""
    pieces: list[str] = field(default_factory=list[str])

    def part(self, cut_short: bool) -> Part | None:
        """The finished part, or None for one that is empty or of a kind that we did not ask for."""
        streamed = "".join(self.pieces)
        match self.kind:
            case "text":
                return Text(text=streamed) if streamed else None
            case "thinking":
                return Thinking(thinking=streamed, signature=self.signature)
            case "redacted_thinking":
                return Thinking(thinking="", signature=_REDACTED + self.signature)
            case "tool_use":
                # A call without arguments streams none; one that the limit cut off may not have begun to.
                arguments = _arguments(streamed) if streamed or cut_short else self.given
                return ToolUse(id=self.id, name=self.name, arguments=arguments)
            case _:
                return None


def _arguments(streamed: str) -> JsonValue:
    try:
        value: JsonValue = from_json(streamed, allow_inf_nan=False)
        json.loads(streamed, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return streamed  # as it came: the run tells the model that this is no JSON
    return value


def _once(pairs: list[tuple[str, object]]) -> None:
    """Raises ValueError for a name that comes twice: which of the two is meant, nobody knows."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name comes twice")


class AnswerFold:
    """Folds the events of one stream. Push each event's data; the last push gives the Answer."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._usage = Usage()
        self._stop_reason: str | None = None
        self._model = ""

    def push(self, data: str) -> Delta | Answer | None:
        """What this event adds to the answer: a delta, nothing, or (`message_stop`) the whole Answer.

        Unknown kinds of events, blocks and deltas are passed over, as the API's versioning policy asks.
        Raises MalformedEvent, and ProviderSaid for an `error` event.
        """
        try:
            event: Any = from_json(data)
        except ValueError as error:
            raise MalformedEvent(f"an event is not JSON: {data[:80]!r}") from error
        match event:
            case {"type": "message_start", "message": {"model": str(model), **rest}}:
                self._model = model
                self._count(rest.get("usage"))
            case {"type": "content_block_start", "index": int(index), "content_block": {**block}}:
                return self._start(index, block)
            case {"type": "content_block_delta", "index": int(index), "delta": {"type": str(kind), **delta}}:
                return self._extend(index, kind, delta)
            case {"type": "message_delta", "delta": {**delta}, **rest}:
                reason = delta.get("stop_reason")
                self._stop_reason = reason if isinstance(reason, str) else self._stop_reason
                self._count(rest.get("usage"))
            case {"type": "message_stop"}:
                return self._answer()
            case {"type": "error", "error": {"type": str(kind), **rest}}:
                raise ProviderSaid(kind, str(rest.get("message", "")))
            case {"type": str(kind)} if kind not in _EVENT_KINDS:
                return None
            case _:
                raise MalformedEvent(f"an event is not of the Messages protocol: {data[:80]!r}")
        return None

    def _start(self, index: int, block: Mapping[Any, Any]) -> Delta | None:
        kind = str(block.get("type"))
        started = _Block(kind)
        self._blocks[index] = started
        match block:
            case {"type": "text", "text": str(text)}:
                started.pieces = [text]
                return TextDelta(text) if text else None
            case {"type": "thinking", "thinking": str(text), **rest}:
                started.pieces = [text]
                started.signature = str(rest.get("signature") or "")
                return ThinkingDelta(text) if text else None
            case {"type": "redacted_thinking", "data": str(data)}:
                started.signature = data
            case {"type": "tool_use", "id": str(call_id), "name": str(name), **rest}:
                started.id, started.name, started.given = call_id, name, rest.get("input") or {}
                started.call = sum(1 for one in self._blocks.values() if one.kind == "tool_use") - 1
                return ArgumentsDelta(started.call, call_id, name, "")
            case _ if kind not in _BLOCK_KINDS:
                return None
            case _:
                raise MalformedEvent(f"a {kind} block starts without what it needs")
        return None

    def _extend(self, index: int, kind: str, delta: Mapping[Any, Any]) -> Delta | None:
        block = self._blocks.get(index)
        if block is None:
            raise MalformedEvent(f"a delta for block {index}, which never started")
        match kind, delta:
            case "text_delta", {"text": str(text)}:
                block.pieces.append(text)
                return TextDelta(text) if text else None
            case "thinking_delta", {"thinking": str(text)}:
                block.pieces.append(text)
                return ThinkingDelta(text) if text else None
            case "signature_delta", {"signature": str(signature)}:
                block.signature += signature
            case "input_json_delta", {"partial_json": str(text)}:
                block.pieces.append(text)
                known = text and block.kind == "tool_use"
                return ArgumentsDelta(block.call, block.id, block.name, text) if known else None
            case _ if kind not in _DELTA_KINDS:
                return None
            case _:
                raise MalformedEvent(f"a {kind} without its text")
        return None

    def _count(self, usage: Any) -> None:
        # Counts are totals so far, not increments; what an event leaves out stands as it was.
        counts = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
        known = {ours: counts.get(theirs) for theirs, ours in _COUNTS.items()}
        found = {name: count for name, count in known.items() if isinstance(count, int)}
        self._usage = self._usage.model_copy(update=found)

    def _answer(self) -> Answer:
        stop_reason = _STOP_REASONS.get(self._stop_reason or "", "other")
        last = max(self._blocks, default=None)
        cut = last if stop_reason == "length" else None
        parts = [block.part(cut_short=index == cut) for index, block in self._blocks.items()]
        return Answer(
            parts=tuple(part for part in parts if part is not None),
            stop_reason=stop_reason,
            usage=self._usage,
            model=self._model,
        )
