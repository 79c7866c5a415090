"""A history whose calls come from other models: Claude's API takes names and ids of its own form only, each id once."""

import re
from typing import Any

from convive.agents.models._anthropic_wire import request_body
from convive.agents.models._messages import Message, Text, ToolResult, ToolUse, user
from convive.agents.models._model import Request


def sent(*messages: Message) -> list[dict[str, Any]]:
    body: Any = request_body(Request("", (user("x"), *messages)), "claude-test")
    return [block for message in body["messages"] for block in message["content"]]


def called(*ids: str, name: str = "look") -> Message:
    return Message(role="assistant", parts=tuple(ToolUse(id=id, name=name, arguments={}) for id in ids))


def heard(*ids: str) -> Message:
    results = (ToolResult(tool_use_id=id, content=f"result {n}") for n, id in enumerate(ids))
    return Message(role="user", parts=(*results, Text(text="Go on.")))


def pairs(blocks: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return calls, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


def test_ids_of_another_form_are_given_one_that_is_taken_and_stay_together() -> None:
    ids = ("functions.look:0", "functions look:0", "", "ä" * 300, "toolu_1")
    calls, results = pairs(sent(called(*ids), heard(*ids)))
    assert calls == results
    assert len(set(calls)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in calls)
    assert calls[-1] == "toolu_1"


def test_an_id_that_comes_again_is_told_from_the_one_before() -> None:
    """Some servers count the calls of each answer from nought."""
    calls, results = pairs(sent(called("0", "0"), heard("0", "0"), called("0"), heard("0")))
    assert calls == results
    assert len(set(calls)) == 3
    again, _ = pairs(sent(called("0", "0"), heard("0", "0")))
    assert again == calls[:2]  # the same in every request, or no cache finds it


def test_a_name_that_no_tool_can_have_goes_back_in_letters() -> None:
    """As a small model makes one up; it was told that there is no such tool."""
    blocks = sent(
        called("1", name="get weather!"), heard("1"), called("2", name=""), heard("2"), called("3"), heard("3")
    )
    assert [block["name"] for block in blocks if block["type"] == "tool_use"] == ["get_weather_", "unnamed", "look"]
