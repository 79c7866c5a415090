"""The Anthropic provider against a local server that speaks the Messages streaming protocol."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from convive.agents._anthropic import AnthropicModel
from convive.agents._anthropic_wire import request_body
from convive.agents._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents._messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from convive.agents._messages_server import Interrupted, MessagesServer, Refused, Reply, Streamed, sse
from convive.agents._model import Answer, Request, Sampling, StopReason, TextDelta, ThinkingDelta, ToolSpec, Usage

pytestmark = pytest.mark.anyio

KEY = "sk-ant-a-key-that-nobody-may-see"
HELLO = Request(system="You are Ada.", messages=(user("Good evening."),))
LINE = Streamed("I carry the candle, and you carry the book.")
Item = TextDelta | ThinkingDelta | Answer


@asynccontextmanager
async def at_the_table(
    replies: Sequence[Reply], *, max_retries: int = 0, timeout_s: float = 30
) -> AsyncGenerator[tuple[AnthropicModel, MessagesServer]]:
    async with MessagesServer(replies) as server:
        model = AnthropicModel(
            "anthropic/claude-test",
            base_url=server.url,
            api_key=KEY,
            max_retries=max_retries,
            timeout_s=timeout_s,
        )
        try:
            with anyio.fail_after(20):
                yield model, server
        finally:
            await model.aclose()


async def ask(model: AnthropicModel, request: Request = HELLO) -> tuple[list[Item], Answer]:
    """The deltas, and the answer that ended them."""
    async with model.stream(request) as stream:
        *deltas, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    assert not any(isinstance(delta, Answer) for delta in deltas)
    return deltas, answer


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
        _, answer = await ask(model)
    assert answer.parts == calls
    assert answer.stop_reason == "tool_use"


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


async def test_429_is_asked_again_after_the_time_the_server_names() -> None:
    refusals = [Refused(429, headers={"retry-after": "0.2"}), Refused(529, headers={"retry-after-ms": "1"})]
    async with at_the_table([*refusals, "At last."], max_retries=2) as (model, server):
        _, answer = await ask(model)
    assert answer.text == "At last."
    first, second, _ = server.requests
    assert second.at_s - first.at_s >= 0.2


@pytest.mark.parametrize("status", [429, 529, 500, 503])
async def test_overload_that_stays_is_an_overload_after_the_retries(status: int) -> None:
    refused = Refused(status, "come back later", {"retry-after-ms": "1"})
    async with at_the_table([refused] * 3, max_retries=2) as (model, server):
        with pytest.raises(ModelOverloaded, match=rf"{status}: come back later\. No answer was kept"):
            await ask(model)
    assert len(server.requests) == 3
    assert ModelOverloaded.transient


def at(seconds: float) -> str:
    """A date as HTTP writes it, that far from now."""
    return formatdate(time.time() + seconds, usegmt=True)


TOO_LONG: dict[str, dict[str, str]] = {
    "seconds": {"retry-after": "3600"},
    "endless": {"retry-after": "inf"},
    "a date": {"retry-after": at(3600)},
    "a date beyond the calendar": {"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"},
    "milliseconds": {"retry-after-ms": "3600000"},
    "milliseconds go first": {"retry-after-ms": "3600000", "retry-after": "0.01"},
    "seconds behind no number": {"retry-after-ms": "soon", "retry-after": "3600"},
    "seconds and an order": {"retry-after": "3600", "x-should-retry": "true"},
}


@pytest.mark.parametrize("headers", TOO_LONG.values(), ids=TOO_LONG.keys())
async def test_a_wait_beyond_a_minute_is_left_to_the_caller(headers: dict[str, str]) -> None:
    async with at_the_table([Refused(429, headers=headers)], max_retries=5) as (model, server):
        with pytest.raises(ModelOverloaded), anyio.fail_after(5):
            await ask(model)
    assert len(server.requests) == 1


SHORT: dict[str, dict[str, str]] = {
    "milliseconds go first": {"retry-after-ms": "1", "retry-after": "3600"},
    "no number of milliseconds": {"retry-after-ms": "nan", "retry-after": "3600"},
    "a date that has been": {"retry-after": at(-3600)},
    "no date": {"retry-after": "when the cows come home"},
}


@pytest.mark.parametrize("headers", SHORT.values(), ids=SHORT.keys())
async def test_a_wait_that_is_short_or_none_is_followed_by_another_try(headers: dict[str, str]) -> None:
    async with at_the_table([Refused(429, headers=headers), "At last."], max_retries=1) as (model, _):
        assert (await ask(model))[1].text == "At last."


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadModelRequest),
        (401, ModelAccessDenied),
        (402, ModelAccessDenied),
        (403, ModelAccessDenied),
        (404, UnknownModel),
        (413, BadModelRequest),
        (422, BadModelRequest),
    ],
)
async def test_a_refusal_that_will_not_change_is_not_retried(status: int, expected: type[ModelError]) -> None:
    async with at_the_table([Refused(status, "because")], max_retries=5) as (model, server):
        with pytest.raises(expected, match=rf"^anthropic/claude-test: .*{status}: because\. Nothing was gen") as info:
            await ask(model)
    assert len(server.requests) == 1
    assert not info.value.transient


BREAKS: dict[str, Reply] = {
    "cut": Interrupted(LINE, 6, "cut"),
    "cut inside an event": Interrupted(LINE, 6, "cut", extra=b"event: content_block_delta\ndata: {"),
    "no message_stop": Interrupted(LINE, 6, "end"),
    "nothing at all": Interrupted(LINE, 0, "end"),
    "not JSON": Interrupted(LINE, 6, "end", extra=b"event: content_block_delta\ndata: {nope\n\n"),
    "not UTF-8": Interrupted(LINE, 6, "end", extra=b"event: content_block_delta\ndata: \xff\xfe\n\n"),
    "not an object": Interrupted(LINE, 6, "end", extra=b"event: ping\ndata: 7\n\n"),
    "no text": Interrupted(LINE, 6, "end", extra=sse("content_block_delta", index=0, delta={"type": "text_delta"})),
    "no such block": Interrupted(
        LINE, 6, "end", extra=sse("content_block_delta", index=9, delta={"type": "text_delta", "text": "?"})
    ),
    "a call without a name": Interrupted(
        LINE, 6, "end", extra=sse("content_block_start", index=1, content_block={"type": "tool_use", "id": "t"})
    ),
    "api_error": Interrupted(LINE, 6, "end", extra=sse("error", error={"type": "api_error", "message": "oh"})),
}


@pytest.mark.parametrize("reply", BREAKS.values(), ids=BREAKS.keys())
async def test_an_answer_that_breaks_off_is_void_and_not_asked_for_again(reply: Reply) -> None:
    async with at_the_table([reply], max_retries=5) as (model, server):
        with pytest.raises(ModelAnswerBroken, match=r"What had arrived of it is void\. Asking again is safe\."):
            await ask(model)
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", range(1, 12))
async def test_no_beginning_of_a_stream_passes_for_an_answer(after: int) -> None:
    async with at_the_table([Interrupted(Streamed("I carry the candle."), after, "end")]) as (model, _):
        if after < 9:
            with pytest.raises(ModelAnswerBroken):
                await ask(model)
        else:
            assert (await ask(model))[1].text == "I carry the candle."


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", ModelOverloaded),
        ("rate_limit_error", ModelOverloaded),
        ("authentication_error", ModelAccessDenied),
        ("invalid_request_error", BadModelRequest),
    ],
)
async def test_an_error_event_in_mid_stream_says_what_it_is(kind: str, expected: type[ModelError]) -> None:
    error = sse("error", error={"type": kind, "message": "so sorry"})
    async with at_the_table([Interrupted(LINE, 6, "end", extra=error)]) as (model, _):
        with pytest.raises(expected, match=f"{kind}: so sorry"):
            await ask(model)


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


async def test_silence_before_the_answer_means_unreachable_and_in_it_a_broken_answer() -> None:
    replies = [Interrupted(LINE, 0, "hang"), Interrupted(LINE, 6, "hang")]
    async with at_the_table(replies, timeout_s=0.3) as (model, _):
        with pytest.raises(ModelUnreachable, match=r"no answer within 0\.3 s"):
            await ask(model)
        with pytest.raises(ModelAnswerBroken, match=r"nothing came for 0\.3 s"):
            await ask(model)


async def test_no_server_is_unreachable_and_the_text_names_it() -> None:
    async with MessagesServer([]) as server:
        url = server.url
    model = AnthropicModel("anthropic/claude-test", base_url=url, api_key=KEY, max_retries=0)
    with pytest.raises(ModelUnreachable, match=rf"no connection to {url.removeprefix('http://')} .*ANTHROPIC_BASE_URL"):
        await ask(model)
    await model.aclose()


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://127.0.0.1:port", "claude"])
async def test_a_base_url_that_is_none_is_unreachable_at_once(url: str) -> None:
    model = AnthropicModel("anthropic/claude-test", base_url=url, api_key=KEY)
    with pytest.raises(ModelUnreachable, match="base URL"):
        await ask(model)
    await model.aclose()


async def test_the_key_is_in_no_text_and_no_repr_even_when_the_provider_echoes_it() -> None:
    async with at_the_table([Refused(401, f"invalid key: {KEY}")]) as (model, _):
        with pytest.raises(ModelAccessDenied) as info:
            await ask(model)
        assert KEY not in repr(model)
    assert "invalid key: [the key]" in str(info.value)
    assert KEY not in "".join(traceback.format_exception(info.value))


@pytest.mark.parametrize("key", [KEY + "\n", "sk ant", "sk-änt"])
async def test_a_key_that_cannot_be_one_is_refused_before_it_is_sent(key: str) -> None:
    async with MessagesServer([]) as server:
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key=key)
        with pytest.raises(ModelAccessDenied, match="characters that no key has") as info:
            await ask(model)
        await model.aclose()
    assert key not in str(info.value)
    assert not server.requests


async def _cancelled(model: AnthropicModel, until: Callable[[], Any]) -> None:
    """Ask in a task, and cancel it once `until` is over."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, model)
        await until()
        tasks.cancel_scope.cancel()


