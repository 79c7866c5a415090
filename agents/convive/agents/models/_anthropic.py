"""`anthropic/...`: a model behind any endpoint of the Anthropic Messages API, through the official SDK."""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from pydantic import JsonValue

from convive.agents.models._anthropic_output import can_hold, output_config
from convive.agents.models._anthropic_wire import AnswerFold, MalformedEvent, ProviderSaid, request_body
from convive.agents.models._errors import (
    BadModelRequest,
    ModelAccessDenied,
    ModelAnswerBroken,
    ModelError,
    ModelOverloaded,
    ModelUnreachable,
    UnknownModel,
)
from convive.agents.models._model import Answer, Delta, Request
from convive.agents.models._schema import schema_in_words

# The SDK takes about a second to import, on each start of the command line; `replay` and `ls` never need it.
if TYPE_CHECKING:
    import anthropic
    from anthropic import AsyncCallNext
    from anthropic.types import MessageParam

_LOOKED_UP = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL")
_Where = tuple[asyncio.AbstractEventLoop, str | None, str | None, str | None]
_CONNECT_TIMEOUT_S = 10.0
# The SDK sleeps as long as the provider says, for weeks if need be. Beyond this the caller should decide.
_LONGEST_RETRY_AFTER_S = 60.0
# How long the end of the body may follow the end of the answer. A body read to its end frees the connection
# for the next trip.
_DRAIN_S = 0.5
_SHORTEST_KEY = 8
_LONGEST_REASON = 400
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")

_BY_STATUS: dict[int, type[ModelError]] = {
    401: ModelAccessDenied,
    402: ModelAccessDenied,
    403: ModelAccessDenied,
    404: UnknownModel,
    408: ModelOverloaded,
    409: ModelOverloaded,
    429: ModelOverloaded,
}
_BY_KIND: dict[str, type[ModelError]] = {
    "authentication_error": ModelAccessDenied,
    "billing_error": ModelAccessDenied,
    "permission_error": ModelAccessDenied,
    "not_found_error": UnknownModel,
    "invalid_request_error": BadModelRequest,
    "request_too_large": BadModelRequest,
    "rate_limit_error": ModelOverloaded,
    "overloaded_error": ModelOverloaded,
}
_NEXT: dict[type[ModelError], str] = {
    ModelAccessDenied: "Nothing was generated. Check ANTHROPIC_API_KEY or choose another model.",
    UnknownModel: "Nothing was generated. Check the model's name and ANTHROPIC_BASE_URL.",
    BadModelRequest: "Nothing was generated. The same request will be refused again: change it first.",
    ModelOverloaded: "No answer was kept. Asking again later is safe.",
    ModelUnreachable: "No answer was kept. Check the network and ANTHROPIC_BASE_URL, then ask again.",
    ModelAnswerBroken: "What had arrived of it is void. Asking again is safe.",
}


