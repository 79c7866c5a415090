"""The Anthropic provider against a local server that speaks the Messages streaming protocol."""

import gc
import json
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._anthropic_wire import request_body
from convive.agents.models._messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from convive.agents.models._messages_server import Interrupted, MessagesServer, Streamed, sse
from convive.agents.models._model import (
    Answer,
    ArgumentsDelta,
    Request,
    Sampling,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolSpec,
    Usage,
)
from tests.agents.provider import HELLO, KEY, LINE, ask, at_the_table, run_python

pytestmark = pytest.mark.anyio


async def test_text_streams_in_deltas_and_ends_with_one_answer() -> None:
    usage = Usage(input_tokens=3, output_tokens=11, cache_read_tokens=200, cache_write_tokens=40)
    async with at_the_table([Streamed(LINE.content, usage=usage)]) as (model, _):
        deltas, answer = await ask(model)
    assert len(deltas) > 3
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == LINE.content
    assert answer == Answer(parts=(Text(text=str(LINE.content)),), stop_reason="end", usage=usage, model="claude-test")


async def test_a_delta_is_there_before_the_rest_of_the_answer() -> None:
    async with (
        at_the_table([Interrupted(LINE, 4, "hang")]) as (model, server),
        model.stream(HELLO) as stream,
    ):
        assert await anext(stream) == TextDelta("I carry ")
        server.release()
        *_, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    assert answer.text == LINE.content


async def test_thinking_streams_and_goes_back_signed() -> None:
    thinking = Thinking(thinking="Who sits next to me?", signature="c2lnbmVk")
    async with at_the_table([Streamed((thinking, Text(text="Good evening, Plato."))), "Yes."]) as (model, server):
        deltas, answer = await ask(model)
        again = Request(
            "", (user("Hi."), Message(role="assistant", parts=answer.parts), user("Is it?")), (), Sampling()
        )
        await ask(model, again)
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingDelta)) == "Who sits next to me?"
    assert answer.parts == (thinking, Text(text="Good evening, Plato."))
    assert server.requests[1].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Who sits next to me?", "signature": "c2lnbmVk"},
        {"type": "text", "text": "Good evening, Plato."},
    ]


async def test_calls_of_tools_are_put_together_from_their_pieces() -> None:
    calls = (
        Text(text="Let me look."),
        ToolUse(id="toolu_1", name="cellar", arguments={"year": 1911, "cru": ["Léoville", None]}),
        ToolUse(id="toolu_2", name="now", arguments={}),
    )
    async with at_the_table([Streamed(calls)]) as (model, _):
        deltas, answer = await ask(model)
    assert answer.parts == calls
    assert answer.stop_reason == "tool_use"
    written = [delta for delta in deltas if isinstance(delta, ArgumentsDelta)]
    for index, call in enumerate(calls[1:]):
        assert isinstance(call, ToolUse)
        own = [delta for delta in written if delta.index == index]
        assert own[0] == ArgumentsDelta(index, call.id, call.name, "")
        assert json.loads("".join(delta.text for delta in own)) == call.arguments
    assert len(written) > 6


async def test_arguments_that_are_no_json_are_kept_as_they_came() -> None:
    broken = ToolUse(id="toolu_1", name="cellar", arguments='{"year": 19')
    async with at_the_table([Streamed((broken,)), "Yes."]) as (model, server):
        _, answer = await ask(model)
        history = (user("Wine?"), Message(role="assistant", parts=answer.parts))
        result = ToolResult(tool_use_id="toolu_1", content="not JSON", is_error=True)
        await ask(model, Request("", (*history, Message(role="user", parts=(result,)))))
    assert answer.parts == (broken,)
    call = server.requests[1].body["messages"][1]["content"][0]
    assert call["input"] == {"unreadable_arguments": '{"year": 19'}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "stop_sequence"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
        ("pause_turn", "other"),
        ("a_reason_of_next_year", "other"),
    ],
)
async def test_stop_reasons_are_translated(theirs: str, ours: StopReason) -> None:
    async with at_the_table([Streamed("Well", stop_reason=theirs)]) as (model, _):
        _, answer = await ask(model)
    assert answer.stop_reason == ours


async def test_the_request_is_the_json_that_the_api_wants() -> None:
    tool = ToolSpec("cellar", "Look for a wine.", {"type": "object", "properties": {"year": {"type": "integer"}}})
    history = (
        user("Is there wine?"),
        Message(role="assistant", parts=(ToolUse(id="toolu_1", name="cellar", arguments={"year": 1911}),)),
        Message(role="user", parts=(Text(text="Go on."), ToolResult(tool_use_id="toolu_1", content="2 bottles"))),
    )
    sampling = Sampling(max_tokens=77, temperature=0.5, top_p=0.9, seed=1, stop=("\n",))
    async with at_the_table(["Two."]) as (model, server):
        await ask(model, Request("You keep the cellar.", history, (tool,), sampling))
    asked = server.requests[0]
    assert asked.body == {
        "model": "claude-test",
        "max_tokens": 77,
        "stream": True,
        "stop_sequences": ["\n"],  # and no temperature, top_p or seed: Claude refuses requests with them
        "system": [{"type": "text", "text": "You keep the cellar.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Is there wine?", "cache_control": {"type": "ephemeral"}}],
            },
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "cellar", "input": {"year": 1911}}],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": "2 bottles",
                        "is_error": False,
                    },
                    {"type": "text", "text": "Go on.", "cache_control": {"type": "ephemeral"}},
                ],
            },
        ],
    }
    assert asked.headers["authorization"] == f"Bearer {KEY}"


