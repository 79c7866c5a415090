"""What goes wrong at a provider, keys, and requests that are called off."""

import time
import traceback
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

import anyio
import pytest

from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents.models._messages_server import Interrupted, MessagesServer, Refused, Reply, Streamed, sse
from tests.agents.provider import HELLO, KEY, LINE, ask, at_the_table, run_python

pytestmark = pytest.mark.anyio


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
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._errors import ModelError
from convive.agents.models._messages import user
from convive.agents.models._model import Answer, Request

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


async def test_the_sdk_takes_key_and_url_from_the_environment_and_no_proxy_for_this_machine() -> None:
    async with MessagesServer(["From the environment."]) as server:
        env = {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY, "HTTP_PROXY": "http://127.0.0.1:9"}
        assert await run_python(_ASK, **env) == "['From the environment.']"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [{}, {"ANTHROPIC_API_KEY": ""}], ids=["absent", "empty"])
async def test_no_key_anywhere_is_said_before_anything_is_sent(
    key: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    async with MessagesServer([]) as server:
        said = await run_python(_ASK, ANTHROPIC_BASE_URL=server.url, HOME=home, **key)
    assert said.startswith("ModelAccessDenied anthropic/claude-test: there is no key. Nothing was generated.")
    assert not server.requests