class AnthropicModel:
    """A model behind the Messages API. One HTTP client for each event loop (and each key that the environment comes to
    have), made at its first request there, and closed by `aclose` there.

    `name` is what people see (`provider/model`); `model` is what is sent, by default the part of `name` after
    its first slash. Without `base_url` and `api_key` the SDK looks them up: ANTHROPIC_BASE_URL,
    ANTHROPIC_API_KEY and its other sources. `extra_body` is merged into each request's JSON and wins over it.
    The SDK retries `max_retries` times before a stream starts, never afterwards; `timeout_s` is the longest
    silence of the provider. `structured_output`: whether the endpoint holds answers to a schema; by default if the
    model is one of Claude's. A schema that it cannot express (free keys, free values, recursion) is said in words.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        extra_body: Mapping[str, JsonValue] | None = None,
        max_retries: int = 3,
        timeout_s: float = 120.0,
        structured_output: bool | None = None,
    ) -> None:
        self._name = name
        self._model = name.partition("/")[2] if model is None else model
        self._base_url = base_url
        self._api_key = api_key
        self._extra_body = dict(extra_body or {})
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self.structured_output = "claude" in self._model if structured_output is None else structured_output
        self._clients: dict[_Where, anthropic.AsyncAnthropic] = {}
        self._closed = False
        self._secrets: set[str] = set()

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"AnthropicModel({self._name!r})"

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Delta | Answer]]:
        """Ask, as `Model.stream` says.

        Entering raises ModelAccessDenied (no key, or refused), UnknownModel, BadModelRequest, ModelOverloaded
        or ModelUnreachable. Iterating raises ModelAnswerBroken when the answer breaks off or cannot be read,
        and any of the others when the provider says so in mid-stream. Raises RuntimeError after `aclose`.
        """
        schema = request.output_schema
        held = schema is not None and can_hold(schema)
        if schema is not None and not held:
            request = replace(request, system=f"{request.system}\n\n{schema_in_words(schema)}".lstrip())
        body = request_body(request, self._model, self._name.partition("/")[0]) | self._extra_body
        client = await self._ready_client()
        if schema is not None and held:
            also = body.get("output_config")
            body["output_config"] = output_config(schema) | (also if isinstance(also, dict) else {})
        async with AsyncExitStack() as stack:
            with self._translated():
                response = await stack.enter_async_context(
                    client.messages.with_streaming_response.create(
                        model=str(body.pop("model")),
                        max_tokens=cast("int", body.pop("max_tokens")),
                        messages=cast("Iterable[MessageParam]", body.pop("messages")),
                        stream=True,
                        extra_body=body,
                    )
                )
            yield await stack.enter_async_context(aclosing(self._items(response)))

    async def check(self) -> None:
        """Raises ModelAccessDenied when there is no key, ModelUnreachable for an impossible URL. Asks nobody."""
        await self._ready_client()

    async def aclose(self) -> None:
        """Close the HTTP client. Streams that are still open break; closing again does nothing."""
        self._closed = True
        loop = asyncio.get_running_loop()
        closing = [self._clients.pop(where) for where in list(self._clients) if where[0] is loop]
        for client in closing:
            await client.close()

    async def _items(self, response: "anthropic.AsyncAPIResponse[Any]") -> AsyncGenerator[Delta | Answer]:
        from anthropic import AsyncStream

        fold = AnswerFold()
        answer: Answer | None = None
        events = AsyncStream.raw_events(response.http_response)
        with self._translated():
            while answer is None:
                event = await anext(events, None)
                if event is None:
                    raise MalformedEvent("the stream ended without message_stop")
                item = fold.push(event.data) if event.data else None
                answer = item if isinstance(item, Answer) else None
                if item is not None:
                    yield item
        with anyio.move_on_after(_DRAIN_S), suppress(ModelError), self._translated():
            async for _ in events:
                pass

    async def _ready_client(self) -> "anthropic.AsyncAnthropic":
        key, token, url = map(os.environ.get, _LOOKED_UP)
        where = asyncio.get_running_loop(), key, token, url
        if where not in self._clients:
            # In a thread: the connection to the bus has heartbeats to answer while this takes its second.
            await anyio.to_thread.run_sync(importlib.import_module, "anthropic")
        if self._closed:
            raise RuntimeError(f"{self._name} was closed; resolve the model again")
        if where not in self._clients:
            # What belongs to a loop that is over can neither be used nor closed.
            self._clients = {each: client for each, client in self._clients.items() if not each[0].is_closed()}
            self._clients[where] = self._new_client()
        return self._clients[where]

    def _new_client(self) -> "anthropic.AsyncAnthropic":
        import anthropic

        with self._translated():
            client = anthropic.AsyncAnthropic(
                api_key=self._api_key,
                base_url=self._base_url,
                max_retries=self._max_retries,
                timeout=anthropic.Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_TIMEOUT_S)),
                middleware=[_give_up_on_long_waits],
                # A proxy of the environment is for the network; a server on this machine is not behind it.
                http_client=anthropic.DefaultAsyncHttpxClient(mounts=dict.fromkeys(_LOOPBACK)),
            )
        if client.base_url.scheme not in ("http", "https"):
            raise self._error(ModelUnreachable, "the base URL must start with http:// or https://")
        secret = client.api_key or client.auth_token or ""
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise self._error(ModelAccessDenied, "the key holds characters that no key has (a space or a line break?)")
        if not secret and client.credentials is None and not _has_key(client.default_headers):
            raise self._error(ModelAccessDenied, "there is no key")
        # What is this short is a placeholder, and taking it out of texts would garble them.
        self._secrets |= {secret} if len(secret) >= _SHORTEST_KEY else set()
        return client

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Raise as a ModelError what the SDK, its transport and the wire format raise."""
        import anthropic
        import httpx2  # while a body is read, the SDK lets the errors of its transport through

        try:
            yield
        except (
            anthropic.AnthropicError,
            httpx2.HTTPError,
            httpx2.StreamError,
            httpx2.InvalidURL,
            MalformedEvent,
            ProviderSaid,
            UnicodeDecodeError,
        ) as error:
            kind, why = _what_happened(error, self._timeout_s)
            # A provider may echo the key that it refuses; then the original must not be shown either.
            echoed = any(secret in str(error) for secret in self._secrets)
            raise self._error(kind, why) from (None if echoed else error)

    def _error(self, kind: type[ModelError], why: str) -> ModelError:
        text = " ".join(why.split())
        for secret in self._secrets:
            text = text.replace(secret, "[the key]")
        if len(text) > _LONGEST_REASON:
            text = text[:_LONGEST_REASON] + "..."
        return kind(f"{self._name}: {text.rstrip('.')}. {_NEXT[kind]}")