async def test_cancelling_before_the_answer_begins_aborts_the_request() -> None:
    async with at_the_table([Interrupted(LINE, 0, "hang"), "Next."]) as (model, server):
        await _cancelled(model, partial(server.asked, 1))
        await server.requests[0].hung_up.wait()
        assert (await ask(model))[1].text == "Next."


async def test_cancelling_in_mid_stream_aborts_the_request() -> None:
    begun = anyio.Event()

    async def read(model: AnthropicModel) -> None:
        async with model.stream(HELLO) as stream:
            async for _ in stream:
                begun.set()

    async with at_the_table([Interrupted(LINE, 6, "hang"), "Next."]) as (model, server):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, model)
            await begun.wait()
            tasks.cancel_scope.cancel()
        await server.requests[0].hung_up.wait()
        assert (await ask(model))[1].text == "Next."


async def test_cancelling_between_two_tries_sends_no_second_one() -> None:
    async with at_the_table([Refused(429, headers={"retry-after": "50"})], max_retries=3) as (model, server):
        await _cancelled(model, partial(server.asked, 1))
    assert len(server.requests) == 1


async def test_leaving_the_stream_early_aborts_the_request() -> None:
    async with at_the_table([Interrupted(LINE, 6, "hang"), "Next."]) as (model, server):
        async with model.stream(HELLO) as stream:
            await anext(stream)
        await server.requests[0].hung_up.wait()
        assert (await ask(model))[1].text == "Next."