async def test_other_models_get_their_sampling_their_own_name_and_extra_fields() -> None:
    async with MessagesServer(["Yes."]) as server:
        model = AnthropicModel(
            "local/smollm2",
            model="smollm2.gguf",
            base_url=server.url,
            api_key="local",
            extra_body={"top_k": 40, "max_tokens": 9},
        )
        await ask(model, Request("", (user("Hi."), assistant("Well")), (), Sampling(temperature=0.5, top_p=0.9)))
        await model.aclose()
    assert model.name == "local/smollm2"
    body = server.requests[0].body
    assert body.pop("messages")[-1] == {"role": "assistant", "content": [{"type": "text", "text": "Well"}]}
    expected = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40}
    assert body == {"model": "smollm2.gguf", "stream": True, **expected}


async def test_trips_share_a_connection_and_concurrent_ones_share_a_client() -> None:
    async with at_the_table(["One.", "Two.", Interrupted(LINE, 4, "hang"), "Four."]) as (model, server):
        await ask(model)
        await ask(model)
        async with model.stream(HELLO) as slow:
            await anext(slow)
            _, other = await ask(model)
        assert other.text == "Four."
    assert [request.connection for request in server.requests] == [0, 0, 0, 1]


async def test_kinds_of_events_blocks_and_deltas_of_the_future_are_passed_over() -> None:
    future = (
        sse("weather", sky="clear")
        + sse("content_block_start", index=7, content_block={"type": "hologram"})
        + sse("content_block_delta", index=7, delta={"type": "hologram_delta", "light": 1})
        + sse("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}})
        + sse("content_block_stop", index=7)
    )
    async with at_the_table([Interrupted(LINE, 4, "hang", extra=future)]) as (model, server):
        server.release()
        _, answer = await ask(model)
    assert answer.parts == (Text(text=str(LINE.content)),)


async def test_importing_the_provider_does_not_import_the_sdk() -> None:
    assert (
        await run_python("import sys, convive.agents.models._anthropic\nprint('anthropic' in sys.modules)") == "False"
    )


def _marked(request: Request) -> list[str]:
    """The texts that a cache breakpoint follows."""
    body: Any = request_body(request, "claude-test")
    blocks = [*body.get("tools", []), *body.get("system", []), *(b for m in body["messages"] for b in m["content"])]
    return [block.get("text") or block["name"] for block in blocks if "cache_control" in block]


async def test_the_next_request_marks_what_the_one_before_it_marked_last() -> None:
    """G92: the conversation so far stays in the cache"""
    first = (user("Soup?"),)
    second = (*first, assistant("Please."), user("Bread?"))
    third = (*second, assistant("No."), user("Wine?"))
    assert _marked(Request("You are Ada.", first)) == ["You are Ada.", "Soup?"]
    assert _marked(Request("You are Ada.", second)) == ["You are Ada.", "Soup?", "Bread?"]
    assert _marked(Request("You are Ada.", third)) == ["You are Ada.", "Bread?", "Wine?"]


async def test_instructions_for_one_request_alone_stand_behind_the_last_breakpoint() -> None:
    """G92: what the history will not keep is not cached"""
    cue = Message(role="user", parts=(Text(text="Plato: Bread?"), Text(text="(It is your turn.)")))
    assert _marked(Request("You are Ada.", (user("Soup?"), assistant("Please."), cue)))[-1] == "Plato: Bread?"


async def test_without_a_system_prompt_the_tools_are_the_stable_beginning() -> None:
    """G92"""
    tools = tuple(ToolSpec(name, "", {"type": "object"}) for name in ("cellar", "kitchen"))
    assert _marked(Request("", (user("Soup?"),), tools)) == ["kitchen", "Soup?"]


async def test_what_the_api_refuses_is_left_out() -> None:
    parts = (Thinking(thinking="of another provider"), Text(text=" "), Text(text=""))
    body: Any = request_body(
        Request(" ", (user("Hi."), Message(role="assistant", parts=parts), user("?"))), "claude-test"
    )
    assert [message["role"] for message in body["messages"]] == ["user", "user"]
    assert "system" not in body


async def test_redacted_thinking_goes_back_as_it_came() -> None:
    block = sse("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "b3BhcXVl"})
    async with at_the_table([Interrupted(LINE, 4, "hang", extra=block)]) as (model, server):
        server.release()
        _, answer = await ask(model)
    history = (user("Hi."), Message(role="assistant", parts=(*answer.parts, Text(text="So."))), user("?"))
    body: Any = request_body(Request("", history), "claude-test")
    assert body["messages"][1]["content"][1] == {"type": "redacted_thinking", "data": "b3BhcXVl"}


async def test_a_call_cut_off_before_its_arguments_has_none_that_could_be_run() -> None:
    start = sse("content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}})
    end = sse("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 1}) + sse("message_stop")
    async with at_the_table([Interrupted(LINE, 1, "end", extra=start + end)]) as (model, _):
        _, answer = await ask(model)
    assert answer.stop_reason == "length"
    assert answer.parts == (ToolUse(id="t", name="f", arguments=""),)


# What a loop leaves open when it ends, nobody can close any more.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_model_serves_one_event_loop_after_the_other() -> None:
    """An agent at the top of a script that calls `anyio.run` twice, or of a test module: each has a loop of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(MessagesServer(["One.", "Two.", "Three."])) as server,
    ):
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key=KEY, max_retries=0)

        async def once(last: bool) -> str:
            _, answer = await ask(model)
            if last:
                await model.aclose()
            return answer.text

        assert [anyio.run(once, last) for last in (False, False, True)] == ["One.", "Two.", "Three."]
        gc.collect()