def _what_happened(error: Exception, timeout_s: float) -> tuple[type[ModelError], str]:
    import anthropic
    import httpx2

    match error:
        case anthropic.APIStatusError():
            # A status that the table lacks is the server's fault from 500 on, else the request's.
            other = ModelOverloaded if error.status_code >= 500 else BadModelRequest
            kind = _BY_STATUS.get(error.status_code, other)
            return kind, f"the provider answered {error.status_code}: {error.api_message or error.message}"
        case anthropic.APITimeoutError():
            return ModelUnreachable, f"no answer within {timeout_s:g} s"
        case anthropic.APIConnectionError():
            where = error.request.url.netloc.decode("ascii", "replace")
            return ModelUnreachable, f"no connection to {where} ({error.__cause__ or error})"
        case anthropic.APIError():
            return ModelAnswerBroken, f"the answer cannot be read: {error.message}"
        case ProviderSaid():
            return _BY_KIND.get(error.kind, ModelAnswerBroken), f"the provider broke off the answer: {error}"
        case MalformedEvent() | UnicodeDecodeError():
            return ModelAnswerBroken, f"the answer cannot be read: {error}"
        case httpx2.InvalidURL():
            return ModelUnreachable, f"the base URL is not a URL: {error}"
        case httpx2.TimeoutException():
            return ModelAnswerBroken, f"the answer broke off: nothing came for {timeout_s:g} s"
        case httpx2.HTTPError() | httpx2.StreamError():
            return ModelAnswerBroken, f"the answer broke off: {error}"
        case _:
            return ModelAccessDenied, f"the credentials cannot be used: {error}"


def _has_key(headers: Mapping[str, object]) -> bool:
    # Set in ANTHROPIC_CUSTOM_HEADERS; from an empty key the SDK makes a bare "Bearer".
    sent = {name.lower(): str(value).removeprefix("Bearer").strip() for name, value in headers.items()}
    return bool(sent.get("authorization") or sent.get("x-api-key"))


async def _give_up_on_long_waits(
    request: "anthropic.APIRequest", call_next: "AsyncCallNext"
) -> "anthropic.AsyncAPIResponse[Any]":
    response = await call_next(request)
    if _named_wait_s(response.headers, time.time()) > _LONGEST_RETRY_AFTER_S:
        response.http_response.headers["x-should-retry"] = "false"
    return response


def _named_wait_s(headers: Mapping[str, str], now: float) -> float:
    """How long the SDK would sleep because of these headers, found as it finds it; 0 when they name no wait.

    `retry-after-ms` goes before `retry-after`, which is a number of seconds or a date.
    """
    named = headers.get("retry-after", "")
    for text, unit_s in ((headers.get("retry-after-ms", ""), 0.001), (named, 1.0)):
        with suppress(ValueError):
            return float(text) * unit_s
    date = parsedate_tz(named)
    if date is None:
        return 0.0
    try:
        return mktime_tz(date) - now
    except (ValueError, OverflowError):
        return float("inf")  # no calendar goes that far, and the SDK would fail over it