async def test_an_exception_of_the_reader_passes_through_and_aborts_the_request() -> None:
    async def read(model: AnthropicModel) -> None:
        async with model.stream(HELLO) as stream:
            await anext(stream)
            b"\xff".decode()

    async with at_the_table([Interrupted(LINE, 6, "hang")]) as (model, server):
        with pytest.raises(UnicodeDecodeError):  # one that the provider would translate if it were its own
            await read(model)
        await server.requests[0].hung_up.wait()


async def test_a_closed_model_does_not_open_again() -> None:
    async with at_the_table(["Yes."]) as (model, _):
        await ask(model)
        await model.aclose()
        await model.aclose()
        with pytest.raises(RuntimeError, match="was closed"):
            await ask(model)


_ASK = """
import anyio
from convive.agents._anthropic import AnthropicModel
from convive.agents._errors import ModelError
from convive.agents._messages import user
from convive.agents._model import Answer, Request

async def main():
    model = AnthropicModel("anthropic/claude-test")
    try:
        async with model.stream(Request("", (user("Hi."),))) as stream:
            print([item.text async for item in stream if isinstance(item, Answer)])
    except ModelError as error:
        print(type(error).__name__, error)
    await model.aclose()

anyio.run(main)
"""


async def _run(script: str, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    command = [sys.executable, "-W", "error", "-c", script]
    run = partial(subprocess.run, command, env=inherited | env, capture_output=True, text=True, timeout=60)
    done = await anyio.to_thread.run_sync(run)
    assert done.stderr == ""
    return done.stdout.strip()


async def test_the_sdk_takes_key_and_url_from_the_environment_and_no_proxy_for_this_machine() -> None:
    async with MessagesServer(["From the environment."]) as server:
        env = {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY, "HTTP_PROXY": "http://127.0.0.1:9"}
        assert await _run(_ASK, **env) == "['From the environment.']"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [{}, {"ANTHROPIC_API_KEY": ""}], ids=["absent", "empty"])
