"""What was asked, said and answered, as attributes of spans: only for those who ask for it."""

import json
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import assert_never

from pydantic import JsonValue

from convive.agents.journal._journal import ModelAnswered, RunFinished, RunStarted, ToolReturned
from convive.agents.models._messages import Message, Part, Text, Thinking, ToolResult, ToolUse, user
from convive.agents.models._schema import json_of
from convive.agents.otel import _otel_names as names
from convive.agents.traces._node import Node

MAX_CONTENT = 32_768
"""Characters of one text."""

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ASKED = {"true", "1", "span_only", "span_and_event"}


def wants_content(environ: Mapping[str, str]) -> bool:
    """Whether content is asked for in spans. It is not sent as events."""
    return environ.get(VARIABLE, "").strip().lower() in _ASKED


def content_of(node: Node) -> dict[str, str]:
    """The words of a node that is over, as attributes. Needs a trace that keeps events; what it lacks is left out."""
    match node.kind:
        case "conversation":
            found = {names.OI_INPUT: node.detail}
        case "turn":
            found = {names.OI_OUTPUT: node.detail}
        case "run":
            found = _run(node)
        case "trip":
            found = _trip(node)
        case "tool":
            found = _tool(node)
    whole = (names.INPUT_MESSAGES, names.OUTPUT_MESSAGES)
    return {name: text if name in whole else _cut(text) for name, text in found.items() if text}


def _run(node: Node) -> dict[str, str]:
    started = next((event for event in node.events if isinstance(event, RunStarted)), None)
    heard = [] if started is None or started.input is None else [user(started.input)]
    said = next((event.text for event in node.events if isinstance(event, RunFinished)), "")
    spoken = [Message(role="assistant", parts=(Text(text=said),))] if said else []
    return _messages(heard, spoken)


def _trip(node: Node) -> dict[str, str]:
    """The answer, and what the model had not been told before it: all else stands with the trips before."""
    above = node.parent
    answer = next((event for event in node.events if isinstance(event, ModelAnswered)), None)
    heard: list[Message] = []
    trip = int(node.part.partition("/")[2] or 0)
    if above is not None and trip == 0:
        heard = [user(each.input) for each in above.events if isinstance(each, RunStarted) and each.input is not None]
    elif above is not None:
        calls = list(takewhile(lambda each: each.part != f"llm/{trip - 1}", node.before()))[::-1]
        tools = [call for call in calls if call.part.startswith(f"tool/{trip - 1}/")]
        results = [_result(each) for tool in tools for each in tool.events if isinstance(each, ToolReturned)]
        heard = [Message(role="user", parts=tuple(results))] if results else []
    said = [] if answer is None else [Message(role="assistant", parts=answer.parts)]
    return _messages(heard, said, "" if answer is None else answer.stop_reason)


def _tool(node: Node) -> dict[str, str]:
    returned = next((event for event in node.events if isinstance(event, ToolReturned)), None)
    result = "" if returned is None else returned.content
    return {
        names.TOOL_ARGUMENTS: node.detail,
        names.OI_INPUT: node.detail,
        names.TOOL_RESULT: result,
        names.OI_OUTPUT: result,
    }


def _result(event: ToolReturned) -> ToolResult:
    return ToolResult(tool_use_id=event.call_id, content=event.content, is_error=event.is_error)


def _messages(heard: Iterable[Message], said: Iterable[Message], reason: str = "") -> dict[str, str]:
    inputs = [_shown(message) for message in heard]
    outputs = [{**_shown(message), **({"finish_reason": reason} if reason else {})} for message in said]
    return {
        names.INPUT_MESSAGES: json.dumps(inputs) if inputs else "",
        names.OUTPUT_MESSAGES: json.dumps(outputs) if outputs else "",
        names.OI_INPUT: "\n".join(message.text for message in heard),
        names.OI_OUTPUT: "\n".join(message.text for message in said),
    }


def _shown(message: Message) -> dict[str, JsonValue]:
    """A message in the shape of the GenAI conventions. Each text in it is cut, so that the JSON stays whole."""
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> JsonValue:
    match part:
        case Text():
            return {"type": "text", "content": _cut(part.text)}
        case Thinking():
            return {"type": "reasoning", "content": _cut(part.thinking)}
        case ToolUse():
            text = json_of(part.arguments)
            given = part.arguments if len(text) <= MAX_CONTENT else _cut(text)
            return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": given}
        case ToolResult():
            return {"type": "tool_call_response", "id": part.tool_use_id, "response": _cut(part.content)}
        case _:
            assert_never(part)


def _cut(text: str) -> str:
    text = text if len(text) <= MAX_CONTENT else f"{text[: MAX_CONTENT - 1]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
