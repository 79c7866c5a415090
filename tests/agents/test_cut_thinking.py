"""An answer that was cut while the model was thinking, as a part of the history."""

import pytest

from convive.agents.models._anthropic_wire import request_body
from convive.agents.models._messages import Message, Part, Text, Thinking, ToolUse, user
from convive.agents.models._model import Request

THOUGHT = Thinking(thinking="hm", signature="s")
REDACTED = Thinking(thinking="", signature="redacted_thinking:x")
SPOKEN = Text(text="So:")
CALL = ToolUse(id="1", name="look", arguments={})


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ((THOUGHT,), None),
        ((THOUGHT, REDACTED, Text(text=" ")), None),
        ((THOUGHT, SPOKEN, THOUGHT), ["thinking", "text"]),
        ((THOUGHT, SPOKEN), ["thinking", "text"]),
        ((THOUGHT, CALL), ["thinking", "tool_use"]),
    ],
)
def test_an_answer_does_not_end_with_thinking(parts: tuple[Part, ...], kinds: list[str] | None) -> None:
    """Conformance test 24: the API refuses a history in which an answer's last block is thinking."""
    history = (user("x"), Message(role="assistant", parts=parts), user("Go on."))
    messages = request_body(Request("", history), "claude")["messages"]
    assert isinstance(messages, list)
    answers = [
        message["content"] for message in messages if isinstance(message, dict) if message["role"] == "assistant"
    ]
    found = [
        [block["type"] for block in content if isinstance(block, dict)]
        for content in answers
        if isinstance(content, list)
    ]
    assert found == ([] if kinds is None else [kinds])