async def test_no_key_anywhere_is_said_before_anything_is_sent(
    key: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    async with MessagesServer([]) as server:
        said = await _run(_ASK, ANTHROPIC_BASE_URL=server.url, HOME=home, **key)
    assert said.startswith("ModelAccessDenied anthropic/claude-test: there is no key. Nothing was generated.")
    assert not server.requests


async def test_importing_the_provider_does_not_import_the_sdk() -> None:
    assert await _run("import sys, convive.agents._anthropic\nprint('anthropic' in sys.modules)") == "False"


def _marked(request: Request) -> list[str]:
    """The texts that a cache breakpoint follows."""
    body: Any = request_body(request, "claude-test")
    blocks = [*body.get("tools", []), *body.get("system", []), *(b for m in body["messages"] for b in m["content"])]
    return [block.get("text") or block["name"] for block in blocks if "cache_control" in block]


async def test_the_next_request_marks_what_the_one_before_it_marked_last() -> None:
    first = (user("Soup?"),)
    second = (*first, assistant("Please."), user("Bread?"))
    third = (*second, assistant("No."), user("Wine?"))
    assert _marked(Request("You are Ada.", first)) == ["You are Ada.", "Soup?"]
    assert _marked(Request("You are Ada.", second)) == ["You are Ada.", "Soup?", "Bread?"]
    assert _marked(Request("You are Ada.", third)) == ["You are Ada.", "Bread?", "Wine?"]


async def test_instructions_for_one_request_alone_stand_behind_the_last_breakpoint() -> None:
    cue = Message(role="user", parts=(Text(text="Plato: Bread?"), Text(text="(It is your turn.)")))
    assert _marked(Request("You are Ada.", (user("Soup?"), assistant("Please."), cue)))[-1] == "Plato: Bread?"


async def test_without_a_system_prompt_the_tools_are_the_stable_beginning() -> None:
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
